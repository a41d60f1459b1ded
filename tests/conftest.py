"""Options and fixtures of the whole suite."""

from pathlib import Path

import pytest
import torch

PARITY_FIXTURES = Path(__file__).parent / "parity" / "fixtures"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--parity-dir",
        type=Path,
        default=PARITY_FIXTURES,
        help="folder of parity fixtures (default: the copy in the repository)",
    )
    parser.addoption("--update-golden", action="store_true", help="write the golden pipelines anew")


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)
