"""The commands that steer a run on a cluster: cancel, retry."""

from __future__ import annotations

import argparse
from typing import Any

from components.catlib.exits import EXIT_CTRL_C
from pipelines.commands.options import Answer, add_connection, connection_of, described


def add_commands(commands: Any) -> None:
    """Adds these commands to those of `python -m pipelines`."""
    cancel = commands.add_parser("cancel", **described("End a run; what its stages have finished stays in the cache."))
    cancel.set_defaults(command=_cancel)
    retry = commands.add_parser(
        "retry",
        **described("Start the failed stages of a run again, with the settings that it had; for others, submit anew."),
    )
    retry.set_defaults(command=_retry)
    for command in (cancel, retry):
        command.add_argument("run", metavar="RUN", help="id of the run")
        command.set_defaults(interrupted=("look with: python -m pipelines status", EXIT_CTRL_C))
        add_connection(command)


def _cancel(options: argparse.Namespace) -> Answer:
    from pipelines.cluster import Cluster

    run = Cluster(connection_of(options)).cancel(options.run)
    text = f"{run.name}: ends; finished stages stay in the cache, a training loses what came after its last checkpoint"
    return text, {"run_id": run.run_id, "name": run.name}


def _retry(options: argparse.Namespace) -> Answer:
    from pipelines.cluster import Cluster

    connection = connection_of(options)
    run = Cluster(connection).retry(options.run)
    text = f"{run.name}: failed stages start again; watch with: {connection.command('status', run.run_id, '--wait')}"
    return text, {"run_id": run.run_id, "name": run.name}
