"""Reports of a running training: a log line per interval, `log.jsonl`, TensorBoard scalars, a bar on a terminal."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

logger = logging.getLogger(__name__)

LOG_FILE = "log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"

Record = dict[str, Any]
"""One line of `log.jsonl`: an interval of training (`losses`, means over its steps), an evaluation (`scores`), or signs
of health (`signs`), at steps that do not depend on the clock."""


class LogWriter:
    """Collects the losses of every step and reports their means once per interval.

    Attributes:
        records: All reports so far, by this process and by earlier processes of the same training.
    """

    def __init__(
        self,
        lines: TextIO,
        scalars: SummaryWriter,
        bar: tqdm,
        *,
        total_steps: int,
        batch_size: int,
        line_seconds: float,
    ) -> None:
        """Reports into files that `open_log` has opened."""
        self.records: list[Record] = []
        self._lines = lines
        self._scalars = scalars
        self._bar = bar
        self._total_steps = total_steps
        self._batch_size = batch_size
        self._line_seconds = line_seconds
        self.begin([], step=0)

    def begin(self, earlier: Sequence[Record], *, step: int) -> None:
        """Takes over the reports of earlier processes, and starts the clock.

        Args:
            earlier: Records of earlier processes, oldest first.
            step: Optimisation steps that they did.
        """
        for record in earlier:
            self._write(record)
        self._bar.update(step - self._bar.n)
        self._started = time.monotonic()
        self._first_step = step
        self._begin_interval(step)

    def steps(
        self, step: int, *, epoch: int, seconds: float, learning_rate: float, losses: Sequence[Mapping[str, float]]
    ) -> None:
        """Notes optimisation steps; reports at the end of an interval and after the first and the last step.

        Args:
            step: Optimisation steps done, these included.
            epoch: The epoch that the last of them belongs to, from 0.
            seconds: Seconds that the training took so far.
            learning_rate: The generator's learning rate in the last of them.
            losses: The loss terms by name, for each of them.
        """
        self._bar.update(len(losses))
        for values in losses:
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        duration = time.monotonic() - self._interval_started
        if duration < self._line_seconds and step not in (self._first_step + 1, self._total_steps):
            return
        steps = step - self._interval_first_step
        means = {name: total / steps for name, total in self._sums.items()}
        images_per_second = steps * self._batch_size / max(duration, 1e-9)
        logger.info(
            "step %d/%d  epoch %d  %.3g images/s  ETA %s  learning rate %.3g  %s",
            *(step, self._total_steps, epoch, images_per_second, self._remaining(step), learning_rate, _figures(means)),
        )
        self._write(
            {
                "step": step,
                "epoch": epoch,
                "seconds": round(seconds, 3),
                "images_per_second": round(images_per_second, 3),
                "learning_rate": learning_rate,
                "losses": means,
            }
        )
        self._begin_interval(step)

    def signs(self, step: int, *, epoch: int, of: int, signs: Mapping[str, float]) -> None:
        """Notes the signs of a training's health, to four digits, and the steps that it will have."""
        rounded = {name: float(f"{value:.4g}") for name, value in signs.items()}
        self._write({"step": step, "epoch": epoch, "of": of, "signs": rounded})

    def scores(self, step: int, *, epoch: int, scores: Mapping[str, float]) -> None:
        """Reports an evaluation on held-out images."""
        logger.info("step %d/%d  held-out images: %s", step, self._total_steps, _figures(scores))
        self._write({"step": step, "epoch": epoch, "scores": dict(scores)})

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of the body out of images per second."""
        paused = time.monotonic()
        yield
        self._interval_started += time.monotonic() - paused

    def _begin_interval(self, step: int) -> None:
        self._sums: dict[str, float] = {}
        self._interval_first_step = step
        self._interval_started = time.monotonic()

    def _remaining(self, step: int) -> datetime.timedelta:
        """Returns the time left at the average pace of this process."""
        pace = (time.monotonic() - self._started) / (step - self._first_step)
        return datetime.timedelta(seconds=round(pace * (self._total_steps - step)))

    def _write(self, record: Record) -> None:
        self.records.append(record)
        self._lines.write(json.dumps(record, allow_nan=False) + "\n")
        self._lines.flush()
        for kind in ("losses", "scores", "signs"):
            for name, value in record.get(kind, {}).items():
                self._scalars.add_scalar(f"{kind}/{name}", value, record["step"])
        for name in ("learning_rate", "images_per_second"):
            if name in record:
                self._scalars.add_scalar(name, record[name], record["step"])


@contextlib.contextmanager
def open_log(folder: Path, *, total_steps: int, batch_size: int, line_seconds: float) -> Iterator[LogWriter]:
    """Opens the log of a training.

    Args:
        folder: The folder that gets `log.jsonl` and `tensorboard/`.
        total_steps: Optimisation steps of the whole training.
        batch_size: Images per step.
        line_seconds: Seconds between lines.
    """
    with (
        (folder / LOG_FILE).open("w", encoding="utf-8") as lines,
        _open_scalars(folder / TENSORBOARD_FOLDER) as scalars,
        tqdm(
            total=total_steps, unit="step", disable=not (sys.stderr.isatty() and logger.isEnabledFor(logging.INFO))
        ) as bar,
        contextlib.nullcontext() if bar.disable else logging_redirect_tqdm(),
    ):
        logger.info("training %d steps of %d images; curves: tensorboard --logdir %s", total_steps, batch_size, folder)
        yield LogWriter(lines, scalars, bar, total_steps=total_steps, batch_size=batch_size, line_seconds=line_seconds)


@contextlib.contextmanager
def _open_scalars(folder: Path) -> Iterator[SummaryWriter]:
    """Opens a file of TensorBoard. Errors of the thread that writes it are raised here, without a second traceback."""
    report = threading.excepthook

    def report_others(failed: threading.ExceptHookArgs) -> None:
        if not type(failed.thread).__module__.startswith("tensorboard."):
            report(failed)

    threading.excepthook = report_others
    try:
        with contextlib.closing(SummaryWriter(str(folder))) as scalars:
            yield scalars
            scalars.flush()
    finally:
        threading.excepthook = report


def _figures(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
