"""Every stage as a command: `python -m components STAGE --recipe NAME_OR_FILE INPUTS --output URI`.

Kubeflow runs the same stage functions (`component.py` of each stage); this is their face for shells, containers and
compose files. `components/stages.py` is the table of stages, `components/running.py` runs one.
"""

from __future__ import annotations

if __name__ == "__main__":  # the imports below take a while
    from components.catlib.exits import quiet_ctrl_c

    quiet_ctrl_c()

    import sys

    from components.catlib.serving import commands as serving_commands

    if sys.argv[1:2] and sys.argv[1] in serving_commands.COMMANDS:  # these start without what follows
        from components.catlib.exits import leave

        leave(lambda: serving_commands.main(sys.argv[1:]))

import argparse
import contextlib
import functools
import json
import logging
import os
import sys
import textwrap
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from components import __version__
from components.attempts import Attempt
from components.catlib import storage
from components.catlib.config import Recipe
from components.catlib.config.described import described
from components.catlib.distributed.ending import ending_together
from components.catlib.errors import UserError
from components.catlib.exits import Parser, after_interruption, answer, exit_code, leave, parsed
from components.catlib.memory import telling_out_of_memory
from components.catlib.recipes import load_recipe
from components.catlib.serving import commands as serving
from components.catlib.storage.settings import WAIT_VARIABLE
from components.catlib.training.upkeep import CHECKPOINTS_VARIABLE, VARIABLES, handed_over
from components.catlib.try_page import commands as try_page
from components.running import add_versions, run_stage
from components.stages import ALIASES, CHECKPOINT, STAGES, TRAININGS, Stage


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 2 the user's mistake, 75 interrupted (run again to resume)."""
    options = parsed(_parser(), arguments)
    if isinstance(options, int):
        return options
    if options.stage in serving.COMMANDS:
        return serving.run(options)
    logging.basicConfig(
        level=logging.INFO,
        format=f"[{options.stage}] %(message)s",
        handlers=[logging.StreamHandler(sys.stderr)],
        force=True,
    )
    trains = options.stage in TRAININGS
    keeps = bool(getattr(options, CHECKPOINT.name, None) or os.environ.get(CHECKPOINTS_VARIABLE))

    attempt = Attempt.of_job(options.stage) if trains else None

    def command() -> None:
        with contextlib.ExitStack() as around:
            if trains:
                around.enter_context(ending_together())
            if attempt:
                around.enter_context(attempt.refused_once())
            around.enter_context(telling_out_of_memory(options.stage))
            text, details = options.command(options)
        if text:
            answer(json.dumps(details) if options.json else text)

    return exit_code(command, interrupted=after_interruption(resumes=trains and keeps))


LATER = {"dataset": ("teacher", "distill", "evaluate"), "teacher": ("distill", "evaluate"), "distill": ("evaluate",)}
"""The sections of the stages that read the same images after a stage."""

# ------------------------------------------------------------------------------------------------------------ commands


def _stage_command(stage: Stage, options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Runs a stage. Returns, as every command does, the line to print (may be empty) and the same facts as JSON."""
    recipe = load_recipe(options.recipe, options.set)
    given = {wanted: getattr(options, wanted.name) for wanted in stage.inputs}
    if stage.preview is not None and options.dry_run:
        text = stage.preview()(getattr(recipe, stage.section), **_further_options(stage, options, recipe))
        return text, {"preview": text.splitlines()}
    if options.output is None:
        raise UserError("--output is missing; say where to write the artifact, or add --dry-run to write nothing.")
    inputs = {wanted.name: value if wanted.many else [value] for wanted, value in given.items() if value is not None}
    if stage.adds_versions:
        further = _further_options(stage, options, recipe)
        added = add_versions(
            stage, getattr(recipe, stage.section), inputs=inputs, options=further, output=options.output
        )
        addresses = [version.address for version in added]
        return "\n".join(addresses), {"output": options.output, "versions": addresses}
    with handed_over(recipe.resources):
        outcome = run_stage(
            stage,
            getattr(recipe, stage.section),
            inputs=inputs,
            options=_further_options(stage, options, recipe),
            output=options.output,
            check=functools.partial(_check_later, stage, recipe, options.set or []),
        )
    if outcome is None:
        return "", {}
    metrics = outcome.manifest.summary.get("metrics", {})
    return options.output, {"output": options.output, "metrics": metrics, "reused": outcome.reused}


def _check_later(stage: Stage, recipe: Recipe, overrides: Sequence[str], dataset: Path) -> None:
    """Holds a dataset against the needs of the stages after this one, which are in the same recipe.

    Another command may run those with other settings, so what does not fit is a warning, unless a stage trains and this
    very command set what does not fit: then it is refused before the training.
    """
    from components.catlib.data.packed import PackedDataset
    from components.catlib.needs import Needs, check_needs, unmet

    later = LATER.get(stage.section)
    if later is None:
        return
    images = PackedDataset.open(dataset)
    given = {override.partition(".")[0] for override in overrides} if stage.trains else set()
    for section in later:
        needs = Needs.of({section: recipe.section(section), "prune": recipe.section("prune")})
        if section in given:
            check_needs(needs, images)
        for sentence in unmet(needs, images):
            wrong, _, _ = sentence.partition("; ")  # what to do is said where it is refused
            logging.getLogger(__name__).warning("stage %s will refuse these images: %s", section, wrong)


def _further_options(stage: Stage, options: argparse.Namespace, recipe: Recipe) -> dict[str, str]:
    """Returns what the stage function takes besides its section and its inputs."""
    given = {option.name: getattr(options, option.name) for option in stage.options}
    if "budget" in given and given["budget"] is None:
        if options.recipe is None:
            raise UserError(
                "prune needs a compute budget: give --budget (such as 2.6e9 or 0.05x), or a --recipe that has one."
            )
        given["budget"] = recipe.budgets[0]
    return {name: value for name, value in given.items() if value is not None}


def _make_bucket(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    created = storage.Storage().make_bucket(options.address)
    return options.address, {"bucket": options.address, "created": created}


def _measure_latency(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    from components.prune.latency import Students, write_table

    recipe = load_recipe(options.recipe, options.set)
    students = Students.of_teacher(recipe, options.teacher) if options.teacher else Students.of_recipe(recipe)
    table = write_table(lambda: students.measure(options.threads), Path(options.output))
    facts = {"output": options.output, "device": table.device, "runtime": table.runtime, "threads": table.threads}
    return options.output, facts | {"errors": list(table.errors)}


def _link(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    link = storage.Storage().link(options.address, lifetime=timedelta(days=options.days), endpoint=options.endpoint)
    return link, {"link": link}


# ----------------------------------------------------------------------------------------------------------- arguments


def _parser() -> Parser:
    parser = Parser(
        prog="python -m components",
        description="Run one stage of the pipeline. A stage whose output already exists, made from the same inputs "
        "with the same settings by the same code, does not run again.",
        epilog="Inputs and outputs are folders or s3://BUCKET/PREFIX. An object store needs the environment "
        "variables S3_ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. NAME_FILE in place of NAME gives the path "
        "of a file that holds the value. AWS_SESSION_TOKEN, AWS_REGION and AWS_CA_BUNDLE are optional. A web server "
        "that needs a token gets CAT_WEB_TOKEN if CAT_WEB_HOST names it, else what ~/.netrc has for it. Set "
        f"{WAIT_VARIABLE}=1 to wait for a server that is starting; else its address counts as wrong. Set "
        f"{CHECKPOINTS_VARIABLE} to a folder or an s3:// address, and trainings keep their state below it and resume "
        "after a kill.",
    )
    parser.add_argument("--version", action="version", version=f"cat-pipeline {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="stage")
    for name, stage in STAGES.items():
        _add_stage(commands, name, stage)

    serving.add_commands(commands)

    latency = commands.add_parser(
        "measure-latency",
        help="Measure how long the layers of students take on this machine, for budgets in milliseconds.",
        description="Time every layer that a teacher's students can have, in ONNX Runtime on this machine, and check "
        "the sum against whole networks. Give the table to a run with --set prune.latency_table.uri=FILE.",
    )
    latency.add_argument("--recipe", help="name of a recipe, or path of a .yaml file, whose teacher is pruned")
    latency.add_argument("--set", action="append", metavar="SECTION.KEY=VALUE", help="change one setting; repeatable")
    latency.add_argument(
        "--teacher", metavar="URI", help="trained teacher, whose layers count instead of those of the recipe's teacher"
    )
    latency.add_argument(
        "--threads", type=serving.threads, default=1, metavar="N", help="CPU threads of the students (default: 1)"
    )
    latency.add_argument("--output", required=True, metavar="FILE", help="the .json file to write")
    latency.set_defaults(command=_measure_latency)

    bucket = commands.add_parser("make-bucket", help="Create a bucket in the object store, unless it exists.")
    bucket.add_argument("address", metavar="s3://BUCKET")
    bucket.set_defaults(command=_make_bucket)

    link = commands.add_parser("link", help="Print a web address where anybody can read an object.")
    link.add_argument("address", metavar="s3://BUCKET/KEY")
    link.add_argument(
        "--days",
        type=int,
        choices=range(1, 8),
        default=7,
        metavar="N",
        help="days for which the address works, 1 to 7 (default: 7)",
    )
    link.add_argument(
        "--endpoint",
        metavar="URL",
        help="address of the store where the link is opened, such as http://localhost:9000 (default: S3_ENDPOINT)",
    )
    link.set_defaults(command=_link)

    for command in (latency, bucket, link, try_page.add_command(commands)):
        command.add_argument("--json", action="store_true", help="print the answer as one line of JSON")
    return parser


def _add_stage(commands: argparse._SubParsersAction, name: str, stage: Stage) -> None:
    aliases = [alias for alias, target in ALIASES.items() if target == name]
    # A recipe has no section for the report, whose heading is the recipe's name and description.
    section = stage.section if stage.section in Recipe.model_fields else "tracking"
    command = commands.add_parser(
        name,
        aliases=aliases,
        help=stage.help,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{stage.help}\nThe recipe's section `{section}` holds the settings.",
        epilog="\n".join(
            ["A URI is a folder or s3://BUCKET/PREFIX.", *_examples(name, stage), *_settings(section, stage)]
        ).replace("%", "%%"),
    )
    command.add_argument(
        "--recipe", help="name of a recipe, or path of a .yaml file (default: the default of every setting)"
    )
    command.add_argument(
        "--set",
        action="append",
        metavar="SECTION.KEY=VALUE",
        help=f"change one setting, such as {section}.KEY=VALUE; repeatable",
    )
    for given in stage.inputs:
        command.add_argument(
            given.flag,
            dest=given.name,
            required=given.required,
            action="append" if given.many else "store",
            metavar="URI",
            help=given.help,
        )
    for option in stage.options:
        command.add_argument(f"--{option.name}", help=option.help)
    if stage.preview is not None:
        command.add_argument("--dry-run", action="store_true", help="print what would be used as what; write nothing")
    command.add_argument(
        "--output",
        required=stage.preview is None,
        metavar="URI",
        help=f"where to write the artifact: {stage.output}",
    )
    command.add_argument("--json", action="store_true", help="print the answer as one line of JSON")
    command.set_defaults(command=functools.partial(_stage_command, stage))


_HELP_WIDTH = 100


def _examples(name: str, stage: Stage) -> list[str]:
    """Returns the lines of `--help` that show how a stage is used."""
    lines = [
        f"  python -m components {name} {arguments} --output out/{name}\n      {purpose}"
        for arguments, purpose in stage.examples
    ]
    return ["", "examples:", *lines] if lines else []


def _settings(section: str, stage: Stage) -> list[str]:
    """Returns the lines of `--help` that explain the settings of a section, and of a training's upkeep."""
    lines = ["", "settings (--set, or in the recipe) and their defaults:"]
    settings = list(described(Recipe.model_fields[section], section))
    if stage.trains:
        upkeep = tuple(f"resources.{name}=" for name in VARIABLES)
        settings += [
            each for each in described(Recipe.model_fields["resources"], "resources") if each[0].startswith(upkeep)
        ]
    for setting, description in settings:
        lines += [f"  {setting}", textwrap.indent(textwrap.fill(description, _HELP_WIDTH - 6), " " * 6)]
    return lines


if __name__ == "__main__":
    leave(main)
