"""Commands of the command line in processes that are killed (SIGKILL) at any moment, and what must come out after all.

A process starts in an instant, because it is forked from a server that has loaded everything. It dies after some
milliseconds, or in the middle of its n-th call that opens, makes, renames or removes a file.
"""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from components.catlib.config import TrainingConfig
from tests.components.small_trainings import Pairing, distill_config, make_images, teacher_config

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([
    "tests.components.small_trainings", "components.__main__", "components.distill.stage", "components.evaluate.stage",
    "components.export.stage", "components.report.stage", "torch.onnx", "onnxscript", "torch.utils.tensorboard",
])  # fmt: skip

FAMILIES: dict[str, Pairing] = {"pix2pix": "paired", "cyclegan": "unpaired", "spade": "labels"}

COMMANDS: dict[str, list[str]] = {
    "dataset": [],
    "real-stats": ["dataset"],
    "teacher": ["dataset", "real-stats"],
    "prune": ["teacher"],
    "distill": ["teacher", "student=prune", "dataset", "real-stats"],
    "evaluate": ["student=distill", "teacher", "dataset", "real-stats"],
    "export": ["student=distill", "dataset"],
    "report": [
        "evaluation=evaluate",
        "dataset",
        "real-stats",
        "teacher",
        "student=prune",
        "distilled=distill",
        "export",
    ],
}
"""Every stage, and the options that name its inputs: outputs of the stages of that name, or of another."""

MEASURED = {
    "seconds", "images_per_second", "latency", "latency_ms", "student_latency_ms", "teacher_latency_ms",
    "latency_ratio", "torch_milliseconds", "onnxruntime_milliseconds",
}  # fmt: skip
"""Fields of JSON files that hold measured times or dates; all other fields must be equal, bit by bit."""

HOLDS_MEASURED = {"log.jsonl", "metrics.json", "export.json", "manifest.json"}
"""Files with such fields; the manifest's digests of them are not compared, their other fields are."""

FILE_CALLS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree"}
"""Audit events at which a process may be killed. An `open` counts if it is for writing."""

LOG_EVERY_STEP = {"CAT_CHECKPOINT_SECONDS": "1e-9", "CAT_LOG_SECONDS": "1e-9"}


class Place(NamedTuple):
    """Where one family's outputs lie."""

    family: str
    folder: Path

    def arguments(self, stage: str, output: Path, checkpoint: Path) -> list[str]:
        """Returns the command of a stage, whose inputs are the outputs of this place."""
        given = []
        for option in COMMANDS[stage]:
            name, _, source = option.partition("=")
            given += [f"--{name}", str(self.folder / (source or name))]
        given += ["--checkpoint", str(checkpoint)] if stage in ("teacher", "distill") else []
        given += ["--budget", "0.5x"] if stage == "prune" else []
        return [stage, "--recipe", str(self.folder / "recipe.yaml"), *given, "--output", str(output)]


class Moment(NamedTuple):
    """When a process is killed: after some seconds, or at a call; neither: never."""

    seconds: float | None = None
    call: int | None = None


def make_place(
    family: Any, folder: Path, *, stages: Iterable[str] = COMMANDS
) -> tuple[Place, dict[str, tuple[float, int]]]:
    """Makes images and a recipe, and runs every stage undisturbed.

    Returns:
        The place, and for every stage the seconds that it takes and the number of calls about files.
    """
    pairing = FAMILIES[family]
    config = make_images(folder, pairing)
    short = {"epochs": 2, "decay_epochs": 1}
    short |= {name: 1e-9 for name in ("checkpoint_seconds", "log_seconds") if name in TrainingConfig.model_fields}
    sections = {
        "teacher": teacher_config(family, ema_decay=0.9, **short).model_dump(mode="json"),
        "distill": distill_config(family, **short).model_dump(mode="json"),
    }
    recipe = {
        "name": family, "description": "Killed again and again.", "budgets": ["0.5x"], "dataset": config, **sections,
        "prune": {"min_channels": 2}, "evaluate": {"num_samples": 2, "latency_repeats": 1},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    place, effort = Place(family, folder), {}
    for stage in stages:
        counted = PROCESSES.Value("q", 0)
        began = time.monotonic()
        code = run(place.arguments(stage, folder / stage, folder / f"state-{stage}"), Moment(), counted)
        assert code == 0, (family, stage, code)
        effort[stage] = time.monotonic() - began, counted.value
    return place, effort


def run(arguments: list[str], moment: Moment, counted: Any = None) -> int:
    """Runs a command in a process of its own until it ends or is killed; returns its exit code."""
    process = PROCESSES.Process(target=_command, args=(arguments, moment.call, counted))
    process.start()
    if moment.seconds is not None:
        process.join(moment.seconds)
        process.kill()
    process.join(300)
    assert process.exitcode is not None, f"{arguments[0]} does not end"
    return process.exitcode


def _command(arguments: list[str], call: int | None, counted: Any) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= LOG_EVERY_STEP
    os.environ.pop("CAT_CHECKPOINTS", None)
    calls = 0

    def count(event: str, details: tuple[Any, ...]) -> None:
        nonlocal calls
        if event not in FILE_CALLS or (event == "open" and not _writes(details)):
            return
        calls += 1
        if counted is not None:
            counted.value = calls
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    from components.__main__ import main

    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)
        os.dup2(nothing.fileno(), 1)
    sys.exit(main(arguments))


def _writes(details: tuple[Any, ...]) -> bool:
    mode, flags = details[1], details[2]
    return bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or "w" in str(mode or "")


def random_moment(effort: tuple[float, int], chance: random.Random) -> Moment:
    """Returns a moment in a command that takes so many seconds and calls."""
    seconds, calls = effort
    if chance.random() < 0.5:
        return Moment(seconds=chance.uniform(0, seconds))
    return Moment(call=chance.randint(1, max(calls, 1)))


# ---------------------------------------------------------------------------------------------------------- comparison


def content(folder: Path) -> dict[str, Any]:
    """Returns everything in an artifact, but for what was measured: bytes of files, values of JSON, logged numbers."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if "tensorboard/" in name:
            found.setdefault(name.partition("tensorboard/")[0] + "tensorboard", {}).update(_logged(path))
        elif path.name == "manifest.json":
            found[name] = _manifest(json.loads(path.read_bytes()))
        elif path.suffix == ".jsonl":
            found[name] = [_unmeasured(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.name in HOLDS_MEASURED:
            found[name] = _unmeasured(json.loads(path.read_bytes()))
        else:
            found[name] = path.read_bytes()
    return found


def differences(first: Path, second: Path) -> list[str]:
    """Returns the names of files that differ in more than what was measured."""
    ours, theirs = content(first), content(second)
    return [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]


def _manifest(fields: dict[str, Any]) -> Any:
    files = {
        "tensorboard" if "tensorboard/" in name else name: None if _holds_measured(name) else record
        for name, record in fields["files"].items()
    }
    return {**_unmeasured(fields), "files": files}


def _holds_measured(name: str) -> bool:
    return "tensorboard/" in name or name.rpartition("/")[2] in HOLDS_MEASURED


def _unmeasured(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unmeasured(nested) for key, nested in value.items() if key not in MEASURED}
    return [_unmeasured(nested) for nested in value] if isinstance(value, list) else value


def _logged(path: Path) -> dict[tuple[int, str], bytes]:
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    return {
        (event.step, value.tag): value.SerializeToString()
        for event in LegacyEventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag.rpartition("/")[2] not in MEASURED
    }
