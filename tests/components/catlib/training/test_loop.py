"""The loop around a small objective whose every part can go wrong on resume: dropout, Adam, and a state of its own."""

import contextlib
import itertools
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn

from components.catlib.config import TrainingConfig
from components.catlib.data.batches import Batch
from components.catlib.distributed.devices import Accelerator
from components.catlib.errors import Interrupted, UserError
from components.catlib.storage import Store
from components.catlib.storage.folders import FolderStore
from components.catlib.training.checkpoints import Checkpoints
from components.catlib.training.loop import train
from components.catlib.training.progress import Evaluation, Progress
from components.catlib.training.upkeep import Upkeep

STEPS_PER_EPOCH = 3


class SmallObjective:
    """Fits a linear map behind dropout; the loss depends on the mean of all earlier outputs."""

    def __init__(self) -> None:
        torch.manual_seed(7)
        self.networks: dict[str, nn.Module] = {
            "generator_source_to_target": nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3)),
            "discriminator_target": nn.Linear(4, 1),
        }
        self.generators = {"source_to_target": self.networks["generator_source_to_target"]}
        self.discriminators = {"target": self.networks["discriminator_target"]}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "generator": torch.optim.Adam(self.generators["source_to_target"].parameters(), lr=0.01),
            "discriminator": torch.optim.Adam(self.discriminators["target"].parameters(), lr=0.02),
        }
        self.past = torch.zeros(4)
        self.rates: list[tuple[float, float]] = []
        self.after_step: Callable[[int], None] = lambda _: None
        self.steps = 0

    def step(self, batch: Batch) -> dict[str, Tensor]:
        for network in self.networks.values():
            network.train()
        generator, discriminator = self.optimizers["generator"], self.optimizers["discriminator"]
        self.rates.append((generator.param_groups[0]["lr"], discriminator.param_groups[0]["lr"]))
        output = self.generators["source_to_target"](batch.source)
        reconstruction = (output - batch.target - 0.1 * self.past).square().mean()
        judgement = (self.discriminators["target"](output.detach()) - 1).square().mean()
        for optimizer, loss in ((generator, reconstruction), (discriminator, judgement)):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self.past = 0.9 * self.past + 0.1 * output.detach().mean(dim=0)
        self.steps += 1
        self.after_step(self.steps)
        return {"reconstruction": reconstruction.detach(), "judgement": judgement.detach()}

    def extra_state(self) -> dict[str, Any]:
        return {"past": self.past}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self.past = state["past"]

    def weights(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": value.clone()
            for name, network in self.networks.items()
            for key, value in network.state_dict().items()
        }


class RandomBatches:
    steps_per_epoch = STEPS_PER_EPOCH

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        random = torch.Generator().manual_seed(step)
        source, target = torch.randn(5, 4, generator=random), torch.randn(5, 4, generator=random)
        return Batch(source[rows], target[rows])


def weight_sum(generators: Mapping[str, nn.Module]) -> Evaluation:
    """A score that changes with every step."""
    return Evaluation(
        scores={
            direction: {"l1": sum(float(weight.detach().abs().sum()) for weight in generator.parameters())}
            for direction, generator in generators.items()
        },
        chosen_by="l1",
        picture=b"picture",
    )


def scripted(values: list[float]) -> Callable[[Mapping[str, nn.Module]], Evaluation]:
    upcoming: Iterator[float] = iter(values)
    return lambda generators: Evaluation({way: {"l1": next(upcoming)} for way in generators}, "l1", b"picture")


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {
            "epochs": 2,
            "decay_epochs": 2,
            "batch_size": 5,
            "evaluations": 3,
            "keep": "last",
            **changes,
        }
    )


def run(
    folder: Path,
    objective: SmallObjective,
    *,
    checkpoint: Path | Store | None = None,
    evaluate: Callable[[Mapping[str, nn.Module]], Evaluation] | None = weight_sum,
    checkpoint_seconds: float = 600.0,
    log_seconds: float = 1e-9,
    **changes: Any,
) -> Progress:
    folder.mkdir(exist_ok=True)
    settings = config(**changes)
    return train(
        objective,
        config=settings,
        batches=RandomBatches(),  # type: ignore[arg-type] - the two members that the loop uses
        evaluate=evaluate,
        folder=folder,
        accelerator=Accelerator(cpu=True),
        upkeep=Upkeep(checkpoint_seconds=checkpoint_seconds, log_seconds=log_seconds),
        checkpoints=None if checkpoint is None else opened(checkpoint, settings),
    )


LENGTH = {"patience", "time_limit_seconds"}


def opened(checkpoint: Path | Store, settings: TrainingConfig) -> Checkpoints:
    store = FolderStore(str(checkpoint)) if isinstance(checkpoint, Path) else checkpoint
    return Checkpoints(store, origin={"config": settings.model_dump(mode="json", exclude=LENGTH)})


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_two_runs_end_with_equal_weights(tmp_path: Path):
    first, second = SmallObjective(), SmallObjective()
    untrained = first.weights()
    run(tmp_path / "a", first)
    torch.manual_seed(1234)  # what happened before in the process does not matter
    run(tmp_path / "b", second)
    assert_equal(first.weights(), second.weights())
    assert not torch.equal(
        untrained["generator_source_to_target.0.weight"], first.weights()["generator_source_to_target.0.weight"]
    )


class Killed(BaseException):
    pass


SCHEDULES = {"linear": "linear", "plateau": {"kind": "plateau", "patience": 0}}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("killed_after", [1, 5, 8, 11])
def test_a_killed_and_resumed_run_is_an_uninterrupted_one(tmp_path: Path, schedule: str, killed_after: int):
    changes = {"schedule": SCHEDULES[schedule], "evaluations": 4, "keep": "best"}
    whole = SmallObjective()
    expected = run(tmp_path / "whole", whole, checkpoint=tmp_path / "checkpoint-whole", **changes)

    def kill(step: int) -> None:
        if step == killed_after:
            raise Killed

    first, second = SmallObjective(), SmallObjective()
    first.after_step = kill
    with pytest.raises(Killed):
        run(tmp_path / "first", first, checkpoint=tmp_path / "checkpoint", **changes)
    found = run(tmp_path / "second", second, checkpoint=tmp_path / "checkpoint", **changes)
    assert second.steps == 12 - killed_after // 3 * 3
    assert_equal(whole.weights(), second.weights())
    assert second.rates == whole.rates[-second.steps :]
    assert found.scores == expected.scores
    timing = ("seconds", "images_per_second")
    compared = [
        [{key: value for key, value in line.items() if key not in timing} for line in lines(tmp_path / name)]
        for name in ("whole", "second")
    ]
    assert compared[0] == compared[1]
    pictures = sorted(path.name for path in (tmp_path / "second").glob("samples_*.webp"))
    assert pictures == [f"samples_{step:07d}.webp" for step in (3, 6, 9, 12)]


def test_a_finished_run_is_not_trained_again(tmp_path: Path):
    first, second = SmallObjective(), SmallObjective()
    run(tmp_path / "a", first, checkpoint=tmp_path / "checkpoint")
    run(tmp_path / "b", second, checkpoint=tmp_path / "checkpoint")
    assert second.steps == 0
    assert_equal(first.weights(), second.weights())
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


def wait_until_written(folder: Path, step: int) -> None:
    deadline = time.monotonic() + 10
    while not list(folder.glob(f"step-{step:09d}.*.json")) and time.monotonic() < deadline:
        time.sleep(0.001)


def test_checkpoints_are_written_at_intervals_too(tmp_path: Path):
    objective = SmallObjective()
    folder, found = tmp_path / "checkpoint", []

    def wait_for_a_checkpoint(step: int) -> None:
        if step > 1:
            wait_until_written(folder, step - 1)
        time.sleep(0.15)  # then the writer has removed what is no longer wanted, and is free for the next one
        found.append({int(path.name[5:14]) for path in folder.glob("step-*")})

    objective.after_step = wait_for_a_checkpoint
    run(tmp_path / "a", objective, checkpoint=folder, evaluations=0, checkpoint_seconds=1e-9)
    assert found[:4] == [set(), {1}, {1, 2}, {2, 3}]


class SlowStore(FolderStore):
    """A store that does not answer for a while."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.up = threading.Event()

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        assert self.up.wait(20)
        with super().writing(name) as path:
            yield path


def test_training_does_not_wait_for_a_slow_store(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    objective, store = SmallObjective(), SlowStore(tmp_path / "checkpoint")
    objective.after_step = lambda step: store.up.set() if step == 11 else None
    run(
        tmp_path / "a",
        objective,
        checkpoint=store,
        evaluate=scripted([2.0] * 4),
        evaluations=4,
        checkpoint_seconds=1e-9,
    )
    assert "checkpoint of step 3 is left out" in caplog.text
    found = opened(tmp_path / "checkpoint", config(evaluations=4)).load_newest()
    assert found is not None
    assert found["progress"]["step"] == 12
    assert torch.equal(
        found["networks"]["discriminator_target"]["weight"], objective.weights()["discriminator_target.weight"]
    )


class BrokenStore(FolderStore):
    def writing(self, name: str) -> NoReturn:
        raise UserError("the store is gone")


def test_a_checkpoint_that_cannot_be_written_stops_training(tmp_path: Path):
    objective = SmallObjective()
    with pytest.raises(UserError, match="the store is gone"):
        run(tmp_path / "a", objective, checkpoint=BrokenStore(str(tmp_path / "checkpoint")), checkpoint_seconds=1e-9)


def test_the_best_checkpoint_is_kept(tmp_path: Path):
    def wait_for_the_last_evaluation(step: int) -> None:
        if step in (3, 5, 7, 9, 11):
            wait_until_written(tmp_path / "checkpoint", step - 1)  # else a slow disk may cost one that follows

    objective = SmallObjective()
    objective.after_step = wait_for_the_last_evaluation
    run(
        tmp_path / "a",
        objective,
        checkpoint=tmp_path / "checkpoint",
        evaluate=scripted([2.0, 1.0, 3.0, 4.0, 5.0, 6.0]),
        evaluations=6,
        checkpoint_seconds=1e9,
    )
    saved = {int(path.name[5:14]) for path in (tmp_path / "checkpoint").glob("step-*.json")}
    assert 12 in saved
    assert 4 in saved


def test_training_ends_when_patience_does(tmp_path: Path):
    objective, snapshots = SmallObjective(), {}
    objective.after_step = lambda done: snapshots.update({done: objective.weights()})
    changes = {"evaluations": 12, "patience": 3, "keep": "best"}
    scores = [5.0, 4.0, 6.0, 3.0, 3.5, 3.0, 9.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    progress = run(tmp_path / "a", objective, checkpoint=tmp_path / "checkpoint", evaluate=scripted(scores), **changes)
    assert (progress.ended, progress.step) == ("patience", 7)
    assert progress.kept["source_to_target"]["step"] == 4
    assert_equal(objective.weights(), snapshots[4])
    again = SmallObjective()
    assert run(tmp_path / "b", again, checkpoint=tmp_path / "checkpoint", **changes).ended == "patience"
    assert again.steps == 0
    assert_equal(again.weights(), snapshots[4])
    on = SmallObjective()
    longer = changes | {"patience": 9}
    found = run(tmp_path / "c", on, checkpoint=tmp_path / "checkpoint", evaluate=scripted(scores[7:]), **longer)
    assert (found.ended, found.step, on.steps) == ("epochs", 12, 5)


def test_training_ends_at_the_time_limit_with_the_best_so_far(tmp_path: Path):
    objective = SmallObjective()
    objective.after_step = lambda step: time.sleep(1.5) if step == 5 else None
    scores = scripted([1.0, 2.0])
    changes = {"time_limit_seconds": 1.5, "evaluations": 3, "keep": "best"}
    progress = run(tmp_path / "a", objective, checkpoint=tmp_path / "checkpoint", evaluate=scores, **changes)
    assert (progress.ended, progress.step, progress.scores) == ("time limit", 5, [1.0, 2.0])
    assert progress.kept["source_to_target"]["step"] == 4
    longer = SmallObjective()
    found = run(tmp_path / "b", longer, checkpoint=tmp_path / "checkpoint", **(changes | {"time_limit_seconds": 60.0}))
    assert (found.ended, longer.steps) == ("epochs", 7)


def test_without_evaluations_the_time_limit_keeps_the_last_step(tmp_path: Path):
    objective = SmallObjective()
    objective.after_step = lambda step: time.sleep(1.5) if step == 5 else None
    progress = run(tmp_path / "a", objective, time_limit_seconds=1.5, evaluate=None)
    assert (progress.ended, progress.step, progress.kept) == ("time limit", 5, {})


@pytest.mark.parametrize("keep", ["best", "last"])
def test_moving_averages_are_what_is_scored_and_kept(tmp_path: Path, keep: str):
    objective, weights, scored = SmallObjective(), [], []
    weights.append(objective.weights())
    objective.after_step = lambda _: weights.append(objective.weights())

    def evaluate(generators: Mapping[str, nn.Module]) -> Evaluation:
        scored.append(objective.weights())
        return weight_sum(generators)

    run(tmp_path / "a", objective, evaluate=evaluate, evaluations=1, ema_decay=0.3, keep=keep)
    name = "generator_source_to_target.0.weight"
    average = weights[0][name]
    for step, later in enumerate(weights[1:], start=1):
        decay = min(0.3, step / (step + 10))
        average = decay * average + (1 - decay) * later[name]
    torch.testing.assert_close(scored[0][name], average)
    assert torch.equal(objective.weights()[name], scored[0][name])
    plain = SmallObjective()
    run(tmp_path / "b", plain, evaluations=1, keep=keep)
    assert not torch.allclose(plain.weights()[name], average)
    assert torch.equal(plain.weights()[name], weights[-1][name])  # averaging does not disturb training


def test_moving_averages_without_evaluations_are_the_result(tmp_path: Path):
    first, second = SmallObjective(), SmallObjective()
    run(tmp_path / "a", first, evaluations=0, ema_decay=0.9)
    run(tmp_path / "b", second, evaluations=1, ema_decay=0.9, keep="last")
    assert_equal(first.weights(), second.weights())


def test_moving_averages_resume_exactly(tmp_path: Path):
    whole, first, second = SmallObjective(), SmallObjective(), SmallObjective()
    changes = {"ema_decay": 0.9, "evaluations": 2}
    run(tmp_path / "whole", whole, **changes)
    first.after_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 5 else None
    with pytest.raises(Interrupted):
        run(tmp_path / "a", first, checkpoint=tmp_path / "checkpoint", **changes)
    run(tmp_path / "b", second, checkpoint=tmp_path / "checkpoint", **changes)
    assert_equal(whole.weights(), second.weights())


def test_a_loss_scale_is_part_of_the_state(tmp_path: Path):
    def accelerator(scale: float) -> Accelerator:
        made = Accelerator(cpu=True)
        made.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return made

    settings, objective = config(evaluations=0), SmallObjective()
    common = {"config": settings, "batches": RandomBatches(), "evaluate": None, "folder": tmp_path, "upkeep": Upkeep()}
    train(objective, accelerator=accelerator(64.0), checkpoints=opened(tmp_path / "state", settings), **common)  # type: ignore[arg-type]
    resumed = accelerator(2.0)
    train(objective, accelerator=resumed, checkpoints=opened(tmp_path / "state", settings), **common)  # type: ignore[arg-type]
    assert resumed.scaler is not None
    assert resumed.scaler.get_scale() == 64.0


@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_request_to_stop_saves_and_stops(tmp_path: Path, number: int):
    whole, first, second = SmallObjective(), SmallObjective(), SmallObjective()
    run(tmp_path / "whole", whole)
    before = signal.getsignal(number)
    first.after_step = lambda step: os.kill(os.getpid(), number) if step == 5 else None
    with pytest.raises(Interrupted, match=r"after step 5 of 12; .* is saved"):
        run(tmp_path / "first", first, checkpoint=tmp_path / "checkpoint")
    assert signal.getsignal(number) is before
    run(tmp_path / "second", second, checkpoint=tmp_path / "checkpoint")
    assert second.steps == 7
    assert_equal(whole.weights(), second.weights())


def test_sigterm_without_a_checkpoint_folder_says_that_nothing_is_saved(tmp_path: Path):
    objective = SmallObjective()
    objective.after_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 2 else None
    with pytest.raises(Interrupted, match="lost, because there is no checkpoint folder"):
        run(tmp_path / "a", objective)


@pytest.mark.parametrize(("saved", "lost"), [(True, "after step 4 is lost: run the"), (False, "starts over")])
def test_a_second_ctrl_c_does_not_wait_for_the_store(tmp_path: Path, saved: bool, lost: str):
    """In a process of its own: after the second one, the process is ended even if it does not end itself."""
    given = [str(tmp_path), "saved" if saved else "never"]
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", SECOND_CTRL_C, *given], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 75, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("interrupted: Stopped at once after step ")
    assert lost in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert time.monotonic() - began < 45  # the store would take 60 s


SECOND_CTRL_C = """
import contextlib, os, signal, sys, time
from pathlib import Path
from components.catlib.exits import exit_code, leave
from components.catlib.storage.folders import FolderStore
from tests.components.catlib.training.test_loop import SmallObjective, run

class Slow(FolderStore):
    @contextlib.contextmanager
    def writing(self, name):
        if sys.argv[2] == "never" or int(name[5:14]) > 4:
            time.sleep(60)
        with super().writing(name) as path:
            yield path

def act(step):
    if step in (5, 6) and sys.argv[2] == "saved":
        time.sleep(0.5)  # the checkpoint of step 4 is written
    if step == 6:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1.2)
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
objective = SmallObjective()
objective.after_step = act
folder = Path(sys.argv[1])
training = lambda: run(folder / "a", objective, checkpoint=Slow(str(folder / "state")), evaluations=3)
leave(lambda: exit_code(training, interrupted="not here"))
"""


def test_sigterm_in_the_last_step_changes_nothing(tmp_path: Path):
    objective = SmallObjective()
    objective.after_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 12 else None
    assert run(tmp_path / "a", objective).step == 12


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_at_once(tmp_path: Path, value: float):
    objective = SmallObjective()
    step = objective.step

    def diverging(batch: Batch) -> dict[str, Tensor]:
        losses = step(batch)
        return losses | {"judgement": torch.tensor(value)} if objective.steps == 8 else losses

    objective.step = diverging  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=f"'judgement' is {value} at step 8 of 12"):
        run(tmp_path / "a", objective, checkpoint=tmp_path / "checkpoint", checkpoint_seconds=1e-9)
    assert objective.steps == 8
    saved = sorted(path.stem for path in (tmp_path / "checkpoint").glob("step-*.json"))
    assert saved
    assert saved[-1] < "step-000000008"


@pytest.mark.parametrize("diverging_step", [8, 12])
@pytest.mark.parametrize("tensor", ["generator_source_to_target.0.weight", "discriminator_target.bias"])
def test_weights_that_are_not_finite_are_never_kept(tmp_path: Path, diverging_step: int, tensor: str):
    """The loss of the step that spoils them is finite."""
    objective = SmallObjective()
    network, _, name = tensor.partition(".")

    def spoil(step: int) -> None:
        if step == diverging_step:
            objective.networks[network].get_parameter(name).data.view(-1)[0] = float("nan")

    objective.after_step = spoil
    changes = {"evaluate": scripted([1.0] * 3), "evaluations": 3} if diverging_step == 8 else {"evaluations": 0}
    with pytest.raises(RuntimeError, match=f"{network} has weights .* after step {diverging_step} of 12"):
        run(tmp_path / "a", objective, checkpoint=tmp_path / "checkpoint", checkpoint_seconds=1e9, **changes)
    assert objective.steps == diverging_step
    assert not (tmp_path / "checkpoint" / f"step-{diverging_step:09d}.json").exists()


def test_rates_follow_the_schedule_for_each_optimiser(tmp_path: Path):
    objective = SmallObjective()
    run(tmp_path / "a", objective)
    factors = [1, 1, 2 / 3, 1 / 3]
    expected = [factor for factor in factors for _ in range(STEPS_PER_EPOCH)]
    for rates, full_rate in zip(zip(*objective.rates, strict=True), (0.01, 0.02), strict=True):
        assert rates == pytest.approx([full_rate * factor for factor in expected])


def test_a_training_of_a_number_of_steps_ends_there_and_so_does_its_schedule(tmp_path: Path):
    objective = SmallObjective()
    progress = run(tmp_path / "a", objective, steps=5, schedule={"kind": "one_cycle", "warm_up": 0.4}, evaluations=2)
    assert objective.steps == progress.step == 5
    falling = [1, 0.75, 0.25]
    assert [rate / 0.01 for rate, _ in objective.rates] == pytest.approx([1 / 3, 2 / 3, *falling])
    assert [line["step"] for line in lines(tmp_path / "a") if "scores" in line] == [2, 5]
    longer = run(tmp_path / "b", SmallObjective(), steps=14, schedule="one_cycle")
    assert longer.step == 14  # more than the four epochs of three steps


@pytest.mark.parametrize(
    ("evaluations", "steps"),
    [(0, []), (1, [12]), (4, [3, 6, 9, 12]), (5, [2, 5, 7, 10, 12]), (100, list(range(1, 13)))],
)
def test_evaluations_are_evenly_spread(tmp_path: Path, evaluations: int, steps: list[int]):
    run(tmp_path / "a", SmallObjective(), evaluations=evaluations)
    assert [line["step"] for line in lines(tmp_path / "a") if "scores" in line] == steps


@pytest.mark.parametrize(("keep", "step"), [("best", 6), ("last", 12)])
def test_the_result_is_what_keep_says(tmp_path: Path, keep: str, step: int):
    objective, snapshots = SmallObjective(), {}
    objective.after_step = lambda done: snapshots.update({done: objective.weights()})
    progress = run(tmp_path / "a", objective, evaluate=scripted([3.0, 1.0, 2.0, 1.0]), evaluations=4, keep=keep)
    assert progress.kept["source_to_target"]["step"] == step
    assert progress.kept["source_to_target"]["scores"] == {"l1": 1.0}
    assert_equal(objective.weights(), snapshots[step])


def test_by_miou_the_highest_is_the_best(tmp_path: Path):
    """For the weights that are kept and for patience."""
    objective, snapshots = SmallObjective(), {}
    objective.after_step = lambda done: snapshots.update({done: objective.weights()})
    values = iter([40.0, 55.0, 50.0, 45.0, 30.0, 20.0])
    progress = run(
        tmp_path / "a",
        objective,
        evaluate=lambda generators: Evaluation(
            {way: {"miou": next(values), "fid": 1.0} for way in generators}, "miou", b"picture"
        ),
        evaluations=6,
        patience=3,
        keep="best",
    )
    assert (progress.ended, progress.step) == ("patience", 10)
    assert progress.scores == [60.0, 45.0, 50.0, 55.0, 70.0]
    assert progress.kept["source_to_target"]["step"] == 4
    assert_equal(objective.weights(), snapshots[4])


def test_without_evaluations_the_result_is_the_last_step(tmp_path: Path):
    first, second = SmallObjective(), SmallObjective()
    progress = run(tmp_path / "a", first, evaluations=0, keep="best")
    run(tmp_path / "b", second, evaluations=4, keep="last")
    assert progress.kept == {}
    assert_equal(first.weights(), second.weights())


def test_each_direction_keeps_its_own_best(tmp_path: Path):
    objective, snapshots = SmallObjective(), {}
    objective.networks["generator_target_to_source"] = nn.Linear(1, 1)
    objective.networks["discriminator_source"] = nn.Linear(1, 1)
    objective.generators["target_to_source"] = objective.networks["generator_target_to_source"]
    objective.discriminators["source"] = objective.networks["discriminator_source"]

    def nudge(step: int) -> None:
        with torch.no_grad():
            objective.generators["target_to_source"].weight.fill_(step)  # type: ignore[union-attr,operator]
            objective.discriminators["source"].weight.fill_(step)  # type: ignore[union-attr,operator]
        snapshots[step] = objective.weights()

    objective.after_step = nudge
    scores = iter([(2.0, 1.0), (1.0, 2.0), (3.0, 3.0)])

    def evaluate(_: Mapping[str, nn.Module]) -> Evaluation:
        forward, backward = next(scores)
        return Evaluation({"source_to_target": {"l1": forward}, "target_to_source": {"l1": backward}}, "l1", b"picture")

    run(tmp_path / "a", objective, evaluate=evaluate, keep="best")
    found = objective.weights()
    best = {name: 8 if name.startswith(("generator_source", "discriminator_target")) else 4 for name in found}
    assert_equal(found, {name: snapshots[step][name] for name, step in best.items()})
    first_scores = next(line["scores"] for line in lines(tmp_path / "a") if "scores" in line)
    assert first_scores == {"l1": 2.0, "target_to_source/l1": 1.0}


def test_the_log_has_means_over_intervals_and_goes_to_every_place(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    every, few = SmallObjective(), SmallObjective()
    with caplog.at_level(logging.INFO):
        run(tmp_path / "few", few, log_seconds=1000.0, evaluations=1)
    shown = [record.getMessage() for record in caplog.records if "ETA" in record.getMessage()]
    assert [re.match(r"step (\d+)/12 ", line)[1] for line in shown] == ["1", "12"]  # type: ignore[index]
    run(tmp_path / "every", every, evaluations=1)
    assert "images/s" in shown[0]
    assert "reconstruction" in shown[0]
    first, last, scores = lines(tmp_path / "few")
    assert (first["step"], first["epoch"], last["step"], last["epoch"]) == (1, 0, 12, 3)
    assert set(first) == {"step", "epoch", "seconds", "images_per_second", "learning_rate", "losses"}
    assert set(scores) == {"step", "epoch", "scores"}
    single = [line["losses"]["reconstruction"] for line in lines(tmp_path / "every") if "losses" in line]
    assert len(single) == 12
    assert last["losses"]["reconstruction"] == pytest.approx(sum(single[1:]) / 11)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "every" / "tensorboard"))
    events.Reload()
    assert [point.value for point in events.Scalars("losses/reconstruction")] == pytest.approx(single)
    assert [point.step for point in events.Scalars("scores/l1")] == [12]


def test_seconds_add_up_over_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    first, second = SmallObjective(), SmallObjective()
    first.after_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 6 else None
    with pytest.raises(Interrupted):
        run(tmp_path / "a", first, checkpoint=tmp_path / "checkpoint")
    half = [line for line in lines(tmp_path / "a") if "losses" in line][-1]["seconds"]
    progress = run(tmp_path / "b", second, checkpoint=tmp_path / "checkpoint")
    assert half > 0
    assert 1.8 * half < progress.seconds < 2.5 * half
