"""Command line of the pipeline: `python -m pipelines run | compile | recipes`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from components.catlib.config import load_recipe, recipe_names
from components.catlib.errors import Interrupted, UserError
from components.kubeflow import DEFAULT_IMAGE, EXIT_INTERRUPTED, EXIT_USER_ERROR


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 2 the user's mistake, 75 interrupted, 1 anything else."""
    parser = _parser()
    options = parser.parse_args(arguments)
    from pipelines.local import StageFailed

    try:
        answer = options.command(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Interrupted as interruption:
        print(f"interrupted: {interruption}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except StageFailed as failure:
        print(f"failed: {failure}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(answer))
    return 0


def _run(options: argparse.Namespace) -> dict[str, object]:
    from pipelines.local import run_locally

    recipe = load_recipe(options.recipe, options.set, options.budget)
    output = options.output or options.workspace / recipe.name
    result = run_locally(
        recipe,
        output=output.resolve(),
        workspace=options.workspace.resolve(),
        say=lambda line: print(line, file=sys.stderr, flush=True),
        image=options.image if options.runner == "docker" else None,
    )
    report = result.output / "report.html"
    print(
        f"{len(result.executed)} stages ran, {len(result.cached)} came from the cache, {result.seconds:.0f} s in all",
        file=sys.stderr,
    )
    if not options.json:
        print(f"Report: {report}")
    return {
        "report": str(report),
        "output": str(result.output),
        "executed": result.executed,
        "cached": result.cached,
        "seconds": round(result.seconds, 1),
    }


def _compile(options: argparse.Namespace) -> dict[str, object]:
    from kfp import compiler

    from pipelines.compress import compress_pipeline

    if options.output.suffix not in (".yaml", ".yml"):
        raise UserError(f"--output {options.output} must end in .yaml.")
    recipe = load_recipe(options.recipe, options.set, options.budget)
    pipeline = compress_pipeline(recipe, image=options.image)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(pipeline, str(options.output))
    if not options.json:
        print(options.output)
    return {"output": str(options.output)}


def _recipes(options: argparse.Namespace) -> dict[str, object]:
    listing = {name: load_recipe(name).description for name in recipe_names()}
    if not options.json:
        width = max(map(len, listing), default=0)
        for name, description in listing.items():
            print(f"{name:{width}}  {description}")
    return {"recipes": listing}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines", description=__doc__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the whole pipeline on this machine")
    _add_recipe(run)
    run.add_argument("--output", type=Path, help="folder for report and students (default: WORKSPACE/RECIPE)")
    run.add_argument(
        "--workspace", type=Path, default=Path("runs"), help="folder for artifacts, cache and logs (default: runs)"
    )
    run.add_argument(
        "--runner",
        choices=("process", "docker"),
        default="process",
        help="run each stage in a process, or in a container of an image (default: process)",
    )
    run.add_argument("--image", default=DEFAULT_IMAGE, help=f"image for --runner docker (default: {DEFAULT_IMAGE})")
    run.set_defaults(command=_run)

    compile_ = commands.add_parser("compile", help="write the pipeline as a file that Kubeflow takes")
    _add_recipe(compile_)
    compile_.add_argument("--output", type=Path, required=True, help="the .yaml file to write")
    compile_.add_argument("--image", default=DEFAULT_IMAGE, help=f"image of every task (default: {DEFAULT_IMAGE})")
    compile_.set_defaults(command=_compile)

    recipes = commands.add_parser("recipes", help="list the recipes")
    recipes.set_defaults(command=_recipes)

    for command in (run, compile_, recipes):
        command.add_argument("--json", action="store_true", help="print the answer as one line of JSON")
    return parser


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("--recipe", required=True, help="name of a recipe (see `recipes`) or a .yaml file")
    command.add_argument(
        "--set",
        action="append",
        metavar="SECTION.KEY=VALUE",
        help="change one setting, e.g. teacher.epochs=2; repeatable",
    )
    command.add_argument(
        "--budget",
        action="extend",
        nargs="+",
        metavar="B",
        help="compute budgets instead of the recipe's: MACs such as 2.6e9, or a share of the teacher's such as 0.05x",
    )


if __name__ == "__main__":
    sys.exit(main())
