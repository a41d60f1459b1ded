"""Run a pipeline on this machine, or submit it to a cluster, watch the run and fetch its results."""

from __future__ import annotations

if __name__ == "__main__":  # the imports below take a while
    from components.catlib.exits import quiet_ctrl_c

    quiet_ctrl_c()

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.catlib.artifacts import replacing
from components.catlib.credentials import refuse_in_arguments
from components.catlib.disk import writing_to
from components.catlib.errors import UserError
from components.catlib.exits import EXIT_CTRL_C, EXIT_INTERRUPTED, Parser, answer, exit_code, leave, note
from components.catlib.recipes import load_recipe, read_yaml, recipe_names
from components.catlib.storage.settings import read_secret
from components.kubeflow import DEFAULT_IMAGE
from components.stages import TRAININGS
from pipelines import api, collecting
from pipelines.failure import RunFailed

if TYPE_CHECKING:
    from pipelines.cluster import Connection

PIPELINE_HELP = {
    "compress": "train a teacher and make a student per budget (the default)",
    "distill-only": "make students of an earlier or a published teacher (--argument teacher=ADDRESS)",
    "evaluate-only": "score earlier models (--argument students=[ADDRESS, …], optionally --argument teacher=ADDRESS)",
    "sweep": "train a teacher and make a student per budget, variation and seed of the recipe's section `sweep`",
}

ETCD_BYTES = 1_500_000
"""The largest object that Kubernetes stores."""


Answer = tuple[str, dict[str, object]]
"""Answer of a command: lines to print, and the same facts for `--json`."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 2 the user's mistake, 75 interrupted, 1 anything else."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        refuse_in_arguments(arguments)
    except UserError as error:
        note(f"error: {error}")
        return error.exit_code
    options = _parser().parse_args(arguments)

    failed = False

    def command() -> None:
        nonlocal failed
        text, details = options.command(options)
        failed = bool(details.get("failed"))
        if options.json:
            answer(json.dumps(details))
        elif text:
            answer(text)

    sentence, code = _interruption(options)
    try:
        return exit_code(command, interrupted=sentence, code=code) or int(failed)
    except RunFailed as failure:
        note(f"failed: {failure}")
        return 1


def _interruption(options: argparse.Namespace) -> tuple[str, int]:
    """Returns the sentence and the exit code of a command that a signal ended, unless it says better itself."""
    if options.command is _run:
        return "run the same command again; finished stages come from the cache", EXIT_INTERRUPTED
    if options.command is _submit:
        return "if the run was created, it goes on; look with: python -m pipelines status", EXIT_INTERRUPTED
    if options.command is _fetch:
        return "run the same command again", EXIT_INTERRUPTED
    if options.command in (_status, _logs):
        return "the run goes on", EXIT_CTRL_C
    return "the command did not finish", EXIT_CTRL_C


# ------------------------------------------------------------------------------------------------------------- recipes


def _recipes(options: argparse.Namespace) -> Answer:
    listing = {name: load_recipe(name).description for name in recipe_names()}
    width = max(map(len, listing), default=0)
    lines = [f"{name:{width}}  {description}" for name, description in listing.items()]
    return "\n".join(lines), {"recipes": listing}


def _validate(options: argparse.Namespace) -> Answer:
    compiled = api.compile_recipe(options.recipe, pin=False, **_choices(options))
    recipe = load_recipe(options.recipe, options.set, options.budget)
    api.check_arguments(compiled, recipe, _arguments(options))
    size = len(compiled.text.encode())
    share = 100 * size / ETCD_BYTES
    text = f"{options.pipeline} with {options.recipe}: valid, {size} bytes, {share:.0f} % of a cluster's limit"
    return text, {"pipeline": options.pipeline, "recipe": options.recipe, "bytes": size}


def _compile(options: argparse.Namespace) -> Answer:
    if options.output.suffix not in (".yaml", ".yml"):
        raise UserError(f"--output {options.output} must end in .yaml or .yml.")
    compiled = api.compile_recipe(options.recipe, **_choices(options))
    _write(options.output, compiled.text)
    return str(options.output), {"output": str(options.output)}


def _write(path: Path, text: str) -> None:
    """Writes a file, its folder included; raises UserError where that is not possible."""
    with writing_to(path, what=f"--output {path}", need=len(text.encode())):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")


def _choices(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "pipeline": options.pipeline,
        "overrides": options.set or (),
        "budgets": options.budget,
        "image": options.image,
    }


def _arguments(options: argparse.Namespace, flag: str = "--argument") -> dict[str, Any]:
    """Reads the NAME=VALUE texts of an option; VALUE is YAML."""
    arguments = {}
    for text in getattr(options, flag.removeprefix("--")) or []:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"{flag} {text!r} is not of the form NAME=VALUE, for example teacher=s3://bucket/run.")
        arguments[name] = read_yaml(value, where=f"The value in {flag} {text!r}")
    return arguments


# ---------------------------------------------------------------------------------------------------------------- here


def _run(options: argparse.Namespace) -> Answer:
    choices = _choices(options)
    if options.runner != "docker":
        choices["image"] = None
    result = api.run(
        options.recipe,
        arguments=_arguments(options),
        output=options.output,
        workspace=options.workspace,
        **choices,
    )
    report = result.output / "report.html"
    note(f"{len(result.executed)} stages ran, {len(result.cached)} came from the cache, {result.seconds:.0f} s in all")
    return f"Report: {report}", {
        "report": str(report),
        "output": str(result.output),
        "executed": result.executed,
        "cached": result.cached,
        "seconds": round(result.seconds, 1),
    }


# -------------------------------------------------------------------------------------------------------- on a cluster


def _submit(options: argparse.Namespace) -> Answer:
    submitted = api.submit(
        options.recipe,
        connection=_connection(options),
        arguments=_arguments(options),
        experiment=options.experiment,
        root=options.root,
        service_account=options.service_account,
        **_choices(options),
    )
    facts: dict[str, object] = {"run_id": submitted.run_id, "link": submitted.link}
    note(f"Run {submitted.run_id}: {submitted.link}")
    if options.wait:
        facts["state"] = submitted.wait().state
    return submitted.run_id, facts


def _upload(options: argparse.Namespace) -> Answer:
    import hashlib

    from pipelines.cluster import Cluster

    compiled = api.compile_recipe(options.recipe, **_choices(options))
    recipe = load_recipe(options.recipe, options.set, options.budget)
    version = f"{recipe.name}-{hashlib.sha256(compiled.text.encode()).hexdigest()[:8]}"
    pipeline_id = Cluster(_connection(options)).upload(
        compiled, name=f"cat-{options.pipeline}", version=version, description=recipe.description
    )
    return f"cat-{options.pipeline}, {version}", {"pipeline_id": pipeline_id, "version": version}


def _status(options: argparse.Namespace) -> Answer:
    from pipelines.cluster import Cluster

    cluster = Cluster(_connection(options))
    if options.run is None:
        runs = cluster.runs()
        lines = [f"{run.run_id}  {run.state.lower():9}  {run.name}" for run in runs]
        details = [{"run_id": run.run_id, "name": run.name, "state": run.state} for run in runs]
        return "\n".join(lines), {"runs": details}
    run = cluster.wait(options.run, say=note) if options.wait else cluster.run(options.run)
    lines = [f"{run.name}: {run.state.lower()}", *(f"  {task.name:22} {task.state.lower()}" for task in run.tasks)]
    tasks = [{"name": task.name, "state": task.state, "pods": list(task.pods)} for task in run.tasks]
    return "\n".join(lines), {"run_id": run.run_id, "name": run.name, "state": run.state, "tasks": tasks}


def _logs(options: argparse.Namespace) -> Answer:
    from pipelines.cluster import Cluster

    lines: list[dict[str, str]] = []
    for task, line in Cluster(_connection(options)).logs(options.run, task=options.task, follow=options.follow):
        if options.json:
            lines.append({"task": task, "line": line})
        else:
            answer(line if options.task else f"{task}: {line}")
    return "", {"lines": lines}


def _fetch(options: argparse.Namespace) -> Answer:
    from pipelines.cluster import Cluster

    folder = Cluster(_connection(options)).fetch(options.run, options.output, root=options.root)
    report = folder / "report.html"
    return f"Report: {report}", {"output": str(folder), "report": str(report)}


def _connection(options: argparse.Namespace) -> Connection:
    from pipelines.cluster import Connection

    token = None
    if options.token_file is not None:
        token = read_secret(options.token_file, "--token-file")
    return Connection(
        host=options.host,
        namespace=options.namespace,
        kubeflow_namespace=options.kubeflow_namespace,
        token=token,
        kube_context=options.kube_context,
        ca_file=options.ca_file,
    )


def _trainjob(options: argparse.Namespace) -> Answer:
    from pipelines.trainjob import training_manifests

    manifests = training_manifests(
        options.stage,
        recipe=options.recipe,
        overrides=options.set or (),
        resources=load_recipe(options.recipe, options.set).resources,
        inputs={name: str(value) for name, value in _arguments(options, "--input").items()},
        output=options.artifact,
        nodes=options.nodes,
        image=options.image,
        namespace=options.namespace,
    )
    _write(options.output, yaml.safe_dump_all(manifests, sort_keys=False))
    return str(options.output), {"output": str(options.output)}


# -------------------------------------------------------------------------------------------------------- command line


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m pipelines", description=__doc__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    recipes = commands.add_parser("recipes", **_described("List the recipes."))
    recipes.set_defaults(command=_recipes)

    _add_command(commands, "validate", "Check a recipe and arguments without running anything.", _validate)

    run = _add_command(commands, "run", "Run a pipeline on this machine.", _run)
    run.add_argument("--output", type=Path, help="folder for the report and the students (default: WORKSPACE/RECIPE)")
    run.add_argument(
        "--workspace", type=Path, default=Path("runs"), help="folder for artifacts, cache and logs (default: runs)"
    )
    run.add_argument(
        "--runner",
        choices=("process", "docker"),
        default="process",
        help="run each stage in a process, or in a container of --image (default: process)",
    )

    compile_ = _add_command(commands, "compile", "Write a pipeline as a file for Kubeflow.", _compile)
    compile_.add_argument("--output", type=Path, required=True, help="the .yaml file to write")

    _add_cluster_commands(commands)
    _add_trainjob(commands)
    collecting.add_commands(commands)
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print the answer as one line of JSON")
    return parser


def _add_cluster_commands(commands: Any) -> None:
    """Adds the commands that reach Kubeflow Pipelines."""
    submit = _add_command(commands, "submit", "Start a pipeline on a cluster.", _submit)
    submit.add_argument("--experiment", help="experiment (group of runs) of the run (default: the recipe's name)")
    submit.add_argument(
        "--root", help="address below which the run writes its artifacts (default: as the cluster is configured)"
    )
    submit.add_argument("--service-account", help="service account of the pods (default: as the cluster is configured)")
    submit.add_argument(
        "--wait", action="store_true", help="wait for the run; the exit code tells whether it succeeded"
    )

    upload = _add_command(
        commands, "upload", "Add a pipeline to Kubeflow's interface, which has a form to start it.", _upload
    )

    status = commands.add_parser(
        "status", **_described("Show the state of a run and its tasks, or list the newest runs.")
    )
    status.add_argument("run", nargs="?", metavar="RUN", help="id of the run (default: list the newest runs)")
    status.add_argument(
        "--wait", action="store_true", help="wait for the run; the exit code tells whether it succeeded"
    )
    status.set_defaults(command=_status)

    logs = commands.add_parser("logs", **_described("Print the log lines of a run's stages."))
    logs.add_argument("run", metavar="RUN", help="id of the run")
    logs.add_argument("--task", help="print only the lines of this task, such as train-teacher")
    logs.add_argument("--follow", action="store_true", help="wait for further lines of running stages")
    logs.set_defaults(command=_logs)

    fetch = commands.add_parser(
        "fetch",
        **_described("Download the report and the students of a run."),
        epilog="The object store's address and credentials come from the environment variables S3_ENDPOINT, "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
    )
    fetch.add_argument("run", metavar="RUN", help="id of the run")
    fetch.add_argument("--output", type=Path, required=True, help="new folder for the report and the students")
    fetch.add_argument(
        "--root",
        help="address below which the cluster keeps artifacts, its defaultPipelineRoot (default: that of the run, or "
        "else of Kubeflow's own manifests)",
    )
    fetch.set_defaults(command=_fetch)

    for command in (submit, upload, status, logs, fetch):
        _add_connection(command)


def _add_trainjob(commands: Any) -> None:
    """Adds the command that trains on several machines."""
    trainjob = commands.add_parser(
        "trainjob", **_described("Write manifests for Kubeflow Trainer, which trains on several machines.")
    )
    trainjob.add_argument("stage", choices=TRAININGS, help="stage to run")
    trainjob.add_argument(
        "--recipe", required=True, help="name of a recipe in the image (the command `recipes` lists them)"
    )
    trainjob.add_argument("--set", action="append", metavar="SECTION.KEY=VALUE", help="change one setting; repeatable")
    trainjob.add_argument(
        "--input",
        action="append",
        metavar="NAME=URI",
        help="artifact that the stage reads, such as dataset=s3://bucket/dataset; repeatable",
    )
    trainjob.add_argument(
        "--artifact", required=True, metavar="URI", help="s3:// address to which the training writes its artifact"
    )
    trainjob.add_argument("--nodes", type=int, default=2, help="number of machines (default: 2)")
    trainjob.add_argument(
        "--namespace", default="kubeflow", help="namespace of the Kubernetes objects (default: kubeflow)"
    )
    trainjob.add_argument("--image", default=DEFAULT_IMAGE, help=f"image of the pods (default: {DEFAULT_IMAGE})")
    trainjob.add_argument("--output", type=Path, required=True, help="the .yaml file to write")
    trainjob.set_defaults(command=_trainjob)


def _add_command(commands: Any, name: str, help_text: str, function: Any) -> argparse.ArgumentParser:
    """Adds a command that takes a pipeline and a recipe."""
    pipelines = "; ".join(f"{pipeline}: {meaning}" for pipeline, meaning in PIPELINE_HELP.items())
    command = commands.add_parser(name, **_described(help_text))
    command.add_argument(
        "--recipe", required=True, help="name of a recipe (the command `recipes` lists them), or path of a .yaml file"
    )
    command.add_argument("--pipeline", choices=PIPELINE_HELP, default="compress", help=pipelines)
    command.add_argument(
        "--set",
        action="append",
        metavar="SECTION.KEY=VALUE",
        help="change one setting, such as teacher.epochs=2 or resources.profile=gpu; repeatable",
    )
    command.add_argument(
        "--budget",
        action="extend",
        nargs="+",
        metavar="B",
        help="compute budgets instead of the recipe's: MACs such as 2.6e9, or shares of the teacher's such as 0.05x",
    )
    command.add_argument(
        "--argument",
        action="append",
        metavar="NAME=VALUE",
        help="value of a parameter of the pipeline, as YAML; repeatable",
    )
    command.add_argument("--image", default=DEFAULT_IMAGE, help=f"image of every task (default: {DEFAULT_IMAGE})")
    command.set_defaults(command=function)
    return command


def _described(text: str) -> dict[str, Any]:
    """Returns what shows a sentence in the list of commands and in the command's own help."""
    return {"help": text, "description": text}


def _add_connection(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group(
        "connection",
        "Without --host, a pod connects with its service account and any other machine with its kubeconfig.",
    )
    group.add_argument("--host", metavar="URL", help="address of Kubeflow Pipelines, such as http://localhost:8080")
    group.add_argument("--namespace", help="namespace of your profile, if Kubeflow has profiles")
    group.add_argument("--token-file", type=Path, metavar="FILE", help="file with a token for Kubeflow")
    group.add_argument("--kube-context", help="context of the kubeconfig (default: the current one)")
    group.add_argument(
        "--kubeflow-namespace", default="kubeflow", help="namespace of Kubeflow Pipelines itself (default: kubeflow)"
    )
    group.add_argument("--ca-file", metavar="FILE", help="file of certificates to trust instead of the usual ones")


if __name__ == "__main__":
    leave(main)
