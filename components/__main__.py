"""Every stage as a command: `python -m components STAGE --recipe NAME_OR_FILE INPUTS --output FOLDER`.

The same stage functions run under Kubeflow (`component.py` of each stage); this is their face for shells,
containers and compose files.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.catlib.artifacts import read_manifest
from components.catlib.config import load_recipe
from components.catlib.errors import Interrupted, UserError
from components.kubeflow import EXIT_INTERRUPTED, EXIT_USER_ERROR


@dataclass(frozen=True)
class Input:
    """An artifact that a stage reads.

    Attributes:
        name: Argument of the stage function.
        kinds: Artifact kinds that fit, separated by "|".
        help: One line for `--help`.
        required: The stage cannot do without.
        option: Command-line option, when it is not the name.
        many: Takes several artifacts.
    """

    name: str
    kinds: str
    help: str
    required: bool = True
    option: str = ""
    many: bool = False

    @property
    def flag(self) -> str:
        """The command-line option."""
        return "--" + (self.option or self.name).replace("_", "-")


@dataclass(frozen=True)
class Stage:
    """A stage, its inputs and its further options.

    Attributes:
        section: Name of its section in a recipe; also the kind of artifact that it writes.
        help: One sentence for `--help`.
        load: Imports the stage function; called only when the stage runs, since most stages load torch.
        inputs: Artifacts it reads.
        options: Further options, by argument name of the stage function, with their help.
    """

    section: str
    help: str
    load: Callable[[], Callable[..., None]]
    inputs: tuple[Input, ...] = ()
    options: tuple[tuple[str, str], ...] = ()


def _dataset() -> Callable[..., None]:
    from components.dataset.stage import run

    return run


def _real_stats() -> Callable[..., None]:
    from components.real_stats.stage import run

    return run


def _teacher() -> Callable[..., None]:
    from components.teacher.stage import run

    return run


def _prune() -> Callable[..., None]:
    from components.prune.stage import run

    return run


def _distill() -> Callable[..., None]:
    from components.distill.stage import run

    return run


def _evaluate() -> Callable[..., None]:
    from components.evaluate.stage import run

    return run


def _export() -> Callable[..., None]:
    from components.export.stage import run

    return run


def _report() -> Callable[..., None]:
    from components.report.stage import run

    return run


_DATASET = Input("dataset", "dataset", "packed images, from the dataset stage")
_REAL_STATS = Input("real_stats", "real_stats", "statistics of real images, from the real-stats stage")
_TEACHER = Input("teacher", "teacher", "trained teacher, from the teacher stage")
_CHECKPOINT = ("checkpoint", "folder for training state; a killed run that finds it there goes on")

STAGES: dict[str, Stage] = {
    "dataset": Stage(
        "dataset",
        "Pack images of two domains into a few large arrays.",
        _dataset,
        options=(("source", "folder of images, or built-in data; instead of the recipe's dataset.source"),),
    ),
    "real-stats": Stage(
        "real_stats",
        "Compute the statistics of real images that generated ones are compared with.",
        _real_stats,
        inputs=(_DATASET,),
    ),
    "teacher": Stage(
        "teacher", "Train the large generator.", _teacher, inputs=(_DATASET, _REAL_STATS), options=(_CHECKPOINT,)
    ),
    "prune": Stage(
        "prune",
        "Cut the teacher's channels until the generator fits a compute budget.",
        _prune,
        inputs=(_TEACHER,),
        options=(("budget", "MACs such as 2.6e9, or a share such as 0.05x; default: the recipe's first budget"),),
    ),
    "distill": Stage(
        "distill",
        "Train the student with the teacher's features as a guide.",
        _distill,
        inputs=(
            _TEACHER,
            Input("student", "prune", "the student's architecture, from the prune stage"),
            _DATASET,
            _REAL_STATS,
        ),
        options=(_CHECKPOINT,),
    ),
    "evaluate": Stage(
        "evaluate",
        "Score a generator, and its teacher beside it, on held-out images.",
        _evaluate,
        inputs=(
            Input("student", "distill|teacher", "the generator to score, from the distill stage"),
            Input("teacher", "teacher", "its teacher, for comparison", required=False),
            _DATASET,
            _REAL_STATS,
        ),
    ),
    "export": Stage(
        "export",
        "Write a generator as an ONNX file and prove that it computes the same images.",
        _export,
        inputs=(
            Input("student", "distill|teacher", "the generator to export"),
            Input("dataset", "dataset", "images to compare on; default: noise", required=False),
        ),
    ),
    "report": Stage(
        "report",
        "Put a run on one page.",
        _report,
        inputs=(
            Input(
                "evaluations", "evaluate", "output of the evaluate stage; repeatable", option="evaluation", many=True
            ),
            Input("dataset", "dataset", "packed images", required=False),
            Input("real_stats", "real_stats", "statistics of real images", required=False),
            Input("teacher", "teacher", "the teacher", required=False),
            Input("students", "prune", "output of the prune stage; repeatable", False, "student", many=True),
            Input("distilled", "distill", "output of the distill stage; repeatable", False, many=True),
            Input("exports", "export", "output of the export stage; repeatable", False, "export", many=True),
        ),
    ),
}
ALIASES = {"real_stats": "real-stats"}


def main(arguments: list[str] | None = None) -> int:
    """Runs one stage and returns its exit code: 0 done, 2 the user's mistake, 75 interrupted (run again to resume)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO,
        format=f"[{options.stage}] %(message)s",
        handlers=[logging.StreamHandler(sys.stderr)],
        force=True,
    )
    try:
        run_stage(STAGES[ALIASES.get(options.stage, options.stage)], options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Interrupted as interruption:
        print(f"interrupted: {interruption}", file=sys.stderr)
        return EXIT_INTERRUPTED
    metrics = read_manifest(options.output).summary.get("metrics", {})
    print(json.dumps({"output": str(options.output), "metrics": metrics}) if options.json else options.output)
    return 0


def run_stage(stage: Stage, options: argparse.Namespace) -> None:
    """Checks what a stage is given and runs it.

    Args:
        stage: The stage.
        options: Parsed command line.

    Raises:
        UserError: The recipe, an input or an option is not right.
    """
    recipe = load_recipe(options.recipe, options.set)
    inputs: dict[str, Any] = {}
    for wanted in stage.inputs:
        given = getattr(options, wanted.name)
        for folder in given or [] if wanted.many else [given] if given else []:
            read_manifest(folder, wanted.kinds)
        if given:
            inputs[wanted.name] = given
    further = {name: getattr(options, name) for name, _ in stage.options if getattr(options, name) is not None}
    if "budget" in dict(stage.options) and "budget" not in further:
        if options.recipe is None:
            raise UserError(
                "prune needs a compute budget: give --budget 2.6e9, --budget 0.05x, or a --recipe that has one."
            )
        further["budget"] = recipe.budgets[0]
    stage.load()(getattr(recipe, stage.section), output=options.output, **inputs, **further)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m components", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(title="stages", required=True, metavar="STAGE", dest="stage")
    for name, stage in STAGES.items():
        aliases = [alias for alias, target in ALIASES.items() if target == name]
        command = commands.add_parser(name, aliases=aliases, help=stage.help, description=stage.help)
        command.add_argument("--recipe", help="name of a recipe or a .yaml file (default: the built-in defaults)")
        command.add_argument(
            "--set",
            action="append",
            metavar="SECTION.KEY=VALUE",
            help=f"change one setting, e.g. {stage.section}.KEY=VALUE; repeatable",
        )
        for given in stage.inputs:
            command.add_argument(
                given.flag,
                dest=given.name,
                type=Path,
                required=given.required,
                action="append" if given.many else "store",
                metavar="FOLDER",
                help=given.help,
            )
        for option, help_text in stage.options:
            command.add_argument(f"--{option}", help=help_text)
        command.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="folder to write")
        command.add_argument("--json", action="store_true", help="print the answer as one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
