"""Losses stay on the device between checks: nothing waits for it, and nothing that a check would find gets through."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from components.catlib.distributed.devices import Accelerator
from components.catlib.errors import Interrupted
from components.catlib.training.checking import MOST_STEPS, Checks
from components.catlib.training.moving_average import MovingAverages
from tests.components.catlib.objectives.test_distillation import build as build_distillation
from tests.components.catlib.objectives.test_teachers import build as build_teacher
from tests.components.catlib.objectives.tiny import batch
from tests.components.catlib.training.test_loop import SmallObjective, lines, run

LONG: dict[str, Any] = {"epochs": 49, "decay_epochs": 0, "evaluations": 2}
"""147 steps; signs are noted after every third of them."""


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the CPU count as a device that computes behind the program's back."""
    monkeypatch.setattr(Accelerator, "runs_behind", True)


def checks(*, seconds: float = 1.0, planned: tuple[int, ...] = ()) -> Checks:
    return Checks(Accelerator(cpu=True), total_steps=10_000, planned=planned, seconds=seconds)


def go(made: Checks, steps: range) -> list[int]:
    """Takes steps and returns those that were checked."""
    found = []
    for step in steps:
        made.note({"a": torch.tensor(float(step))})
        if made.due(step):
            losses, _ = made.check(step)
            assert losses[-1] == {"a": step}
            found.append(step)
            made.resume()
    return found


def test_on_a_cpu_every_step_is_checked():
    assert go(checks(), range(1, 6)) == [1, 2, 3, 4, 5]


@pytest.mark.usefixtures("behind")
def test_checks_come_at_the_pace_of_the_steps(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    made = checks(planned=(50,))
    found = []
    for step in range(1, 61):
        clock[0] += 5.0 if step == 1 else 0.1  # the first one compiles
        found += go(made, range(step, step + 1))
    assert found == [1, 2, 3, 13, 23, 33, 43, 50, 60]  # a second each, and what is planned


@pytest.mark.usefixtures("behind")
def test_a_check_bounds_what_waits():
    found = go(checks(seconds=1e9), range(1, 2005))
    assert found[-1] - found[-2] == MOST_STEPS


@pytest.mark.usefixtures("behind")
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_is_named_with_its_own_step(value: float):
    made = checks()
    for step in range(1, 8):
        made.note({"a": torch.tensor(1.0), "b": torch.tensor(value if step >= 5 else 0.0)})
    with pytest.raises(RuntimeError, match=rf"Loss 'b' is {value} at step 5 of 10000; .* checkpoints of earlier steps"):
        made.check(7)


def test_steps_may_have_different_losses():
    made = checks()
    made.note({"a": torch.tensor(1.0)})
    made.note({"b": torch.tensor(2.0), "a": torch.tensor(3.0)})
    assert made.check(2, True, False) == ([{"a": 1.0}, {"b": 2.0, "a": 3.0}], [True, False])


ASKING = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__")
"""Methods of tensors by which Python asks for values."""


class Waits(TorchDispatchMode):
    """Counts the operations that make the program wait for a GPU, because it needs values or their number."""

    OPERATIONS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique", "_unique2")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self.OPERATIONS:
            self.found.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def watch_asking(monkeypatch: pytest.MonkeyPatch, note: Callable[[], None]) -> None:
    """Calls a function whenever Python asks a tensor for its values."""
    for name in ASKING:
        asked = getattr(Tensor, name)

        def noting(tensor: Tensor, *given: Any, _asked: Any = asked, **named: Any) -> Any:
            note()
            return _asked(tensor, *given, **named)

        monkeypatch.setattr(Tensor, name, noting)


class AsTrained(SmallObjective):
    """With the optimisers of all objectives."""

    def __init__(self) -> None:
        super().__init__()
        networks = {"generator": self.generators, "discriminator": self.discriminators}
        self.optimizers = {
            side: torch.optim.Adam(next(iter(each.values())).parameters(), lr=0.01, fused=True)
            for side, each in networks.items()
        }


@pytest.mark.usefixtures("behind")
def test_nothing_waits_for_the_device_between_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    objective = AsTrained()
    waiting: set[int] = set()
    watch_asking(monkeypatch, lambda: waiting.add(objective.steps))
    run(tmp_path / "a", objective, log_seconds=1e9, ema_decay=0.9, **LONG)
    quick = {1, 2}  # until the pace is known
    planned = {step for step in range(1, 148) if step % 3 == 0} | {74}
    assert waiting - {0} == quick | planned


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan", "spade", "distilled pix2pix", "distilled spade"])
def test_no_step_asks_for_a_number(name: str, monkeypatch: pytest.MonkeyPatch):
    """Steps of every family, with all that the loop does after each; the scaler of fp16 is not among it."""
    family: Any = name.split()[-1]
    objective = build_distillation(family) if " " in name else build_teacher(family)
    averages, made = MovingAverages(objective.generators, decay=0.9), checks(planned=())
    images, asked = batch(family), list[str]()
    with monkeypatch.context() as patched, Waits() as waits:
        watch_asking(patched, lambda: asked.append("asked"))
        made.note(objective.step(images))
        averages.update()
    assert not waits.found + asked
    with Waits() as waits:
        bool(next(objective.networks["discriminator_target"].parameters()).sum() > 0)
    assert waits.found == ["_local_scalar_dense"], "the watch works"


@pytest.mark.usefixtures("behind")
def test_the_log_is_that_of_every_step(tmp_path: Path):
    """Means over intervals are the same, whenever their losses were fetched."""
    run(tmp_path / "a", SmallObjective(), log_seconds=1e9, **LONG)
    behind = lines(tmp_path / "a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Accelerator, "runs_behind", False)
        run(tmp_path / "b", SmallObjective(), log_seconds=1e9, **LONG)
    timing = ("seconds", "images_per_second")
    assert [{key: value for key, value in line.items() if key not in timing} for line in behind] == [
        {key: value for key, value in line.items() if key not in timing} for line in lines(tmp_path / "b")
    ]
    assert [line["step"] for line in behind] == [1, 74, 147, 147]


class Diverging(SmallObjective):
    """Its loss is NaN in one step, and finite again after it."""

    def step(self, batch: Any) -> dict[str, Tensor]:
        losses = super().step(batch)
        return losses | {"judgement": losses["judgement"] * torch.nan} if self.steps == 73 else losses


@pytest.mark.usefixtures("behind")
def test_nothing_is_scored_or_saved_after_a_loss_that_is_not_finite(tmp_path: Path):
    scored: list[int] = []
    objective = Diverging()

    def evaluate(_: object) -> Any:
        scored.append(objective.steps)

    with pytest.raises(RuntimeError, match="Loss 'judgement' is nan at step 73 of 147"):
        run(tmp_path / "a", objective, checkpoint=tmp_path / "state", evaluate=evaluate, log_seconds=1e9, **LONG)
    assert objective.steps == 74  # the check of the first evaluation
    assert not scored
    assert not list((tmp_path / "state").glob("step-*"))


@pytest.mark.usefixtures("behind")
def test_a_stop_waits_for_a_check_and_resumes_bit_by_bit(tmp_path: Path):
    whole, first, second = SmallObjective(), SmallObjective(), SmallObjective()
    run(tmp_path / "whole", whole, log_seconds=1e9, **LONG)
    first.after_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 20 else None
    with pytest.raises(Interrupted, match="Stopped after step 21 of 147; the state of training is saved"):
        run(tmp_path / "first", first, checkpoint=tmp_path / "state", log_seconds=1e9, **LONG)
    run(tmp_path / "second", second, checkpoint=tmp_path / "state", log_seconds=1e9, **LONG)
    assert second.steps == 126
    for name, value in whole.weights().items():
        assert torch.equal(value, second.weights()[name])


@pytest.mark.usefixtures("behind")
def test_a_time_limit_ends_at_a_check(tmp_path: Path):
    objective = SmallObjective()
    objective.after_step = lambda step: time.sleep(0.3) if step == 20 else None
    progress = run(tmp_path / "a", objective, log_seconds=1e9, time_limit_seconds=0.3, **LONG)
    assert (progress.ended, progress.step) == ("time limit", 21)
