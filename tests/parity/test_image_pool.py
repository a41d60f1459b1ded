"""Image-pool traces of the published implementation: what comes back, what stays, and every random draw."""

import random

import pytest
import torch

from components.catlib.objectives.image_pool import ImagePool, random_state, restore_random_state
from tests.parity.cases import Case

pytestmark = pytest.mark.cases("lr_pool*.json")


class RecordingRandom(random.Random):
    """Notes every draw."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.draws: list[list[object]] = []

    def uniform(self, a: float, b: float) -> float:
        self.draws.append(["uniform", super().uniform(a, b)])
        return self.draws[-1][1]

    def randint(self, a: int, b: int) -> int:
        self.draws.append(["randint", super().randint(a, b)])
        return self.draws[-1][1]


def _images(numbers: list[int]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 2, 2)


def _numbers(images: torch.Tensor) -> list[int]:
    return [int(image[0, 0, 0]) for image in images]


def test_traces(case: Case) -> None:
    assert case.facts["pool"]
    for trace in case.facts["pool"]:
        numbers = RecordingRandom(trace["python_random_seed"])
        pool = ImagePool(trace["pool_size"], numbers)
        for call in trace["calls"]:
            numbers.draws.clear()
            assert _numbers(pool.exchange(_images(call["input_ids"]))) == call["returned_ids"]
            assert numbers.draws == call["draws"]
            assert _numbers(pool.images()) == call["pool_after"]


def test_traces_go_on_after_a_checkpoint(case: Case) -> None:
    for trace in case.facts["pool"]:
        numbers = random.Random(trace["python_random_seed"])
        pool = ImagePool(trace["pool_size"], numbers)
        for call in trace["calls"]:
            images, state, numbers = pool.images(), random_state(numbers), random.Random()
            pool = ImagePool(trace["pool_size"], numbers)
            pool.restore(images)
            restore_random_state(numbers, state)
            assert _numbers(pool.exchange(_images(call["input_ids"]))) == call["returned_ids"]
