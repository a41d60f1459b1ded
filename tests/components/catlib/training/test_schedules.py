import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.catlib.config import TeacherConfig, TrainingConfig, validate
from components.catlib.config.schedules import CosineConfig, StepConfig
from components.catlib.errors import UserError
from components.catlib.training.schedules import evaluations_without_improvement, learning_rate_factor, plateau


def factors(config: TrainingConfig) -> list[float]:
    return [learning_rate_factor(config, epoch, []) for epoch in range(config.epochs + config.decay_epochs)]


def test_linear_holds_then_falls_to_the_last_step_above_zero():
    assert factors(TrainingConfig(epochs=2, decay_epochs=3)) == [1, 1, 0.75, 0.5, 0.25]


def test_linear_without_decay_epochs_stays_at_one():
    assert factors(TrainingConfig(epochs=3, decay_epochs=0)) == [1, 1, 1]


def test_step_drops_to_a_tenth():
    config = TrainingConfig(epochs=3, decay_epochs=2, schedule=StepConfig(epochs=2))
    assert factors(config) == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_cosine_matches_its_closed_form():
    config = TrainingConfig(epochs=2, decay_epochs=2, schedule=CosineConfig())
    assert factors(config) == pytest.approx([1, 0.5 + math.sqrt(0.5) / 2, 0.5, 0.5 - math.sqrt(0.5) / 2])


def test_plateau_drops_after_patience_is_exceeded_and_counts_anew():
    scores = [10.0, 9.95, 9.95, 9.95]  # the last three improve by less than 1 %
    assert [plateau(scores[:n], patience=2) for n in range(1, 5)] == pytest.approx([1, 1, 1, 0.2])
    assert plateau([*scores, 9.0, 9.0, 9.0, 9.0], patience=2) == pytest.approx(0.04)


@settings(deadline=None)
@given(scores=st.lists(st.floats(0, 100), max_size=40), patience=st.integers(0, 6))
def test_plateau_agrees_with_torch(scores: list[float], patience: int):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.2, threshold=0.01, patience=patience, eps=0
    )
    for score in scores:
        scheduler.step(score)
    assert plateau(scores, patience=patience) == pytest.approx(optimizer.param_groups[0]["lr"])


@given(
    epochs=st.integers(0, 30),
    decay_epochs=st.integers(1, 30),
    schedule=st.sampled_from(["linear", "step", "cosine"]),
)
def test_schedules_start_at_one_or_below_and_never_rise_or_reach_zero(epochs: int, decay_epochs: int, schedule: str):
    config = TrainingConfig.model_validate({"epochs": epochs, "decay_epochs": decay_epochs, "schedule": schedule})
    found = factors(config)
    assert found[0] <= 1
    assert found[-1] > 0
    assert all(later <= earlier for earlier, later in itertools.pairwise(found))


def test_a_plateau_schedule_that_could_never_act_is_refused():
    section = {"schedule": {"kind": "plateau", "patience": 3}}
    with pytest.raises(UserError, match=r"schedule\.patience \+ 3 = 6"):
        validate(TeacherConfig, {**section, "evaluations": 5}, where="teacher")
    assert validate(TeacherConfig, {**section, "evaluations": 6}, where="teacher").schedule.kind == "plateau"


@pytest.mark.parametrize(
    ("scores", "count"), [([], 0), ([3.0], 0), ([3.0, 2.0], 0), ([1.0, 2.0, 1.5], 2), ([2.0, 1.0, 1.0, 3.0], 2)]
)
def test_evaluations_without_improvement(scores: list[float], count: int):
    assert evaluations_without_improvement(scores) == count
