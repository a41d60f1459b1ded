import threading
import time
from typing import Any

import pytest
import torch

from components.catlib.data.batches import Batch
from components.catlib.data.reading_ahead import AHEAD, READERS, reading_ahead


class SlowBatches:
    """Batches that hold their step; early ones take longest."""

    def __init__(self, *, broken: int = -1) -> None:
        self.asked: list[int] = []
        self.threads: set[str] = set()
        self._broken = broken

    def batch(self, step: int, rows: slice) -> Batch:
        self.asked.append(step)
        self.threads.add(threading.current_thread().name)
        time.sleep(0.005 if step % 2 else 0.02)
        if step == self._broken:
            raise ZeroDivisionError(f"step {step}")
        numbers = torch.full((4, 1), float(step))[rows]
        return Batch(numbers, -numbers)


def reading(batches: SlowBatches, steps: range) -> Any:
    return reading_ahead(batches, steps, slice(0, 2), device=torch.device("cpu"))  # type: ignore[arg-type]


def test_batches_come_in_order_from_several_threads():
    batches = SlowBatches()
    with reading(batches, range(5, 17)) as upcoming:
        found = [(step, batch.source.tolist()) for step, batch in upcoming]
    assert found == [(step, [[step], [step]]) for step in range(5, 17)]
    assert sorted(batches.asked) == list(range(5, 17))
    assert len(batches.threads) == READERS == 2


def test_a_few_batches_wait_and_no_more():
    batches = SlowBatches()
    with reading(batches, range(100)) as upcoming:
        next(upcoming)
        time.sleep(0.15)
        assert sorted(batches.asked) == list(range(AHEAD + 1))
    assert AHEAD >= 2
    assert not [thread for thread in threading.enumerate() if thread.name in batches.threads]


def test_an_error_comes_at_its_own_step():
    with pytest.raises(ZeroDivisionError, match="step 3"), reading(SlowBatches(broken=3), range(9)) as upcoming:
        seen = [next(upcoming)[0] for _ in range(3)]
        assert seen == [0, 1, 2]
        next(upcoming)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_short_trainings_are_read_whole(count: int):
    with reading(SlowBatches(), range(7, 7 + count)) as upcoming:
        assert [step for step, _ in upcoming] == list(range(7, 7 + count))
