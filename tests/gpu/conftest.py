"""Where these tests compute: on a GPU, or with GPU_TESTS_DEVICE=cpu on the CPU, those that can."""

import os
from collections.abc import Iterator

import pytest
import torch

REASON = "needs a CUDA GPU, and torch finds none; `make gpu-campaign` runs it where there is one"


@pytest.fixture
def device() -> str:
    """The GPU, or the CPU if it is named; without either the test is skipped."""
    if os.environ.get("GPU_TESTS_DEVICE") == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip(REASON)
    return "cuda"


@pytest.fixture
def card() -> str:
    """The GPU, for tests of what no CPU has."""
    if not torch.cuda.is_available():
        pytest.skip(REASON)
    return "cuda"


@pytest.fixture(autouse=True)
def _settings_of_torch() -> Iterator[None]:
    """Restores what tests switch for the whole process."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    deterministic = torch.backends.cudnn.deterministic
    torch.manual_seed(0)
    yield
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])
    torch.backends.cudnn.deterministic = deterministic
