"""A training that fails warns at once, and stops if its recipe asks; watching it changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.catlib.errors import UserError
from components.catlib.training.watching import Watch
from tests.components.small_trainings import (
    assert_same_weights,
    make_dataset,
    make_teacher,
    teacher_config,
)

THROWN: dict[str, Any] = {"learning_rate": 1.0, "epochs": 4, "evaluations": 1}
"""Steps as large as the weights: images lie at the ends of their range after the first."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), "paired")


def records(artifact: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact / "log.jsonl").read_text().splitlines()]


def about_the_rate(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if "learning rate is too high" in each.getMessage()]


def test_a_teacher_that_is_thrown_off_course_warns_once_and_ends(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    make_teacher(data, tmp_path / "teacher", teacher_config("pix2pix", stop_on=["collapsed"], **THROWN))
    (warning,) = about_the_rate(caplog)
    assert warning.startswith("step 4: teacher: the learning rate is too high (the first step moved the weights of the")
    assert warning.endswith("lower teacher.learning_rate by a factor of ten")
    noted = [each for each in records(tmp_path / "teacher") if "signs" in each]
    assert [each["step"] for each in noted] == list(range(1, 19))  # every step of so short a training
    assert {each["of"] for each in noted} == {18}
    assert noted[0]["signs"]["update/generator"] > 0.9
    looked_at = [each["step"] for each in noted if "variation/source_to_target" in each["signs"]]
    assert looked_at == [1, 4, 8, 12, 16, 18]


def test_it_stops_if_the_recipe_asks_and_goes_on_from_there_if_not(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    asked = teacher_config("pix2pix", stop_on=["collapsed", "diverged"], **THROWN)
    sentence = (
        r"^The teacher stage stopped after step \d+ of 18, as teacher\.stop_on asks: the learning rate is too high"
    )
    with pytest.raises(UserError, match=sentence) as stopped:
        make_teacher(data, tmp_path / "teacher", asked, tmp_path / "state")
    assert "after step 4" in str(stopped.value)
    assert str(stopped.value).endswith("or set teacher.stop_on: [] to go on from here.")
    assert stopped.value.exit_code == 2
    assert not (tmp_path / "teacher").exists()
    with pytest.raises(UserError, match=sentence):  # the same command gives the same answer
        make_teacher(data, tmp_path / "teacher", asked, tmp_path / "state")
    make_teacher(data, tmp_path / "teacher", teacher_config("pix2pix", **THROWN), tmp_path / "state")
    assert about_the_rate(caplog)[0].startswith("step 6:")  # where it was stopped, one step further each time
    with pytest.raises(UserError, match=sentence):  # also where nothing is left to train
        make_teacher(data, tmp_path / "again", asked, tmp_path / "state")


@pytest.mark.parametrize("family", ["pix2pix", "cyclegan"])
def test_watching_changes_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Any):
    data = make_dataset(tmp_path, "unpaired" if family == "cyclegan" else "paired")
    config = teacher_config(family, generator=teacher_config(family).generator.model_copy(update={"dropout": 0.5}))
    make_teacher(data, tmp_path / "watched", config)
    monkeypatch.setattr(Watch, "after", lambda *_, **__: None)
    make_teacher(data, tmp_path / "unwatched", config)
    assert any("signs" in each for each in records(tmp_path / "watched"))
    assert not any("signs" in each for each in records(tmp_path / "unwatched"))
    assert_same_weights(tmp_path / "watched", tmp_path / "unwatched")
