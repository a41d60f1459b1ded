import contextlib
import mmap
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from components.catlib import timing
from components.catlib.distributed.machines import device_name, torch_machine
from components.catlib.timing import Machine, Measured, measure, ratio

MIB = 2**20


def test_calls_take_turns_and_warm_up_is_not_timed():
    order: list[str] = []
    times = measure({"teacher": lambda: order.append("t"), "student": lambda: order.append("s")}, repeats=4, warmup=2)
    assert "".join(order) == "ts" * 6
    assert [len(each.seconds) for each in times.values()] == [4, 4]


def test_a_longer_call_takes_longer():
    times = measure({"long": lambda: time.sleep(0.02), "short": lambda: time.sleep(0.002)}, repeats=3, warmup=0)
    assert times["long"].low >= 0.02
    assert times["short"].median < times["long"].median


def test_median_percentiles_and_spread_are_those_of_numpy():
    times = Measured(tuple(float(second) for second in range(1, 12)), threads=1)
    assert (times.low, times.median, times.high) == pytest.approx((2.0, 6.0, 10.0))
    assert times.spread == pytest.approx(8 / 6)
    for count in (1, 2, 7, 20):
        seconds = np.random.default_rng(count).exponential(size=count)
        some = Measured(tuple(seconds), threads=1)
        expected = np.quantile(seconds, [0.1, 0.5, 0.9, 0.95])
        assert [some.low, some.median, some.high, some.p95] == pytest.approx(expected)
        assert list(some.milliseconds().values()) == pytest.approx(1e3 * expected[[1, 0, 2, 3]])


def test_ratios_compare_the_times_of_one_round():
    assert ratio(Measured((2.0, 30.0, 4.0), 1), Measured((1.0, 10.0, 2.0), 1)) == 2.0


def test_a_limit_of_time_leaves_at_least_three_rounds(monkeypatch: pytest.MonkeyPatch):
    times = measure({"slow": lambda: time.sleep(0.003)}, repeats=1000, warmup=0, seconds=0.03)["slow"]
    assert 3 <= len(times.seconds) <= 10
    assert len(measure({"slow": lambda: time.sleep(0.01)}, repeats=9, warmup=0, seconds=0.001)["slow"].seconds) == 3


def test_the_device_is_waited_for_before_and_after_every_call():
    events: list[str] = []

    @contextlib.contextmanager
    def pinned():
        events.append("pin")
        yield
        events.append("unpin")

    machine = Machine(threads=3, pinned=pinned, synchronise=lambda: events.append("wait"))
    times = measure({"call": lambda: events.append("call")}, repeats=2, warmup=1, machine=machine)["call"]
    assert events == ["pin", *["wait", "call", "wait"] * 3, "unpin"]
    assert times.threads == 3


def test_memory_of_a_device_is_its_peak_during_one_call():
    peaks = {"large": 700, "small": 7}
    in_use: list[int] = []
    machine = Machine(reset_peak=in_use.clear, peak=lambda: max(in_use))
    calls = {name: lambda peak=peak: in_use.extend((peak, 1)) for name, peak in peaks.items()}
    found = measure(calls, repeats=1, machine=machine, memory=True)
    assert {name: each.device_bytes for name, each in found.items()} == peaks
    assert measure(calls, repeats=1, machine=machine)["large"].device_bytes is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux reports the peak of a call")
def test_memory_of_the_process_is_by_how_much_a_call_raises_it():
    def use(size: int) -> None:
        with mmap.mmap(-1, size) as memory:
            memory.write(b"x" * size)

    found = measure({"large": lambda: use(48 * MIB), "small": lambda: use(MIB)}, repeats=1, memory=True)
    assert found["large"].host_bytes is not None
    assert found["small"].host_bytes is not None
    assert 48 * MIB <= found["large"].host_bytes < 120 * MIB, "the text that is written counts, too"
    assert found["small"].host_bytes < 24 * MIB, "the peak of an earlier call is forgotten"


def test_a_system_without_these_files_measures_no_memory_of_the_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timing, "Path", lambda _: Path("/nowhere/at all"))
    assert measure({"call": lambda: None}, repeats=1, memory=True)["call"].host_bytes is None


def test_torch_uses_the_named_threads_inside_alone():
    before, seen = torch.get_num_threads(), []
    machine = torch_machine(threads=before + 1)
    times = measure({"call": lambda: seen.append(torch.get_num_threads())}, repeats=1, warmup=0, machine=machine)
    assert seen == [before + 1] == [times["call"].threads]
    assert torch.get_num_threads() == before
    assert device_name("cpu", threads=2) == f"{timing.cpu_name()}, 2 threads"


def test_measuring_loads_no_torch():
    code = "import sys; from components.catlib import timing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
