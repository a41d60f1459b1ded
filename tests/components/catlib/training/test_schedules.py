import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.catlib.config import TeacherConfig, TrainingConfig, validate
from components.catlib.config.schedules import CosineConfig, OneCycleConfig, StepConfig
from components.catlib.errors import UserError
from components.catlib.training.schedules import evaluations_without_improvement, learning_rate_factor, plateau


def factors(config: TrainingConfig, *, steps_per_epoch: int = 1) -> list[float]:
    """Returns the factor of every step."""
    steps = (config.epochs + config.decay_epochs) * steps_per_epoch
    return [learning_rate_factor(config, step, [], steps_per_epoch=steps_per_epoch) for step in range(steps)]


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


def test_one_cycle_rises_in_equal_steps_and_falls_along_half_a_cosine_wave():
    config = TrainingConfig(epochs=1, decay_epochs=1, schedule=OneCycleConfig(warm_up=0.4))
    falling = [0.5 + math.sqrt(0.5) / 2, 0.5, 0.5 - math.sqrt(0.5) / 2]
    assert factors(config, steps_per_epoch=3) == pytest.approx([1 / 3, 2 / 3, 1, *falling])


@given(epochs=st.integers(1, 9), steps_per_epoch=st.integers(1, 40), warm_up=st.floats(0, 1, exclude_max=True))
def test_one_cycle_has_one_peak_and_never_reaches_zero(epochs: int, steps_per_epoch: int, warm_up: float):
    config = TrainingConfig(epochs=epochs, decay_epochs=0, schedule=OneCycleConfig(warm_up=warm_up))
    found = factors(config, steps_per_epoch=steps_per_epoch)
    peak = found.index(max(found))
    assert found[peak] == 1
    assert found == sorted(found[: peak + 1]) + sorted(found[peak + 1 :], reverse=True)
    assert min(found) > 0


@pytest.mark.parametrize("schedule", ["linear", "cosine", "step"])
def test_other_schedules_change_between_epochs_alone(schedule: str):
    config = TrainingConfig.model_validate({"epochs": 2, "decay_epochs": 3, "schedule": schedule})
    by_step = factors(config, steps_per_epoch=4)
    assert by_step == [factor for factor in factors(config) for _ in range(4)]


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
