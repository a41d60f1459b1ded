"""Run a pipeline on this machine, or submit it to a cluster, watch the run and fetch its results."""

from __future__ import annotations

if __name__ == "__main__":  # the imports below take a while
    from components.catlib.exits import quiet_ctrl_c

    quiet_ctrl_c()

import json

from components import __version__
from components.catlib.exits import EXIT_CTRL_C, Parser, answer, exit_code, leave, note, parsed
from components.kubeflow import DEFAULT_IMAGE
from pipelines import collecting, completion
from pipelines.commands import cluster, here, steering
from pipelines.failure import RunFailed


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 2 the user's mistake, 75 interrupted, 1 anything else."""
    options = parsed(_parser(), arguments)
    if isinstance(options, int):
        return options

    failed = False

    def command() -> None:
        nonlocal failed
        text, details = options.command(options)
        failed = bool(details.get("failed"))
        if options.json:
            answer(json.dumps(details))
        elif text:
            answer(text)

    sentence, code = getattr(options, "interrupted", ("the command did not finish", EXIT_CTRL_C))
    try:
        return exit_code(command, interrupted=sentence, code=code) or int(failed)
    except RunFailed as failure:
        note(f"failed: {failure}")
        return 1


def _parser() -> Parser:
    parser = Parser(prog="python -m pipelines", description=__doc__)
    parser.add_argument("--version", action="version", version=f"cat-pipeline {__version__}, image {DEFAULT_IMAGE}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (here, cluster, steering, collecting, completion):
        module.add_commands(commands)
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print the answer as one line of JSON")
    return parser


if __name__ == "__main__":
    leave(main)
