import time

import pytest
import torch

from components.catlib.metrics.latency import Latency, measure_latency


def test_calls_take_turns_and_warm_up_is_not_timed():
    order: list[str] = []
    latencies = measure_latency(
        {"teacher": lambda: order.append("t"), "student": lambda: order.append("s")}, repeats=4, warmup=2
    )
    assert "".join(order) == "ts" * 6
    assert [len(latency.seconds) for latency in latencies.values()] == [4, 4]
    assert latencies["teacher"].threads == torch.get_num_threads()


def test_a_longer_call_takes_longer():
    latencies = measure_latency(
        {"long": lambda: time.sleep(0.02), "short": lambda: time.sleep(0.002)}, repeats=3, warmup=0
    )
    assert latencies["long"].low >= 0.02
    assert latencies["short"].median < latencies["long"].median


def test_median_and_spread():
    latency = Latency(tuple(float(second) for second in range(1, 12)), threads=1)
    assert (latency.low, latency.median, latency.high) == pytest.approx((2.0, 6.0, 10.0))
