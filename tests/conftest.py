"""Options and fixtures of the whole suite."""

import inspect
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

# The networks are tiny: more threads only get into each other's way, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

PARITY_FIXTURES = Path(__file__).parent / "parity" / "fixtures"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--parity-dir",
        type=Path,
        default=PARITY_FIXTURES,
        help="folder of parity fixtures (default: the copy in the repository)",
    )
    parser.addoption("--update-golden", action="store_true", help="write the golden pipelines anew")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the whole runs, which take longest: at the end they would run on alone."""
    items.sort(key=lambda item: item.path.name != "test_local.py")


@pytest.fixture(autouse=True, scope="session")
def _quick_kubeflow() -> Iterator[None]:
    """Spares the tests what Kubeflow's packages spend on every pipeline: seconds instead of a tenth of one.

    They ask who called them, once for every setting of every task, and want only the name of a function: to find the
    source of pytest's frames as well, some of which have no file, Python searches all modules. And they read and write
    YAML in Python, where libyaml does the same.
    """

    def stack(context: int = 1) -> list[inspect.FrameInfo]:
        frames = (frame for frame, _ in traceback.walk_stack(sys._getframe(1)))
        return [inspect.FrameInfo(each, each.f_code.co_filename, each.f_lineno, each.f_code.co_name, None, None)
                for each in frames]  # fmt: skip

    def dump_all(documents: Any, stream: Any = None, Dumper: Any = yaml.Dumper, **named: Any) -> Any:
        return written(documents, stream, yaml.CDumper if Dumper is yaml.Dumper else Dumper, **named)

    written = yaml.dump_all
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "stack", stack)
        patch.setattr(yaml, "SafeLoader", yaml.CSafeLoader)
        patch.setattr(yaml, "dump_all", dump_all)
        yield


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)


@pytest.fixture
def heeded_signals() -> Iterator[None]:
    """Lets this process heed the signals that stop a command; a suite in the background ignores some of them."""
    earlier = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    for number in earlier:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in earlier.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _no_closed_streams() -> None:
    """Takes away where commands of earlier tests, run in this process, logged to: it has been closed since.

    What such a command silenced is heard again.
    """
    logging.disable(logging.NOTSET)
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if type(handler) is logging.StreamHandler:  # pytest's own are of other kinds
            root.removeHandler(handler)
