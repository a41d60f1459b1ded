"""Files of less precision beside `model.onnx`: which are published, and which file is the fastest in which runtime.

A file is published if it is close enough to the float32 file, keeps the metrics, and is faster on this machine.
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from components.catlib.config.student import Precision
from components.catlib.exporting.kept_metrics import Figures, lost_metric
from components.catlib.exporting.quantising import Quantiser, layers_to_keep, to_float16
from components.catlib.exporting.runtimes import INSTALL_OPENVINO, Run, Runtime
from components.catlib.metrics.similarity import DATA_RANGE, HIGHEST_PSNR
from components.catlib.timing import Machine, Measured, cpu_name, measure, ratio

logger = logging.getLogger(__name__)

FEWEST_DECIBELS = 40.0
"""Least PSNR against the float32 file, on held-out images."""

RESERVE = 1.0
"""Decibels more than that which the choice of layers asks of training images, because other images may fare worse."""

MARGIN = 1.05
"""A file is faster if it is at least this many times faster."""

ROUNDS, SECONDS = 15, 6.0
"""Timed rounds per number of threads, and the time after which no further one begins."""

BEST = "model.best.onnx"


@dataclass(frozen=True)
class Pictures:
    """Images that files of less precision are made and judged with, float32 [N, C, H, W].

    Attributes:
        calibration: Training images that give the ranges of INT8; None: there are none.
        control: Other training images, on which layers are chosen; None: there are none.
        held_out: Inputs that the file is judged on.
        figures: Scores of a file's images, as the evaluation has them; None: there are no images to score.
    """

    calibration: Tensor | None
    control: Tensor | None
    held_out: Tensor
    figures: Callable[[Run], Figures] | None = None


@dataclass(frozen=True)
class Row:
    """A file in a runtime.

    Attributes:
        file: Name of the file.
        precision: "float32", "fp16" or "int8".
        runtime: Name of the runtime.
        bytes: Size of the file.
        measured: Times and memory of one image.
        decibels: PSNR against `model.onnx` in ONNX Runtime; None for another network.
    """

    file: str
    precision: str
    runtime: str
    bytes: int
    measured: Measured
    decibels: float | None

    def facts(self) -> dict[str, Any]:
        """Returns it as JSON values; times in milliseconds."""
        return {
            "file": self.file,
            "precision": self.precision,
            "runtime": self.runtime,
            "threads": self.measured.threads,
            "milliseconds": self.measured.milliseconds(),
            "memory_bytes": self.measured.host_bytes,
            "file_bytes": self.bytes,
            "decibels": self.decibels,
        }


def write_precisions(
    folder: Path,
    plain: onnx.ModelProto,
    wanted: Sequence[Precision],
    *,
    pictures: Pictures,
    runtimes: Sequence[Runtime],
    threads: Sequence[int],
    workspace: Path,
    teacher: Path | None = None,
) -> dict[str, Any]:
    """Writes the files that pass beside `model.onnx`, and the fastest of all once more as `model.best.onnx`.

    Args:
        folder: Where `model.onnx` is.
        plain: The graph that INT8 and float16 are made from, with metadata.
        wanted: Precisions to try.
        pictures: Images to make and judge them with.
        runtimes: Runtimes to compare, ONNX Runtime first.
        threads: Numbers of threads to compare; gains count with the first.
        workspace: A place for files that are not kept.
        teacher: The teacher's ONNX file, timed beside them.

    Returns:
        JSON values: `rows` of the table, `refused` (precision -> sentence), `in_float` (layers of INT8), `notes`,
        `best`, `teacher` (how many times faster the student is in ONNX Runtime), `cpu`.
    """
    judge = _Judge(folder / "model.onnx", pictures, list(runtimes), tuple(threads))
    files: dict[str, Path] = {"float32": judge.model}
    refused: dict[str, str] = {}
    in_float: list[str] = []
    quantiser: Quantiser | None = None
    for precision in wanted:
        path = workspace / f"model.{precision}.onnx"
        if precision == "fp16":
            onnx.save(to_float16(plain), path)
        elif pictures.calibration is None:
            refused[precision] = "int8 needs training images to calibrate on; give the export a dataset."
            continue
        else:
            quantiser = Quantiser(plain, pictures.calibration.numpy(), workspace)
            onnx.save(quantiser(), path)
        files[precision] = path
    others = {} if teacher is None else {"teacher": teacher}
    rows = judge.rows(files | others)
    if quantiser is not None and _slow(rows, "int8", threads[0]) is None:
        in_float = list(_control(judge, quantiser, pictures.control, workspace))
        if in_float:
            onnx.save(quantiser(in_float), files["int8"])
            rows = judge.rows(files | others)
    for precision in wanted:
        if precision not in refused and (reason := judge.reason(rows, precision, files[precision])):
            refused[precision] = reason
            logger.info("%s is not published: %s", precision, reason)
    passing = [row for row in rows if row.precision != "teacher" and row.precision not in refused]
    for path in {row.file: files[row.precision] for row in passing if row.precision != "float32"}.values():
        shutil.copyfile(path, folder / path.name)
    best = min(passing, key=lambda row: row.measured.median)
    shutil.copyfile(files[best.precision], folder / BEST)
    return {
        "rows": [row.facts() for row in rows],
        "refused": refused,
        "in_float": in_float,
        "notes": judge.notes,
        "best": {"file": best.file, "runtime": best.runtime, "threads": best.measured.threads,
                 "milliseconds": best.measured.milliseconds()["median"]},
        "teacher": _against_teacher(rows, threads[0]),
        "cpu": cpu_name(),
    }  # fmt: skip


def _control(judge: _Judge, quantiser: Quantiser, control: Tensor | None, workspace: Path) -> tuple[str, ...]:
    """Chooses the layers that stay in float."""
    assert control is not None, "who has calibration images has others"
    expected = judge.reference(control)

    def decibels(in_float: Collection[str]) -> float:
        path = workspace / "trial.onnx"
        onnx.save(quantiser(in_float), path)
        return decibels_between(judge.runtimes[0].load(path, 1)(control), expected)

    return layers_to_keep(quantiser.layers, decibels, wanted=FEWEST_DECIBELS + RESERVE)


class _Judge:
    """Times files and compares them with `model.onnx`; collects notes about what could not be run."""

    def __init__(self, model: Path, pictures: Pictures, runtimes: list[Runtime], threads: tuple[int, ...]) -> None:
        self.model, self.pictures, self.runtimes, self.threads = model, pictures, runtimes, threads
        self.notes = [] if any(runtime.name == "OpenVINO" for runtime in runtimes) else [INSTALL_OPENVINO]
        self.reference = runtimes[0].load(model, 1)
        self._expected = self.reference(pictures.held_out)
        self._made: dict[tuple[str, str], Tensor] = {}
        self._runs: dict[tuple[str, str], Run] = {}

    def rows(self, files: Mapping[str, Path]) -> list[Row]:
        """Times every file in every runtime with every number of threads, in turn; a teacher in ONNX Runtime alone."""
        rows = []
        self._made.clear()
        image = self.pictures.held_out[:1]
        for count in self.threads:
            loaded = {
                (precision, runtime.name): run
                for precision, path in files.items()
                for runtime in (self.runtimes[:1] if precision == "teacher" else self.runtimes)
                if (run := self._load(runtime, path, count)) is not None
            }
            self._runs |= loaded
            for key, run in loaded.items():
                if key not in self._made and key[0] != "teacher":
                    self._made[key] = run(self.pictures.held_out)
            measured = measure(
                {"/".join(key): lambda run=run: run(image) for key, run in loaded.items()},
                repeats=ROUNDS,
                machine=Machine(threads=count),
                seconds=SECONDS,
                memory=True,
            )
            for (precision, runtime), times in zip(loaded, measured.values(), strict=True):
                path, made = files[precision], self._made.get((precision, runtime))
                decibels = None if made is None else decibels_between(made, self._expected)
                rows.append(Row(path.name, precision, runtime, path.stat().st_size, times, decibels))
        return rows

    def _load(self, runtime: Runtime, path: Path, threads: int) -> Run | None:
        try:
            run = runtime.load(path, threads)
            run(self.pictures.held_out[:1])
        except Exception as error:  # runtimes have classes of their own, which share no other parent
            if runtime is self.runtimes[0] and path == self.model:
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
            note = f"{runtime.name} cannot run {path.name} ({reason})."
            if note not in self.notes:
                self.notes.append(note)
            return None
        return run

    def reason(self, rows: Sequence[Row], precision: str, path: Path) -> str | None:
        """Returns why a file is not published, in one sentence; None if it is."""
        own = [row for row in rows if row.precision == precision]
        if not own:
            return f"no runtime can run {path.name}."
        worst = min(own, key=lambda row: row.decibels if row.decibels is not None else HIGHEST_PSNR)
        if worst.decibels is None or worst.decibels < FEWEST_DECIBELS:
            return (
                f"{precision} has a PSNR of {worst.decibels or 0:.1f} dB to float32 in {worst.runtime} on held-out "
                f"images; {FEWEST_DECIBELS:.0f} dB are needed."
            )
        if slow := _slow(rows, precision, self.threads[0]):
            return slow
        measure = self.pictures.figures
        for (name, runtime), run in self._runs.items():
            if measure and name == precision and (lost := lost_metric(measure(run), self._reference_figures)):
                return f"{precision} in {runtime} {lost}."
        return None

    @functools.cached_property
    def _reference_figures(self) -> Figures:
        assert self.pictures.figures is not None, "asked for where they are measured"
        return self.pictures.figures(self.reference)


def decibels_between(made_NCHW: Tensor, expected_NCHW: Tensor) -> float:
    """Returns the PSNR of images against others in dB, over all values, for a range of 2; at most 100.

    Images whose shapes differ, or with values that are no numbers, are as far as can be: -100.
    """
    if made_NCHW.shape != expected_NCHW.shape or not torch.isfinite(made_NCHW).all():
        return -HIGHEST_PSNR
    error = (made_NCHW.double() - expected_NCHW.double()).square().mean().item()
    return HIGHEST_PSNR if error == 0 else min(HIGHEST_PSNR, float(10 * np.log10(DATA_RANGE**2 / error)))


def _slow(rows: Sequence[Row], precision: str, threads: int) -> str | None:
    """Returns the sentence that a file is no faster than float32, each in its fastest runtime; None if it is faster."""
    times = [row for row in rows if row.measured.threads == threads]
    plain, own = (
        min((row for row in times if row.precision == name), key=lambda row: row.measured.median, default=None)
        for name in ("float32", precision)
    )
    if plain is None or own is None:
        return f"{precision} was not timed with {threads} thread."
    gain = ratio(plain.measured, own.measured)
    if gain >= MARGIN:
        return None
    return (
        f"{precision} is {gain:.2f} times as fast as float32 with {threads} thread ({own.runtime} against "
        f"{plain.runtime}); {MARGIN:g} times are needed."
    )


def _against_teacher(rows: Sequence[Row], threads: int) -> dict[str, Any] | None:
    """Returns the times of teacher and student as float32 files in ONNX Runtime, taken in turn."""
    alike = {row.precision: row for row in rows if row.runtime == rows[0].runtime and row.measured.threads == threads}
    if "teacher" not in alike:
        return None
    teacher, student = alike["teacher"].measured, alike["float32"].measured
    return {
        "runtime": rows[0].runtime,
        "threads": threads,
        "teacher_milliseconds": teacher.milliseconds()["median"],
        "student_milliseconds": student.milliseconds()["median"],
        "times_faster": ratio(teacher, student),
    }
