"""Trainings that go on: after a change that concerns no weight, from the end of a shorter one, and after they ended.

They run as users run them: as commands of the command line, and as the component that Kubeflow calls.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import dsl

from components.__main__ import main
from components.catlib.artifacts import read_manifest
from components.catlib.code_digest import code_digest
from components.catlib.data.batches import TrainingBatches
from components.catlib.training.loop import logger as loop_logger
from components.distill.component import distill_student
from components.teacher.component import train_teacher
from tests.components.small_trainings import (
    assert_same_weights,
    distill_config,
    make_dataset,
    make_student,
    make_teacher,
    teacher_config,
)
from tests.object_stores import SeaweedServer

ROOT = Path(__file__).resolve().parents[2]
STEPS = 3
"""Steps per epoch of the tiny dataset."""


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), "paired")


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Makes trainings die when they take a step, until the next call; 0: none."""
    batch, fatal = TrainingBatches.batch, 0

    def dying(self: TrainingBatches, step: int, rows: slice) -> Any:
        if fatal and step == fatal:
            raise Killed
        return batch(self, step, rows)

    def at(step: int) -> None:
        nonlocal fatal
        fatal = step

    monkeypatch.setattr(TrainingBatches, "batch", dying)
    yield at


class Commands:
    """`python -m components teacher` on a tiny dataset.

    Attributes:
        log: What the last command wrote to stderr.
        answer: What it wrote to stdout.
        root: The place of the checkpoints of all trainings.
    """

    def __init__(self, folder: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.data, self.root = folder, data, folder / "states"
        self._capsys = capsys
        self.log = self.answer = ""

    def arguments(self, output: str, *words: str, **settings: Any) -> list[str]:
        recipe = self.folder / "recipe.yaml"
        teacher = teacher_config("pix2pix").model_dump(mode="json") | settings
        recipe.write_text(
            yaml.safe_dump(
                {"name": "tiny", "description": "Tiny.", "budgets": ["0.5x"], "teacher": teacher, "distill": FITTING}
            )
        )
        inputs = ["--dataset", str(self.data / "dataset"), "--real-stats", str(self.data / "real_stats")]
        return ["teacher", "--recipe", str(recipe), *inputs, "--output", str(self.folder / output), *words]

    def __call__(self, output: str, *words: str, code: int = 0, **settings: Any) -> Path:
        """Runs one, with further words and with other settings than 2 + 2 epochs; returns its output."""
        self._capsys.readouterr()
        try:
            assert main(self.arguments(output, *words, **settings)) == code
        finally:
            self.answer, self.log = self._capsys.readouterr()
        return self.folder / output

    def dies(self, output: str, *words: str, **settings: Any) -> None:
        with pytest.raises(Killed):
            self(output, *words, **settings)

    def places(self) -> dict[str, list[int]]:
        """Returns the steps of the checkpoints in every place, by its path below the one of all trainings."""
        found: dict[str, list[int]] = {}
        for path in sorted(self.root.rglob("step-*.json")):
            place = path.parent.relative_to(self.root).as_posix()
            found.setdefault(place, []).append(json.loads(path.read_text())["step"])
        return found

    @property
    def refusal(self) -> str:
        """The one sentence with which the last command has ended."""
        (line,) = [line for line in self.log.splitlines() if line.startswith("error: ")]
        return line

    def by_length(self) -> dict[str, list[int]]:
        places = self.places()
        assert len({place.partition("/")[0] for place in places}) == 1
        return {place.partition("/")[2]: steps for place, steps in places.items()}


@pytest.fixture
def train(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    commands = Commands(tmp_path, data, capsys)
    monkeypatch.setenv("CAT_CHECKPOINTS", str(commands.root))
    monkeypatch.setenv("CAT_CHECKPOINT_SECONDS", "1e-9")
    return commands


def steps_of(output: Path) -> int:
    return read_manifest(output).summary["metrics"]["steps"]


# --------------------------------------------------------------------------------------- what concerns no weight


FITTING = {"batch_size": 2}
"""A distillation that the images are enough for: a training is refused if its own `--set` makes a later stage fail."""

UNRELATED: dict[str, list[str]] = {
    "log_seconds": ["--set", "resources.log_seconds=3"],
    "checkpoint_seconds": ["--set", "resources.checkpoint_seconds=5"],
    "keep_checkpoints": ["--set", "resources.keep_checkpoints=4"],
    "time_limit_seconds": ["--set", "teacher.time_limit_seconds=500"],
    "patience": ["--set", "teacher.patience=0"],
    "the cluster": ["--set", "resources.profile=gpu", "--set", "resources.parallel_students=3"],
    "another stage": ["--set", "distill.epochs=7", "--set", "evaluate.num_samples=2"],
}


def test_what_concerns_no_weight_goes_on_where_training_stood(
    train: Commands, kill_at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path
) -> None:
    """Each change finds the checkpoints of the one before, and the result is that of an unbroken training."""
    whole = make_teacher(data, tmp_path / "whole", teacher_config("pix2pix"), tmp_path / "state")
    for step, words in enumerate(UNRELATED.values(), start=5):
        kill_at(step)
        train.dies("out", *words)
        assert len(train.places()) == 1
        assert ("resumed from the checkpoint of step" in train.log) == (step > 5)
    kill_at(0)
    moved = tmp_path / "elsewhere"
    shutil.copytree(data, moved)
    train.data = moved
    monkeypatch.setenv("CAT_LOG_SECONDS", "2")
    assert_same_weights(train("out"), whole)
    assert "resumed from the checkpoint of step" in train.log
    assert len(train.places()) == 1


def test_patience_too_concerns_only_the_end(train: Commands, kill_at: Callable[[int], None]) -> None:
    kill_at(5)
    train.dies("out", evaluations=4)
    kill_at(0)
    train("out", evaluations=4, patience=2)
    assert "resumed from the checkpoint of step" in train.log
    assert list(train.by_length()) == ["2+2"]


def test_other_code_goes_on_where_training_stood(train: Commands, kill_at: Callable[[int], None]) -> None:
    kill_at(5)
    train.dies("out")
    copy = train.folder / "code"
    for package in ("components", "pipelines"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "components/catlib/training/loop.py").open("a", encoding="utf-8") as code:
        code.write("\n# A comment.\n")
    finished = subprocess.run(
        [sys.executable, "-m", "components", *train.arguments("out")],
        env={**os.environ, "PYTHONPATH": str(copy)},
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    assert "resumed from the checkpoint of step" in finished.stderr
    assert f"other code ({code_digest('teacher')}) wrote checkpoints in {train.root}/" in finished.stderr
    assert len(train.places()) == 1


def test_what_changes_weights_begins_anew_elsewhere(train: Commands, kill_at: Callable[[int], None]) -> None:
    kill_at(5)
    train.dies("out")
    train.dies("out", seed=1)
    assert "resumed" not in train.log
    assert len(train.places()) == 2


def test_a_bad_variable_is_a_sentence(train: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAT_KEEP_CHECKPOINTS", "none")
    train("out", code=2)
    assert "CAT_KEEP_CHECKPOINTS" in train.refusal


def test_how_often_to_log_is_no_part_of_the_request(train: Commands) -> None:
    train("out", "--json")
    assert json.loads(train.answer)["reused"] is False
    train("out", "--json", "--set", "resources.log_seconds=1", "--set", "resources.keep_checkpoints=9")
    assert json.loads(train.answer)["reused"] is True


# ----------------------------------------------------------------------------------------------- after the end


def test_a_finished_training_is_written_again_without_a_step(train: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train("first")
    monkeypatch.setattr(TrainingBatches, "batch", lambda *_: pytest.fail("a step was taken"))
    again = train("again")
    assert_same_weights(first, again)
    summaries = [read_manifest(output).summary for output in (first, again)]
    assert summaries[0] == summaries[1]
    assert (first / "log.jsonl").read_text() == (again / "log.jsonl").read_text()


def test_a_higher_time_limit_goes_on_and_the_log_says_so(train: Commands) -> None:
    whole = train("whole", keep="last", evaluations=0)
    shutil.rmtree(train.root)
    stopped = train("out", keep="last", evaluations=0, time_limit_seconds=1e-9)
    assert read_manifest(stopped).summary["ended"] == "time limit"
    assert "to train on: raise --set teacher.time_limit_seconds=1e-09 (null: no limit)" in train.log
    train("out", "--set", "teacher.time_limit_seconds=null", keep="last", evaluations=0)
    assert "resumed from the checkpoint of step 1" in train.log
    assert_same_weights(whole, train.folder / "out")


def test_more_patience_goes_on_and_the_log_says_so(train: Commands) -> None:
    settings: dict[str, Any] = {"evaluations": 12, "learning_rate": 1e-9}  # scores do not improve
    whole = train("whole", **settings)
    shutil.rmtree(train.root)
    stopped = train("out", patience=1, **settings)
    assert read_manifest(stopped).summary["ended"] == "patience"
    assert steps_of(stopped) < 4 * STEPS
    assert "to train on: raise --set teacher.patience=1 (0: never end early)" in train.log
    train("out", "--set", "teacher.patience=0", **settings)
    assert "resumed from the checkpoint of step" in train.log
    assert_same_weights(whole, train.folder / "out")


# --------------------------------------------------------------------------------------------- longer trainings


LONGER: dict[str, Any] = {"epochs": 4, "decay_epochs": 2}
GOES_ON = ["--set", "teacher.goes_on_from=[4]"]


def test_a_longer_training_goes_on_from_the_end_of_a_shorter_one(train: Commands) -> None:
    train("short")
    assert "to train on: give more teacher.epochs or teacher.decay_epochs than 2+2, and add " + " ".join(GOES_ON) in (
        train.log
    )
    before = train.by_length()["2+2"]
    longer = train("longer", *GOES_ON, **LONGER)
    assert f"training goes on from step {4 * STEPS}, where the training of 4 epochs in {train.root}/" in train.log
    manifest = read_manifest(longer)
    assert manifest.config["goes_on_from"] == [4]
    assert manifest.summary["history"] == [
        {"epochs": 2, "decay_epochs": 2, "steps": 4 * STEPS, "ended": "epochs"},
    ]
    assert steps_of(longer) == 6 * STEPS
    assert train.by_length()["2+2"] == before
    rates = {record["epoch"]: record["learning_rate"] for record in records(longer) if "losses" in record}
    full = 2e-4
    assert [rates[epoch] for epoch in (3, 4, 5)] == pytest.approx([full / 3, full * 2 / 3, full / 3])
    assert "training goes on" not in (train.folder / "longer" / "log.jsonl").read_text()
    assert "add --set teacher.goes_on_from=[4,6]" in train.log
    longest = train("longest", "--set", "teacher.goes_on_from=[4,6]", epochs=7, decay_epochs=1)
    assert [end["steps"] for end in read_manifest(longest).summary["history"]] == [4 * STEPS, 6 * STEPS]
    assert set(train.by_length()) == {"2+2", "4+2-after-4", "7+1-after-4-6"}


def records(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def test_its_weights_are_others_than_those_of_a_straight_one(train: Commands) -> None:
    train("short")
    longer = train("longer", *GOES_ON, **LONGER)
    straight = train("straight", **LONGER)
    assert "training starts at step 0; to train on instead from step 12" in train.log
    assert read_manifest(straight).summary["history"] == []
    with pytest.raises(AssertionError):
        assert_same_weights(longer, straight)
    assert set(train.by_length()) == {"2+2", "4+2", "4+2-after-4"}


@pytest.mark.parametrize("step", [12, 13, 17])
@pytest.mark.parametrize("chosen", [False, True], ids=["automatic", "chosen"])
def test_a_crash_in_a_longer_training_changes_nothing(
    train: Commands, kill_at: Callable[[int], None], step: int, chosen: bool
) -> None:
    """The crash at step 12, the first one, leaves no checkpoint of the longer training."""

    def place(name: str) -> list[str]:
        return ["--checkpoint", str(train.root / name)] if chosen else []

    train("short", *place("a"))
    shutil.copytree(train.root, train.folder / "copy")
    whole = train("whole", *GOES_ON, *place("a"), **LONGER)
    shutil.rmtree(train.root)
    shutil.copytree(train.folder / "copy", train.root)
    kill_at(step)
    train.dies("broken", *GOES_ON, *place("a"), **LONGER)
    kill_at(0)
    resumed = train("broken", *GOES_ON, *place("a"), **LONGER)
    assert_same_weights(whole, resumed)
    assert read_manifest(whole).summary["history"] == read_manifest(resumed).summary["history"]
    assert read_manifest(whole).summary["kept"] == read_manifest(resumed).summary["kept"]


@pytest.mark.parametrize(
    "schedule", ["linear", "cosine", "one_cycle", {"kind": "step", "epochs": 3}, {"kind": "plateau", "patience": 0}]
)
def test_every_schedule_goes_on_with_the_new_length(train: Commands, schedule: Any) -> None:
    settings = {"schedule": schedule, "evaluations": 6}
    train("short", **settings)
    longer = train("longer", *GOES_ON, **LONGER, **settings)
    rates = [record["learning_rate"] for record in records(longer) if "losses" in record]
    assert all(rate > 0 for rate in rates)
    assert [record["step"] for record in records(longer) if "scores" in record] == [2, 4, 6, 8, 10, 12, 15, 18]


def test_an_earlier_training_that_is_not_there_is_a_sentence(train: Commands, kill_at: Callable[[int], None]) -> None:
    train("longer", *GOES_ON, **LONGER, code=2)
    found = train.refusal
    assert "teacher.goes_on_from names a training of 4 epochs, but there is no checkpoint of the end of one" in found
    assert "first train with teacher.epochs + teacher.decay_epochs = 4" in found
    kill_at(7)
    train.dies("short")
    kill_at(0)
    train("longer", *GOES_ON, **LONGER, code=2)
    assert "no checkpoint of the end of one" in train.refusal
    train("short")
    train("longer", "--set", "teacher.goes_on_from=[3,4]", **LONGER, code=2)
    assert "= 4 and --set teacher.goes_on_from=[3]" in train.refusal
    assert not (train.folder / "longer").exists()


def test_two_trainings_of_that_many_epochs_are_told_apart(train: Commands) -> None:
    train("one")
    train("two", epochs=4, decay_epochs=0)
    train("longer", *GOES_ON, **LONGER, code=2)
    assert "there are several: " in (found := train.refusal)
    (place,) = {name.partition("/")[0] for name in train.places()}
    assert all(f"{train.root}/{place}/{name}" in found for name in ("2+2", "4+0"))
    longer = train("longer", *GOES_ON, "--checkpoint", str(train.root / place / "4+0"), **LONGER)
    assert read_manifest(longer).summary["history"][0]["decay_epochs"] == 0


def test_without_checkpoints_nothing_goes_on(train: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAT_CHECKPOINTS")
    train("longer", *GOES_ON, **LONGER, code=2)
    assert "teacher.goes_on_from needs the checkpoints of the earlier training" in train.refusal
    train("short")
    assert "to train on" not in train.log


def test_a_chosen_place_of_another_length_is_refused_with_the_words_that_go_on(train: Commands) -> None:
    place = ["--checkpoint", str(train.folder / "chosen")]
    train("short", *place)
    files = {path: path.read_bytes() for path in (train.folder / "chosen").glob("step-*")}
    train("longer", *place, **LONGER, code=2)
    refused = train.refusal
    assert "belongs to a training of 4 epochs (2+2), not 6 (4+2); to train on from its end, add " in refused
    assert " ".join(GOES_ON) in refused
    train("longer", *place, epochs=1, decay_epochs=3, code=2)
    assert "give another place, or that length" in train.refusal
    assert {path: path.read_bytes() for path in (train.folder / "chosen").glob("step-*")} == files
    train("longer", *place, *GOES_ON, **LONGER)
    end = [path for path in files if path.name.startswith(f"step-{4 * STEPS:09d}.")]
    assert {path.suffix for path in end} == {".pt", ".json"}
    assert all(path.read_bytes() == files[path] for path in end)
    again = train("again", *place)
    assert_same_weights(train.folder / "short", again)
    longest = train("longest", *place, "--set", "teacher.goes_on_from=[4,6]", epochs=8, decay_epochs=0)
    assert [each["steps"] for each in read_manifest(longest).summary["history"]] == [12, 18]


def test_a_shorter_training_does_not_write_over_a_longer_one_that_went_on_from_it(train: Commands) -> None:
    place = ["--checkpoint", str(train.folder / "chosen")]
    train("short", *place, time_limit_seconds=1e-9)
    train("longer", *place, *GOES_ON, **LONGER)
    assert read_manifest(train.folder / "longer").summary["history"][0]["ended"] == "time limit"
    train("short", *place, code=2)
    assert "a longer one has gone on from it to step 18" in train.refusal


@pytest.mark.parametrize("given", [[4, 4], [4, 3], [6], [7], [0], [-1]])
def test_lengths_that_lead_nowhere_are_refused(train: Commands, given: list[int]) -> None:
    train("longer", "--set", f"teacher.goes_on_from={given}", **LONGER, code=2)
    assert "goes_on_from" in train.refusal
    assert not train.root.exists()


def test_places_in_a_store_work_as_folders_do(
    train: Commands, object_store: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.catlib.storage import Storage

    for variable, value in object_store.environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("CAT_CHECKPOINTS", "s3://cat/going-on")
    train("short")
    longer = train("longer", *GOES_ON, **LONGER)
    assert [end["steps"] for end in read_manifest(longer).summary["history"]] == [12]
    names = Storage(object_store.environment).file_names("s3://cat/going-on")
    assert {name.split("/")[1] for name in names} == {"2+2", "4+2-after-4"}
    assert {name.split("/")[0][:8] for name in names} == {"teacher-"}


# ------------------------------------------------------------------------------------------- Kubeflow's component


def artifact(kind: Any, folder: Path) -> Any:
    return kind(name=folder.name, uri=str(folder))


def component(function: Any, folder: Path, output: str, config: Any, **inputs: Path) -> Path:
    """Calls a component as Kubeflow does."""
    shown = {"metrics": dsl.Metrics, "page": dsl.HTML}
    made = folder / output / "made"
    function.python_func(
        config=json.loads(json.dumps(config.model_dump(mode="json", exclude_none=True)), parse_int=float),
        code_digest=code_digest("teacher" if function is train_teacher else "distill"),
        **{name: artifact(dsl.Artifact, path) for name, path in inputs.items()},
        **{"teacher" if function is train_teacher else "distilled": artifact(dsl.Model, made)},
        **{name: artifact(kind, folder / output / name) for name, kind in shown.items()},
    )
    return made


@pytest.fixture
def info() -> Iterator[None]:
    level = loop_logger.level
    loop_logger.setLevel(logging.INFO)
    yield
    loop_logger.setLevel(level)


def test_a_component_goes_on_keeps_its_checkpoints_and_shares_the_place_of_the_commands(
    train: Commands, kill_at: Callable[[int], None], capsys: pytest.CaptureFixture[str], info: None
) -> None:
    inputs = {"dataset": train.data / "dataset", "real_stats": train.data / "real_stats"}
    config = teacher_config("pix2pix")
    whole = make_teacher(train.data, train.folder / "whole", config, train.folder / "state")
    kill_at(5)
    train.dies("out")
    kill_at(8)
    with pytest.raises(Killed):
        component(train_teacher, train.folder, "first", teacher_config("pix2pix", time_limit_seconds=900.0), **inputs)
    kill_at(0)
    made = component(train_teacher, train.folder, "second", config, **inputs)
    assert capsys.readouterr().err.count("resumed from the checkpoint of step") == 3 - 1
    assert_same_weights(whole, made)
    assert train.by_length()["2+2"][-1] == 12
    again = component(train_teacher, train.folder, "third", config, **inputs)
    assert_same_weights(made, again)
    longer = teacher_config("pix2pix", **LONGER, goes_on_from=[4])
    went_on = component(train_teacher, train.folder, "longer", longer, **inputs)
    assert [end["steps"] for end in read_manifest(went_on).summary["history"]] == [12]
    assert "goes on from" in (train.folder / "longer" / "page").read_text()


def test_a_component_refuses_what_is_not_there(train: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = {"dataset": train.data / "dataset", "real_stats": train.data / "real_stats"}
    with pytest.raises(SystemExit) as ended:
        longer = teacher_config("pix2pix", **LONGER, goes_on_from=[4])
        component(train_teacher, train.folder, "longer", longer, **inputs)
    assert ended.value.code == 2
    assert "[teacher] ERROR: teacher.goes_on_from names a training of 4 epochs" in capsys.readouterr().err


def test_students_go_on_too(train: Commands) -> None:
    short = teacher_config("pix2pix", epochs=1, decay_epochs=0, evaluations=0)
    teacher = make_teacher(train.data, train.folder / "teacher", short, train.folder / "state")
    inputs = {
        "teacher": teacher,
        "student": make_student(teacher, train.folder / "student"),
        "dataset": train.data / "dataset",
        "real_stats": train.data / "real_stats",
    }
    component(distill_student, train.folder, "short", distill_config("pix2pix"), **inputs)
    smaller = make_student(teacher, train.folder / "smaller", budget="0.4x")
    component(distill_student, train.folder, "other", distill_config("pix2pix"), **(inputs | {"student": smaller}))
    assert len(train.places()) == 2, "students with fresh weights differ in their architecture alone"
    longer = distill_config("pix2pix", **LONGER, goes_on_from=[4], time_limit_seconds=1000.0)
    made = component(distill_student, train.folder, "longer", longer, **inputs)
    assert [end["steps"] for end in read_manifest(made).summary["history"]] == [12]
    assert sorted(place.partition("/")[2] for place in train.places()) == ["2+2", "2+2", "4+2-after-4"]
