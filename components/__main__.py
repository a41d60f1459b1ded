"""Every stage as a command: `python -m components STAGE --recipe NAME_OR_FILE INPUTS --output URI`.

The same stage functions run under Kubeflow (`component.py` of each stage); this is their face for shells,
containers and compose files. Inputs and the output are folders or `s3://bucket/prefix`. A stage whose output is
already there, made from the same inputs with the same settings by the same code, is not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import hashlib
import json
import logging
import os
import signal
import sys
import tempfile
import textwrap
import typing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from components.catlib import storage
from components.catlib.artifacts import Manifest, code_digest, read_manifest, stamp
from components.catlib.config import Recipe
from components.catlib.data.locating import local_copies
from components.catlib.errors import Interrupted, UserError
from components.catlib.recipes import load_recipe, named_files
from components.kubeflow import CHECKPOINTS_VARIABLE, EXIT_INTERRUPTED, EXIT_USER_ERROR

logger = logging.getLogger(__name__)


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
        examples: For `--help`: inputs and settings of a command, and what it is for.
    """

    section: str
    help: str
    load: Callable[[], Callable[..., None]]
    inputs: tuple[Input, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    examples: tuple[tuple[str, str], ...] = ()


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
_CHECKPOINT = ("checkpoint", "folder or s3://… for training state; a killed run that finds it there goes on")

STAGES: dict[str, Stage] = {
    "dataset": Stage(
        "dataset",
        "Pack images of two domains into a few large arrays.",
        _dataset,
        options=(
            (
                "source",
                "images: a folder or an archive (a path, https://… or s3://…), the name of a known dataset, or "
                "built-in data; instead of the recipe's dataset.source",
            ),
        ),
        examples=(
            ("--source photos/", "a folder: trainA/ trainB/ testA/ testB/, or train/ test/ of A|B images, or A/ B/"),
            ("--source horse2zebra", "a known dataset: downloaded, or taken from datasets/horse2zebra.zip"),
            (
                "--source cityscapes/ --recipe cityscapes-gaugan-5g6",
                "Cityscapes' two archives, or folders, as they are",
            ),
            ("--source s3://data/x.tar.gz --set dataset.on_error=skip", "an archive; damaged images are left out"),
        ),
    ),
    "real-stats": Stage(
        "real_stats",
        "Compute the statistics of real images that generated ones are compared with.",
        _real_stats,
        inputs=(_DATASET,),
        examples=(
            ("--dataset out/dataset", "with a fixed random network, which needs no weights; distances are not FID"),
            (
                "--dataset out/dataset --set real_stats.features=inception "
                "--set real_stats.weights.uri=weights/pt_inception-2015-12-05-6726825d.pth",
                "for FID and KID; the file's SHA-256 is checked before it is read",
            ),
            (
                "--dataset out/dataset --recipe horse2zebra --set real_stats.published.uri=weights/horse2zebra_B.npz",
                "with published statistics (mu, sigma) in the place of the dataset's own, as they are",
            ),
        ),
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
        examples=(
            (
                "--student out/distill --teacher out/teacher --dataset out/dataset --real-stats out/real-stats",
                "a student beside its teacher: metrics.json with confidence intervals and protocol, and pictures",
            ),
            (
                "--student out/teacher --dataset out/dataset --real-stats out/real-stats",
                "any generator alone, a teacher too",
            ),
            (
                "--student out/distill --dataset out/dataset --real-stats out/real-stats "
                "--set evaluate.segmenter.weights.uri=weights/drn-d-105_ms_cityscapes.pth",
                "Cityscapes: mIoU too, by class, and what is mixed up with what, in segmentation.json",
            ),
            (
                "--student out/distill --dataset out/dataset --real-stats out/real-stats "
                "--set evaluate.lpips.weights.uri=weights/alexnet-owt-7be5be79.pth",
                "LPIPS too, of images that have a true target",
            ),
        ),
    ),
    "export": Stage(
        "export",
        "Write a generator as an ONNX file and prove that it computes the same images.",
        _export,
        inputs=(
            Input("student", "distill|prune|teacher", "the generator to export"),
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
    """Runs one command; returns its exit code: 0 done, 2 the user's mistake, 75 interrupted (run again to resume)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO,
        format=f"[{options.stage}] %(message)s",
        handlers=[logging.StreamHandler(sys.stderr)],
        force=True,
    )
    try:
        with _sigterm_like_ctrl_c():
            answer, details = options.command(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Interrupted as interruption:
        print(f"interrupted: {interruption}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        print("interrupted: nothing was published; the same command starts over", file=sys.stderr)
        return EXIT_INTERRUPTED
    if answer:
        print(json.dumps(details) if options.json else answer)
    return 0


@contextlib.contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """Ends the stage properly on SIGTERM, which the first process of a container would otherwise not notice."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


# --------------------------------------------------------------------------------------------------------------- stages


def run_stage(stage: Stage, options: argparse.Namespace) -> tuple[Manifest, bool] | None:
    """Runs a stage between folders or an object store, unless its output is there already.

    Args:
        stage: The stage.
        options: Parsed command line.

    Returns:
        The manifest of the output, and whether it was there already; None in all but the first of the processes that
        `torchrun` starts, which alone writes.

    Raises:
        UserError: The recipe, an input, an option or the object store is not right.
    """
    _check_output(options.output)
    recipe = load_recipe(options.recipe, options.set)
    config = getattr(recipe, stage.section)
    further = _further_options(stage, options, recipe)
    store = storage.Storage()
    addresses = {
        (wanted.name, number): address
        for wanted in stage.inputs
        for number, address in enumerate(_given(wanted, options))
    }
    kinds = {wanted.name: wanted.kinds for wanted in stage.inputs}
    manifests = {place: store.manifest(address, kinds[place[0]]) for place, address in addresses.items()}
    request = _request_digest(stage, config, manifests, further, store)
    if found := store.find(options.output, request):
        logger.info("%s is there already, made from the same inputs and settings: nothing to do", options.output)
        return found, True
    with tempfile.TemporaryDirectory(prefix=f"{stage.section}-") as scratch:
        with ThreadPoolExecutor() as pool:
            fetched = {
                place: pool.submit(store.fetch, address, Path(scratch) / f"{place[0]}-{place[1]}", kinds[place[0]])
                for place, address in addresses.items()
            }
        inputs: dict[str, Any] = {}
        for wanted in stage.inputs:
            folders = [future.result() for (name, _), future in fetched.items() if name == wanted.name]
            if folders:
                inputs[wanted.name] = folders if wanted.many else folders[0]
        remote = storage.is_remote(options.output)
        output = Path(scratch) / "output" if remote else Path(options.output)
        checkpoints = _own_checkpoints(stage, request, further)
        stage.load()(config, output=output, **inputs, **further, **checkpoints)
        if os.environ.get("RANK", "0") != "0":
            return None
        stamp(output, request)
        if remote:
            store.publish(output, options.output)
        for address in checkpoints.values():
            store.remove(address)
        return read_manifest(output), False


def _check_output(address: str) -> None:
    """Refuses an output that is neither a path nor in an object store."""
    if not address.strip():
        raise UserError("--output is empty; give a folder or s3://BUCKET/PREFIX.")
    if "://" in address and not storage.is_remote(address):
        raise UserError(f"--output {address} cannot be written to; give a folder or s3://BUCKET/PREFIX.")
    if storage.is_remote(address):
        storage.Location.parse(address)


def _given(wanted: Input, options: argparse.Namespace) -> list[str]:
    """Returns the addresses that the command line gives for an input."""
    given = getattr(options, wanted.name)
    if given is None:
        return []
    return given if wanted.many else [given]


def _further_options(stage: Stage, options: argparse.Namespace, recipe: Recipe) -> dict[str, str]:
    """Returns what the stage function takes besides its section and its inputs."""
    further = {name: getattr(options, name) for name, _ in stage.options if getattr(options, name) is not None}
    if "budget" in dict(stage.options) and "budget" not in further:
        if options.recipe is None:
            raise UserError(
                "prune needs a compute budget: give --budget 2.6e9, --budget 0.05x, or a --recipe that has one."
            )
        further["budget"] = recipe.budgets[0]
    return further


def _own_checkpoints(stage: Stage, request: str, further: dict[str, str]) -> dict[str, str]:
    """Chooses the place of checkpoints below the one that the environment names, unless the command line names one.

    It is another for every request, so that a run with other settings neither finds nor overwrites them.
    """
    root = os.environ.get(CHECKPOINTS_VARIABLE)
    if not root or "checkpoint" not in dict(stage.options) or "checkpoint" in further:
        return {}
    return {"checkpoint": f"{root.rstrip('/')}/{stage.section}-{request[:16]}"}


def _request_digest(
    stage: Stage,
    config: BaseModel,
    inputs: dict[tuple[str, int], Manifest],
    further: dict[str, str],
    store: storage.Storage,
) -> str:
    """Returns a digest of all that determines a stage's output.

    That is its code, settings, inputs and options, and the state of the files outside that settings and options name.
    Where training keeps its checkpoints makes no difference to the result.
    """
    settings = config.model_dump(mode="json")
    options = {name: value for name, value in further.items() if name != "checkpoint"}
    if "source" in options:
        settings = {name: value for name, value in settings.items() if name != "source"}
    outside = [*named_files(settings), *named_files(options)]
    facts = {
        "stage": stage.section,
        "code": code_digest(),
        "settings": settings,
        "options": options,
        "inputs": [[name, number, manifest.digest()] for (name, number), manifest in inputs.items()],
        "outside": [
            [address, *(store.fingerprint(str(place)) for place in local_copies(address) or [address])]
            for address in outside
        ],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


# --------------------------------------------------------------------------------------------------------- command line


def _stage_command(stage: Stage, options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Runs a stage; like every command, returns the line to print, if any, and the same as JSON values."""
    outcome = run_stage(stage, options)
    if outcome is None:
        return "", {}
    manifest, reused = outcome
    metrics = manifest.summary.get("metrics", {})
    return options.output, {"output": options.output, "metrics": metrics, "reused": reused}


def _make_bucket(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    created = storage.Storage().make_bucket(options.address)
    return options.address, {"bucket": options.address, "created": created}


def _link(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    link = storage.Storage().link(options.address, lifetime=timedelta(days=options.days))
    return link, {"link": link}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m components",
        description="Run one stage of the pipeline. A stage whose output is already there, made from the same inputs "
        "with the same settings by the same code, is not run again.",
        epilog="Inputs and outputs are folders or s3://BUCKET/PREFIX. The latter needs the environment variables "
        "S3_ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or each with _FILE added, naming a file with the "
        "value; optional are AWS_SESSION_TOKEN, AWS_REGION and AWS_CA_BUNDLE. "
        f"{CHECKPOINTS_VARIABLE} may name a folder or s3:// place for the state of trainings under way.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="stage")
    for name, stage in STAGES.items():
        _add_stage(commands, name, stage)

    bucket = commands.add_parser("make-bucket", help="Create a bucket of the object store unless it is there.")
    bucket.add_argument("address", metavar="s3://BUCKET")
    bucket.set_defaults(command=_make_bucket)

    link = commands.add_parser("link", help="Print a web address under which an object can be read without a password.")
    link.add_argument("address", metavar="s3://BUCKET/KEY")
    link.add_argument(
        "--days", type=int, choices=range(1, 8), default=7, metavar="N", help="lifetime, 1 to 7 (default)"
    )
    link.set_defaults(command=_link)

    for command in (bucket, link):
        command.add_argument("--json", action="store_true", help="print the answer as one line of JSON")
    return parser


def _add_stage(commands: argparse._SubParsersAction, name: str, stage: Stage) -> None:
    aliases = [alias for alias, target in ALIASES.items() if target == name]
    command = commands.add_parser(
        name,
        aliases=aliases,
        help=stage.help,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{stage.help} Its settings are the section `{stage.section}` of the recipe.",
        epilog="\n".join(
            ["URI is a folder or s3://BUCKET/PREFIX.", *_examples(name, stage), *_settings(stage.section)]
        ).replace("%", "%%"),
    )
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
            required=given.required,
            action="append" if given.many else "store",
            metavar="URI",
            help=given.help,
        )
    for option, help_text in stage.options:
        command.add_argument(f"--{option}", help=help_text)
    command.add_argument("--output", required=True, metavar="URI", help="where the artifact goes")
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


def _settings(section: str) -> list[str]:
    """Returns the lines of `--help` that explain the settings of a section."""
    if section not in Recipe.model_fields:
        return []
    lines = ["", "settings (--set, or in the recipe) and their defaults:"]
    for setting, description in _described(Recipe.model_fields[section].annotation, section):
        lines += [f"  {setting}", textwrap.indent(textwrap.fill(description, _HELP_WIDTH - 6), " " * 6)]
    return lines


def _described(annotation: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Yields key with default, and description, of every setting of a section and of the sections in it."""
    for model in (annotation, *typing.get_args(annotation)):
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        for name, field in model.model_fields.items():
            key = f"{prefix}.{name}"
            inner = list(_described(field.annotation, key))
            if field.is_required() and not inner:
                yield f"{key} (must be given)", field.description or ""
            elif field.default is None or not inner:
                choices = typing.get_args(field.annotation) if typing.get_origin(field.annotation) is Literal else ()
                listed = f" ({' or '.join(map(str, choices))})" if choices else ""
                yield f"{key}={json.dumps(_plain(field.default))}", f"{field.description or ''}{listed}"
            yield from inner


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


if __name__ == "__main__":
    exit_code = main()
    gc.freeze()  # the process ends, and would first search everything that torch loaded for garbage
    sys.exit(exit_code)
