"""The one table of stages: what each reads, writes and is called, for the command line, clusters and trainjobs.

Importing this loads nothing heavy: a stage is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


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
class Option:
    """A further argument of a stage function, with its one line for `--help`."""

    name: str
    help: str


@dataclass(frozen=True)
class Stage:
    """A stage, its inputs and its further options.

    Attributes:
        section: Name of its section in a recipe; also the kind of artifact that it writes.
        help: One sentence for `--help`.
        output: What the artifact holds, for `--help`.
        load: Imports the stage function, which takes its section, `output`, and every input and option by name.
        inputs: Artifacts it reads.
        options: Further options.
        examples: For `--help`: inputs and settings of a command, and what it is for.
    """

    section: str
    help: str
    output: str
    load: Callable[[], Callable[..., None]]
    inputs: tuple[Input, ...] = ()
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()

    @property
    def trains(self) -> bool:
        """Whether it takes days, keeps checkpoints and resumes after a kill."""
        return CHECKPOINT in self.options


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


DATASET = Input("dataset", "dataset", "packed images, from the dataset stage")
REAL_STATS = Input("real_stats", "real_stats", "statistics of real images, from the real-stats stage")
TEACHER = Input("teacher", "teacher", "trained teacher, from the teacher stage")
CHECKPOINT = Option(
    "checkpoint", "folder or s3://… where the training keeps its state; a killed run that finds it there resumes"
)

STAGES: dict[str, Stage] = {
    "dataset": Stage(
        "dataset",
        "Pack images of two domains into a few large arrays.",
        "packed images",
        _dataset,
        options=(
            Option(
                "source",
                "images: a folder or an archive (a path, https://… or s3://…), the name of a known dataset, or "
                "built-in data; replaces the recipe's dataset.source",
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
        "real_stats.npz: mean, covariance and features",
        _real_stats,
        inputs=(DATASET,),
        examples=(
            ("--dataset out/dataset", "with a fixed random network, which needs no weights; distances are not FID"),
            (
                "--dataset out/dataset --set real_stats.features=inception "
                "--set real_stats.weights.uri=weights/pt_inception-2015-12-05-6726825d.pth",
                "for FID and KID; the file's SHA-256 is checked before it is read",
            ),
            (
                "--dataset out/dataset --recipe horse2zebra --set real_stats.published.uri=weights/horse2zebra_B.npz",
                "with published statistics (mu, sigma) instead of the dataset's own",
            ),
        ),
    ),
    "teacher": Stage(
        "teacher",
        "Train the large generator.",
        "generators and discriminators, and the training's log",
        _teacher,
        inputs=(DATASET, REAL_STATS),
        options=(CHECKPOINT,),
    ),
    "prune": Stage(
        "prune",
        "Cut the teacher's channels until the generator fits a compute budget.",
        "the student's architecture, and its weights when it inherits them",
        _prune,
        inputs=(TEACHER,),
        options=(
            Option("budget", "MACs such as 2.6e9, or a share such as 0.05x (default: the recipe's first budget)"),
        ),
    ),
    "distill": Stage(
        "distill",
        "Train the student with the teacher's features as a guide.",
        "the trained student, and the training's log",
        _distill,
        inputs=(
            TEACHER,
            Input("student", "prune", "the student's architecture, from the prune stage"),
            DATASET,
            REAL_STATS,
        ),
        options=(CHECKPOINT,),
    ),
    "evaluate": Stage(
        "evaluate",
        "Score a generator, and its teacher beside it, on held-out images.",
        "metrics.json and pictures",
        _evaluate,
        inputs=(
            Input("student", "distill|teacher", "the generator to score, from the distill stage"),
            Input("teacher", "teacher", "its teacher, for comparison", required=False),
            DATASET,
            REAL_STATS,
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
                "Cityscapes: mIoU too, by class, and which classes are confused, in segmentation.json",
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
        "model.onnx, and what was checked",
        _export,
        inputs=(
            Input("student", "distill|prune|teacher", "the generator to export"),
            Input("dataset", "dataset", "images to compare on (default: noise)", required=False),
        ),
    ),
    "report": Stage(
        "report",
        "Put a run on one page.",
        "report.html, and every student's files",
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
"""The stages by the names of their commands."""

TRAININGS = tuple(stage.section for stage in STAGES.values() if stage.trains)
"""Sections of the stages that take days, survive a kill, and exchange data between processes through /dev/shm."""

ALIASES = {"real_stats": "real-stats"}
"""Other names of commands."""
