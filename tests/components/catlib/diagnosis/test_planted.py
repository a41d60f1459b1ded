"""The trainings of `planted.py` themselves: `make test-slow`."""

from pathlib import Path

import pytest

from tests.components.catlib.diagnosis.planted import RUNS, record
from tests.components.catlib.diagnosis.test_recorded import causes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planted")


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_training_shows_what_was_planted(folder: Path, name: str):
    expected = RUNS[name].cause
    assert causes(record(folder, name))[:1] == ([] if expected is None else [expected])
