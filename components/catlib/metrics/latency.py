"""How long a call takes: median and spread over repeats, several candidates measured beside each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

WARMUP = 3
"""Rounds that are run before any is timed."""


@dataclass(frozen=True)
class Latency:
    """Wall-clock time of one call.

    Attributes:
        seconds: Time of every repeat, in the order in which they ran.
        threads: CPU threads that torch used.
    """

    seconds: tuple[float, ...]
    threads: int

    @property
    def median(self) -> float:
        """Median, in seconds."""
        return float(np.median(self.seconds))

    @property
    def low(self) -> float:
        """The 10th percentile, in seconds."""
        return float(np.quantile(self.seconds, 0.1))

    @property
    def high(self) -> float:
        """The 90th percentile, in seconds."""
        return float(np.quantile(self.seconds, 0.9))

    def milliseconds(self) -> dict[str, float]:
        """Returns `median`, `low` and `high` in milliseconds."""
        return {"median": 1e3 * self.median, "low": 1e3 * self.low, "high": 1e3 * self.high}


def measure_latency(
    calls: Mapping[str, Callable[[], object]], *, repeats: int, warmup: int = WARMUP
) -> dict[str, Latency]:
    """Times calls in turn, so that a machine that slows down or speeds up affects all of them alike.

    With teacher and student the order is teacher, student, teacher, student, …

    Args:
        calls: Name -> function without arguments that does the work on the CPU.
        repeats: Timed rounds.
        warmup: Rounds before them that are not timed.
    """
    assert repeats >= 1, "at least one timed round"
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(warmup + repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            elapsed = time.perf_counter() - start
            if round_number >= warmup:
                seconds[name].append(elapsed)
    return {name: Latency(tuple(values), torch.get_num_threads()) for name, values in seconds.items()}
