"""The rules name what was planted in recorded trainings, and nothing in healthy ones; see `planted.py`."""

import pytest

from components.catlib.diagnosis.causes import COLLAPSE, LEARNING_RATE, Cause
from components.catlib.diagnosis.students import diagnose_generators
from components.catlib.diagnosis.trainings import LEAST_SIGNS, diagnose_training, trained_briefly
from tests.components.catlib.diagnosis.planted import RECORDINGS, RUNS, Recording, load


def causes(recording: Recording, *, until: int | None = None) -> list[Cause]:
    found = diagnose_training(recording.stage, recording.config, recording.records[:until])
    if recording.evaluation is not None and until is None:
        found += [
            each for each in diagnose_generators(recording.evaluation) if each.cause not in {d.cause for d in found}
        ]
    return [each.cause for each in found]


def test_every_training_is_recorded_and_small():
    assert {path.stem for path in RECORDINGS.iterdir()} == set(RUNS)
    assert max(path.stat().st_size for path in RECORDINGS.iterdir()) < 10_000
    assert sum(run.cause is None for run in RUNS.values()) >= 5


@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if run.cause is not None])
def test_what_was_planted_is_named_first(name: str):
    found = causes(load(name))
    assert found[:1] == [RUNS[name].cause]
    assert set(found[1:]) <= ({COLLAPSE} if RUNS[name].cause is LEARNING_RATE else set())


@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if run.cause is None])
def test_a_healthy_training_gets_no_diagnosis_at_any_time(name: str):
    recording = load(name)
    assert [causes(recording, until=row) for row in (None, *range(len(recording.records)))] == [
        [] for _ in range(len(recording.records) + 1)
    ]


@pytest.mark.parametrize("name", [name for name in RUNS if name.startswith("learning-rate")])
def test_steps_that_are_too_large_show_in_the_first_tenth_of_a_training(name: str):
    recording = load(name)
    rows = [row for row, each in enumerate(recording.records, 1) if each["step"] <= each["of"] / 10]
    assert LEARNING_RATE in causes(recording, until=max(*rows, LEAST_SIGNS))


def test_a_sentence_names_place_cause_numbers_and_what_to_do():
    recording = load("learning-rate")
    (diagnosis,) = diagnose_training(recording.stage, recording.config, recording.records)
    assert str(diagnosis) == (
        "teacher: the learning rate is too high (the first step moved the weights of the generator by 71% of their "
        "size, and at worst 100% more of the generated values than of real ones lay at the ends of their range); "
        "lower teacher.learning_rate by a factor of ten"
    )


def test_a_log_without_signs_says_nothing():
    records = [{"step": 1, "epoch": 0, "losses": {"generator": 1.0}}, {"step": 1, "epoch": 0, "scores": {"l1": 0.1}}]
    assert diagnose_training("teacher", {"adversarial": {"kind": "lsgan", "weight": 1}}, records) == []
    assert not trained_briefly(records)


@pytest.mark.parametrize("name", ["healthy-brief", "healthy"])
def test_a_training_of_a_few_steps_is_brief(name: str):
    assert trained_briefly(load(name).records) == (name == "healthy-brief")
