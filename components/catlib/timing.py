"""How long calls take and how much memory they need: the measurement behind every time that this project states.

Candidates that are compared take turns, in one process with a fixed number of threads, after rounds that nobody times.
So a machine that slows down or speeds up affects all of them alike. torch is not loaded here; `distributed/machines.py`
describes its devices.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

WARMUP = 3
"""Rounds that are run before any is timed."""

FEWEST_ROUNDS = 3
"""Timed rounds that a limit of time does not take away."""


def _nothing() -> None:
    """Does nothing."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where calls compute. The defaults describe calls that end when they return and use threads of their own.

    Attributes:
        threads: CPU threads that the calls use.
        pinned: Makes a context in which the calls use exactly these threads.
        synchronise: Waits until the device has done what calls have asked of it.
        reset_peak: Forgets how much memory of the device was in use.
        peak: Returns the largest memory of the device in use since then, in bytes; None: there is no such memory.
    """

    threads: int = 1
    pinned: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    synchronise: Callable[[], object] = _nothing
    reset_peak: Callable[[], object] = _nothing
    peak: Callable[[], int] | None = None


@dataclass(frozen=True)
class Measured:
    """Wall-clock time and memory of one call.

    Attributes:
        seconds: Time of every round, in the order in which they ran.
        threads: CPU threads that it used.
        host_bytes: By how much the resident memory of the process rose during a call; None: not measured, or the
            system does not report it.
        device_bytes: Largest memory of the device in use during a call; None: not measured, or there is none.
    """

    seconds: tuple[float, ...]
    threads: int
    host_bytes: int | None = None
    device_bytes: int | None = None

    @property
    def median(self) -> float:
        """Median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        """The 10th percentile, in seconds."""
        return self.quantile(0.1)

    @property
    def high(self) -> float:
        """The 90th percentile, in seconds."""
        return self.quantile(0.9)

    @property
    def p95(self) -> float:
        """The 95th percentile, in seconds."""
        return self.quantile(0.95)

    @property
    def spread(self) -> float:
        """Distance of the 10th from the 90th percentile as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0

    def quantile(self, share: float) -> float:
        """Returns the time that a share of the rounds stays below, between rounds by linear interpolation, in seconds.

        Args:
            share: In [0, 1].
        """
        ordered = sorted(self.seconds)
        position = share * (len(ordered) - 1)
        below = math.floor(position)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (position - below) * (ordered[above] - ordered[below])

    def milliseconds(self) -> dict[str, float]:
        """Returns `median`, `low`, `high` and `p95` in milliseconds."""
        return {name: 1e3 * getattr(self, name) for name in ("median", "low", "high", "p95")}


def measure(
    calls: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmup: int = WARMUP,
    machine: Machine | None = None,
    seconds: float = math.inf,
    memory: bool = False,
) -> dict[str, Measured]:
    """Times calls in turn: with teacher and student the order is teacher, student, teacher, student, ….

    Args:
        calls: Name -> function without arguments that does the work.
        repeats: Timed rounds.
        warmup: Rounds before them that are not timed.
        machine: Where the calls compute; by default they use one thread and have computed when they return.
        seconds: No round begins later than this many seconds after the first timed one; three are run in any case.
        memory: Whether each call is run once more to measure its memory.
    """
    assert repeats >= 1, "at least one timed round"
    machine = machine or Machine()
    times: dict[str, list[float]] = {name: [] for name in calls}
    with machine.pinned():
        for _ in range(warmup):
            for call in calls.values():
                _timed(call, machine)
        began = time.perf_counter()
        for finished in range(repeats):
            if finished >= FEWEST_ROUNDS and time.perf_counter() - began > seconds:
                break
            for name, call in calls.items():
                times[name].append(_timed(call, machine))
        peaks = {name: _peaks(call, machine) for name, call in calls.items()} if memory else {}
    return {name: Measured(tuple(each), machine.threads, *peaks.get(name, ())) for name, each in times.items()}


def ratio(slower: Measured, faster: Measured) -> float:
    """Returns how many times longer one call takes: the median over rounds, whose two times were taken side by side."""
    return statistics.median(one / other for one, other in zip(slower.seconds, faster.seconds, strict=True))


@functools.cache
def cpu_name() -> str:
    """Returns the name of this machine's CPU, such as "AMD EPYC"."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+?)\s*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1]
    return platform.processor() or platform.machine()


def busy() -> float | None:
    """Returns how many processes have wanted a core over the last minute; None where the system does not report it."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _timed(call: Callable[[], object], machine: Machine) -> float:
    machine.synchronise()
    start = time.perf_counter()
    call()
    machine.synchronise()
    return time.perf_counter() - start


def _peaks(call: Callable[[], object], machine: Machine) -> tuple[int | None, int | None]:
    """Returns by how much a call raises the memory of the process, and the largest memory of the device during it."""
    machine.synchronise()
    machine.reset_peak()
    before = _forget_peak()
    call()
    machine.synchronise()
    after = None if before is None else _status("VmHWM")
    rise = None if before is None or after is None else max(0, after - before)
    return rise, machine.peak() if machine.peak is not None else None


def _forget_peak() -> int | None:
    """Gives free memory back to Linux, sets the peak to what is in use, and returns that; None on other systems."""
    try:
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc
            trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, TypeError):
        return None
    return _status("VmRSS")


def _status(field: str) -> int | None:
    with contextlib.suppress(OSError):
        if found := re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE):
            return 1024 * int(found[1])
    return None
