"""The commands that reach Kubeflow Pipelines: submit, upload, status, logs, fetch."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.catlib.errors import UserError
from components.catlib.exits import EXIT_CTRL_C, EXIT_INTERRUPTED, answer, note
from components.catlib.recipes import load_recipe
from pipelines import api
from pipelines.commands.options import (
    Answer,
    add_connection,
    add_no_cache,
    add_placement,
    add_recipe_command,
    arguments_of,
    choices,
    connection_of,
    described,
    whole_number,
)

if TYPE_CHECKING:
    from pipelines.runs import Task


def add_commands(commands: Any) -> None:
    """Adds these commands to those of `python -m pipelines`."""
    submit = add_recipe_command(commands, "submit", "Start a pipeline on a cluster.", _submit)
    submit.add_argument("--experiment", help="experiment (group of runs) of the run (default: the recipe's name)")
    add_placement(submit)
    add_no_cache(submit)
    submit.add_argument(
        "--wait", action="store_true", help="wait for the run; the exit code tells whether it succeeded"
    )

    submit.add_argument(
        "--resubmit",
        type=whole_number,
        default=0,
        metavar="N",
        help="with --wait: submit the run again, at most N times, if the cluster loses it (one of Kubeflow's own pods "
        "failed, a pod was deleted, a store stayed away); finished stages come from the cache",
    )
    submit.set_defaults(
        interrupted=("if the run was created, it goes on; look with: python -m pipelines status", EXIT_INTERRUPTED)
    )

    upload = add_recipe_command(
        commands, "upload", "Add a pipeline to Kubeflow's interface, which has a form to start it.", _upload
    )

    status = commands.add_parser(
        "status", **described("Show the state of a run and its tasks, or list the newest runs: of a cluster, or here.")
    )
    status.add_argument("run", nargs="?", metavar="RUN", help="id of the run (default: list the newest runs)")
    status.add_argument(
        "--wait", action="store_true", help="wait for the run; the exit code tells whether it succeeded"
    )
    status.add_argument(
        "--workspace",
        type=Path,
        metavar="DIR",
        help="list the runs of this machine in this workspace instead, with their students' figures and reports",
    )
    status.set_defaults(command=_status, interrupted=("the run goes on", EXIT_CTRL_C))

    logs = commands.add_parser("logs", **described("Print the log lines of a run's stages."))
    logs.add_argument("run", metavar="RUN", help="id of the run")
    logs.add_argument(
        "--task",
        help="print only the lines of this task, such as train-teacher; of a loop's: 'distill-student 0.2x', or "
        "distill-student for all",
    )
    logs.add_argument("--follow", action="store_true", help="wait for further lines until the run ends")
    logs.add_argument("--launcher", action="store_true", help="print the lines of Kubeflow's launcher too")
    logs.set_defaults(command=_logs, interrupted=("the run goes on", EXIT_CTRL_C))

    fetch = commands.add_parser(
        "fetch",
        **described("Download the report and the students of a run."),
        epilog="The object store's address and credentials come from the environment variables S3_ENDPOINT, "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
    )
    fetch.add_argument("run", metavar="RUN", help="id of the run")
    fetch.add_argument("--output", type=Path, required=True, help="new folder for the report and the students")
    fetch.add_argument(
        "--root",
        help="address below which the cluster keeps artifacts, its defaultPipelineRoot (default: where the run says "
        "that it keeps them)",
    )
    fetch.set_defaults(command=_fetch, interrupted=("run the same command again", EXIT_INTERRUPTED))

    for command in (submit, upload, status, logs, fetch):
        add_connection(command)


def _submit(options: argparse.Namespace) -> Answer:
    if options.resubmit and not options.wait:
        raise UserError("--resubmit N needs --wait: only a command that watches the run can submit it again.")
    chosen = choices(options) | {
        "connection": connection_of(options),
        "arguments": arguments_of(options),
        "experiment": options.experiment,
        "root": options.root,
        "service_account": options.service_account,
        "no_cache": options.no_cache,
    }
    if options.wait:
        submitted, run = api.submit_in_turn(options.recipe, resubmit=options.resubmit, **chosen)
        return run.run_id, {"run_id": run.run_id, "link": submitted.cluster.link(run.run_id), "state": run.state}
    submitted = api.submit(options.recipe, **chosen)
    note(f"Run {submitted.run_id}: {submitted.cluster.where_to_look(submitted.run_id)}")
    return submitted.run_id, {"run_id": submitted.run_id, "link": submitted.link}


def _upload(options: argparse.Namespace) -> Answer:
    from pipelines.cluster import Cluster

    compiled = api.compile_recipe(options.recipe, **choices(options))
    recipe = load_recipe(options.recipe, options.set, options.budget)
    version = f"{recipe.name}-{hashlib.sha256(compiled.text.encode()).hexdigest()[:8]}"
    pipeline_id = Cluster(connection_of(options)).upload(
        compiled, name=f"cat-{options.pipeline}", version=version, description=recipe.description
    )
    return f"cat-{options.pipeline}, {version}", {"pipeline_id": pipeline_id, "version": version}


def _status(options: argparse.Namespace) -> Answer:
    if options.workspace is not None:
        return _status_here(options)
    from pipelines.cluster import Cluster
    from pipelines.resubmitting import watch_and_explain

    cluster = Cluster(connection_of(options))
    if options.run is None:
        runs = cluster.runs()
        lines = [f"{run.run_id}  {run.state.lower():9}  {run.name}" for run in runs]
        details = [{"run_id": run.run_id, "name": run.name, "state": run.state} for run in runs]
        return "\n".join(lines), {"runs": details}
    run = watch_and_explain(cluster, options.run, say=note) if options.wait else cluster.run(options.run)
    link = cluster.link(options.run)
    lines = [f"{run.name}: {run.state.lower()}{f' ({run.error})' if run.error else ''}"]
    width = max((len(task.name) for task in run.tasks), default=0)
    errors = cluster.stage_errors(run)
    for task in run.tasks:
        lines.append(f"  {task.name:{width}}  {task.said}")
        lines += [f"  {'':{width}}  {errors[task.name]}"] if task.name in errors else []
    lines += [f"  Kubeflow's {failure}" for failure in run.own_failures] + ([link] if link else [])
    facts: dict[str, object] = {"run_id": run.run_id, "name": run.name, "state": run.state, "link": link}
    return "\n".join(lines), facts | {"tasks": [_facts(task, errors.get(task.name, "")) for task in run.tasks]}


def _facts(task: Task, error: str) -> dict[str, object]:
    facts: dict[str, object] = {"name": task.name, "state": task.state, "reason": task.reason, "pods": list(task.pods)}
    return facts | ({"error": error} if error else {})


def _status_here(options: argparse.Namespace) -> Answer:
    from pipelines.local_runs import facts, local_runs, table

    if options.host or options.wait:
        raise UserError("--workspace shows the runs of this machine; leave out --host and --wait, or --workspace.")
    runs = local_runs(options.workspace.resolve(), name=options.run)
    return table(runs) if runs else "no runs yet", {"runs": [facts(run) for run in runs]}


def _logs(options: argparse.Namespace) -> Answer:
    from pipelines.cluster import Cluster

    lines: list[dict[str, str]] = []
    read = Cluster(connection_of(options)).logs(
        options.run, task=options.task, follow=options.follow, everything=options.launcher
    )
    for task, line in read:
        if options.json:
            lines.append({"task": task, "line": line})
        else:
            answer(line if options.task == task else f"{task}: {line}")
    return "", {"lines": lines}


def _fetch(options: argparse.Namespace) -> Answer:
    from pipelines.cluster import Cluster

    folder = Cluster(connection_of(options)).fetch(options.run, options.output, root=options.root)
    report = folder / "report.html"
    return f"Report: {report}", {"output": str(folder), "report": str(report)}
