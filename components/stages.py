"""The one table of stages, for the command line, clusters and trainjobs: their names, inputs and outputs.

Importing this loads nothing heavy: a stage is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Input:
    """An artifact that a stage reads.

    Attributes:
        name: Argument of the stage function.
        kinds: Artifact kinds that fit, separated by "|".
        help: One line for `--help`.
        required: Whether the stage needs it.
        option: Name of the command-line option; "" if it is `name`.
        many: Whether several artifacts may be given.
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
    """A further argument of a stage function, and one line about it for `--help`."""

    name: str
    help: str


@dataclass(frozen=True)
class Stage:
    """A stage, its inputs and its further options.

    Attributes:
        section: Name of its section in a recipe, and kind of the artifact that it writes.
        help: One sentence for `--help`.
        output: Content of the artifact, for `--help`.
        load: Imports the stage function. That takes its section, and `output`, every input and every option by name.
        inputs: Artifacts it reads.
        options: Further options.
        examples: Pairs for `--help`: the arguments of a command, and what the command does.
        preview: Imports the function of a dry run, which takes the section and the options by name, and returns text.
        adds_versions: Whether it adds versions below its output, each for good, and replaces no artifact.
    """

    section: str
    help: str
    output: str
    load: Callable[[], Callable[..., Any]]
    inputs: tuple[Input, ...] = ()
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()
    preview: Callable[[], Callable[..., str]] | None = None
    adds_versions: bool = False

    @property
    def trains(self) -> bool:
        """Whether it takes days, keeps checkpoints and resumes after a kill."""
        return CHECKPOINT in self.options


def _dataset() -> Callable[..., None]:
    from components.dataset.stage import run

    return run


def _dataset_preview() -> Callable[..., str]:
    from components.dataset.stage import preview

    return preview


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


def _publish() -> Callable[..., Any]:
    from components.publish.stage import run

    return run


DATASET = Input("dataset", "dataset", "packed images, from the dataset stage")
REAL_STATS = Input("real_stats", "real_stats", "statistics of real images, from the real-stats stage")
TEACHER = Input("teacher", "teacher", "trained teacher, from the teacher stage")
CHECKPOINT = Option(
    "checkpoint",
    "folder or s3:// address where the training keeps its state; after a kill, the same command resumes from it",
)

STAGES: dict[str, Stage] = {
    "dataset": Stage(
        "dataset",
        "Pack images of two domains into a few large arrays.",
        "packed images",
        _dataset,
        preview=_dataset_preview,
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
        "Compute statistics of real images, with which generated images are compared.",
        "real_stats.npz (mean, covariance and features)",
        _real_stats,
        inputs=(DATASET,),
        examples=(
            ("--dataset out/dataset", "uses a fixed random network, which needs no weights; its distances are not FID"),
            (
                "--dataset out/dataset --set real_stats.features=inception "
                "--set real_stats.weights.uri=weights/pt_inception-2015-12-05-6726825d.pth",
                "uses Inception, for FID and KID; the weights' SHA-256 is checked before they are read",
            ),
            (
                "--dataset out/dataset --recipe horse2zebra --set real_stats.published.uri=weights/horse2zebra_B.npz",
                "uses published statistics (mu, sigma) instead of the dataset's own",
            ),
        ),
    ),
    "teacher": Stage(
        "teacher",
        "Train the large generator.",
        "generators, discriminators and the log of the training",
        _teacher,
        inputs=(DATASET, REAL_STATS),
        options=(CHECKPOINT,),
    ),
    "prune": Stage(
        "prune",
        "Cut the teacher's channels until the generator fits a compute budget.",
        "the student's architecture, and inherited weights if there are any",
        _prune,
        inputs=(TEACHER,),
        options=(
            Option(
                "budget",
                "compute budget: MACs such as 2.6e9, a share of the teacher's MACs such as 0.05x, or milliseconds such "
                "as 15ms, with --set prune.latency_table.uri=FILE (default: the recipe's first budget)",
            ),
        ),
    ),
    "distill": Stage(
        "distill",
        "Train the student with the teacher's features as a guide.",
        "the trained student and the log of the training",
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
        "Score a generator on held-out images, with its teacher for comparison.",
        "metrics.json and pictures",
        _evaluate,
        inputs=(
            Input("student", "distill|teacher", "generator to score, from the distill or teacher stage"),
            Input("teacher", "teacher", "teacher to compare the student with", required=False),
            DATASET,
            REAL_STATS,
        ),
        examples=(
            (
                "--student out/distill --teacher out/teacher --dataset out/dataset --real-stats out/real-stats",
                "compares a student with its teacher; metrics.json has scores, confidence intervals and protocol",
            ),
            (
                "--student out/teacher --dataset out/dataset --real-stats out/real-stats",
                "scores a generator alone, here a teacher",
            ),
            (
                "--student out/distill --dataset out/dataset --real-stats out/real-stats "
                "--set evaluate.segmenter.weights.uri=weights/drn-d-105_ms_cityscapes.pth",
                "also measures mIoU on Cityscapes; segmentation.json has the classes' IoU and the confusion matrix",
            ),
            (
                "--student out/distill --dataset out/dataset --real-stats out/real-stats "
                "--set evaluate.lpips.weights.uri=weights/alexnet-owt-7be5be79.pth",
                "also measures LPIPS, on datasets of pairs",
            ),
        ),
    ),
    "export": Stage(
        "export",
        "Write a generator as an ONNX file and check that the file computes the same images.",
        "model.onnx, and the results of the check in export.json",
        _export,
        inputs=(
            Input("student", "distill|prune|teacher", "generator to export, from the distill, prune or teacher stage"),
            Input(
                "dataset",
                "dataset",
                "images on which the file is compared with PyTorch (default: noise)",
                required=False,
            ),
            Input("teacher", "teacher", "teacher to time beside the student in ONNX Runtime", required=False),
            Input(
                "real_stats",
                "real_stats",
                "statistics of real images, for the scores of files of less precision (default: random features)",
                required=False,
            ),
        ),
    ),
    "report": Stage(
        "report",
        "Show a run on one page, and collect the files of its students.",
        "report.html, and a folder of files per student",
        _report,
        inputs=(
            Input(
                "evaluations", "evaluate", "output of the evaluate stage; repeatable", option="evaluation", many=True
            ),
            Input("dataset", "dataset", DATASET.help, required=False),
            Input("real_stats", "real_stats", REAL_STATS.help, required=False),
            Input("teacher", "teacher", TEACHER.help, required=False),
            Input("students", "prune", "output of the prune stage; repeatable", False, "student", many=True),
            Input("distilled", "distill", "output of the distill stage; repeatable", False, many=True),
            Input("exports", "export", "output of the export stage; repeatable", False, "export", many=True),
            Input("earlier", "report", "report of an earlier sweep to compare with; repeatable", False, many=True),
        ),
    ),
    "publish": Stage(
        "publish",
        "Add a student, with its model card, as a version to where people fetch models.",
        "OUTPUT/VERSION with model card, ONNX, safetensors and a manifest of checksums, written last; a version never "
        "changes",
        _publish,
        inputs=(
            Input(
                "students",
                "distill|prune|teacher",
                "generator to publish, from the distill, prune or teacher stage; repeatable",
                option="student",
                many=True,
            ),
            Input("exports", "export", "its ONNX files, from the export stage; repeatable", option="export", many=True),
            Input("evaluations", "evaluate", "its scores; repeatable", False, "evaluation", many=True),
            Input("pruned", "prune", "the architecture that it was trained from; repeatable", False, many=True),
            Input("dataset", "dataset", DATASET.help, required=False),
            Input("teacher", "teacher", TEACHER.help, required=False),
        ),
        options=(
            Option("layout", "files, triton, huggingface or oci; replaces publish.layout"),
            Option("version", "name of the version (default: the beginning of the SHA-256 of its content)"),
        ),
        examples=(
            (
                "--student out/distill --export out/export --evaluation out/evaluate --dataset out/dataset "
                "--teacher out/teacher",
                "adds out/publish/VERSION; an address such as s3://models/NAME serves as well",
            ),
            (
                "--student out/distill --export out/export --layout triton --version 1.0",
                "adds a model repository of Triton and KServe",
            ),
        ),
        adds_versions=True,
    ),
}
"""The stages by the names of their commands."""

TRAININGS = tuple(stage.section for stage in STAGES.values() if stage.trains)
"""Sections of the stages that take days, survive a kill, and exchange data between processes through /dev/shm."""

ALIASES = {"real_stats": "real-stats"}
"""Other names of commands."""
