"""The commands that reach Kubeflow Pipelines: submit, upload, status, logs, fetch."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

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
)


def add_commands(commands: Any) -> None:
    """Adds these commands to those of `python -m pipelines`."""
    submit = add_recipe_command(commands, "submit", "Start a pipeline on a cluster.", _submit)
    submit.add_argument("--experiment", help="experiment (group of runs) of the run (default: the recipe's name)")
    add_placement(submit)
    add_no_cache(submit)
    submit.add_argument(
        "--wait", action="store_true", help="wait for the run; the exit code tells whether it succeeded"
    )

    submit.set_defaults(
        interrupted=("if the run was created, it goes on; look with: python -m pipelines status", EXIT_INTERRUPTED)
    )

    upload = add_recipe_command(
        commands, "upload", "Add a pipeline to Kubeflow's interface, which has a form to start it.", _upload
    )

    status = commands.add_parser(
        "status", **described("Show the state of a run and its tasks, or list the newest runs.")
    )
    status.add_argument("run", nargs="?", metavar="RUN", help="id of the run (default: list the newest runs)")
    status.add_argument(
        "--wait", action="store_true", help="wait for the run; the exit code tells whether it succeeded"
    )
    status.set_defaults(command=_status, interrupted=("the run goes on", EXIT_CTRL_C))

    logs = commands.add_parser("logs", **described("Print the log lines of a run's stages."))
    logs.add_argument("run", metavar="RUN", help="id of the run")
    logs.add_argument("--task", help="print only the lines of this task, such as train-teacher")
    logs.add_argument("--follow", action="store_true", help="wait for further lines of running stages")
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
        help="address below which the cluster keeps artifacts, its defaultPipelineRoot (default: that of the run, or "
        "else of Kubeflow's own manifests)",
    )
    fetch.set_defaults(command=_fetch, interrupted=("run the same command again", EXIT_INTERRUPTED))

    for command in (submit, upload, status, logs, fetch):
        add_connection(command)


def _submit(options: argparse.Namespace) -> Answer:
    submitted = api.submit(
        options.recipe,
        connection=connection_of(options),
        arguments=arguments_of(options),
        experiment=options.experiment,
        root=options.root,
        service_account=options.service_account,
        no_cache=options.no_cache,
        **choices(options),
    )
    facts: dict[str, object] = {"run_id": submitted.run_id, "link": submitted.link}
    note(f"Run {submitted.run_id}: {submitted.link}")
    if options.wait:
        facts["state"] = submitted.wait().state
    return submitted.run_id, facts


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
    from pipelines.cluster import Cluster

    cluster = Cluster(connection_of(options))
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
    for task, line in Cluster(connection_of(options)).logs(options.run, task=options.task, follow=options.follow):
        if options.json:
            lines.append({"task": task, "line": line})
        else:
            answer(line if options.task else f"{task}: {line}")
    return "", {"lines": lines}


def _fetch(options: argparse.Namespace) -> Answer:
    from pipelines.cluster import Cluster

    folder = Cluster(connection_of(options)).fetch(options.run, options.output, root=options.root)
    report = folder / "report.html"
    return f"Report: {report}", {"output": str(folder), "report": str(report)}
