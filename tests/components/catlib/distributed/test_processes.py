"""Several processes on CPUs train as one does: `torchrun -m components teacher`, and the parts of it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import multiprocessing, nn

from components.catlib.artifacts import read_manifest
from components.catlib.config import TeacherConfig
from components.catlib.distributed.devices import Accelerator
from components.catlib.distributed.processes import (
    agreed,
    average_buffers,
    average_gradients,
    check_norms,
    from_main,
    same_weights,
    share_of_batch,
    to_main,
)
from components.catlib.errors import UserError
from components.catlib.training.checking import Checks
from tests.components.small_trainings import make_dataset, make_teacher, teacher_config, weights


def command(data: Path, config: TeacherConfig, folder: Path, *, processes: int) -> list[str]:
    recipe = folder / "recipe.yaml"
    section = config.model_dump(mode="json")
    recipe.write_text(
        yaml.safe_dump({"name": "tiny", "description": "A test.", "budgets": ["0.5x"], "teacher": section})
    )
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"),
        *("-m", "components", "teacher", "--recipe", str(recipe), "--json"),
        *("--dataset", str(data / "dataset"), "--real-stats", str(data / "real_stats")),
        *("--checkpoint", str(folder / "checkpoint"), "--output", str(folder / "teacher")),
    ]


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if "losses" in line]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "pairing"), [("pix2pix", "paired"), ("cyclegan", "unpaired")])
def test_two_processes_train_like_one(tmp_path: Path, family: Any, pairing: Any, monkeypatch: pytest.MonkeyPatch):
    """Instance norm and means over images do not care how a batch is shared out; image pools would."""
    data = make_dataset(tmp_path / "data", pairing)
    pool = {"image_pool_size": 0} if family == "cyclegan" else {}
    monkeypatch.setenv("CAT_LOG_SECONDS", "1e-9")
    config = teacher_config(family, epochs=2, decay_epochs=0, ema_decay=0.9, **pool)
    alone = make_teacher(data, tmp_path / "alone", config)
    finished = subprocess.run(
        command(data, config, tmp_path, processes=2),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    answer = json.loads(finished.stdout)
    assert answer["metrics"]["steps"] == 6
    together = tmp_path / "teacher"
    read_manifest(together, "teacher")
    assert finished.stderr.count("held-out images:") == 2
    for ours, theirs in zip(losses(together), losses(alone), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    for ours, theirs in zip(losses(together)[:2], losses(alone)[:2], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    expected = weights(alone)
    for name, tensor in weights(together).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-2, atol=2e-3, msg=name)


@pytest.mark.slow
def test_another_number_of_processes_goes_on(tmp_path: Path):
    """A training of two processes is stopped in the middle and ended by one."""
    data = make_dataset(tmp_path / "data", "paired")
    config = teacher_config("pix2pix", epochs=2, decay_epochs=0, evaluations=0, time_limit_seconds=1e-3)
    finished = subprocess.run(
        command(data, config, tmp_path, processes=2),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert read_manifest(tmp_path / "teacher").summary["ended"] == "time limit"
    unlimited = config.model_copy(update={"time_limit_seconds": None})
    resumed = make_teacher(data, tmp_path / "resumed", unlimited, tmp_path / "checkpoint")
    alone = make_teacher(data, tmp_path / "alone", unlimited)
    manifest = read_manifest(resumed)
    assert (manifest.summary["ended"], manifest.summary["metrics"]["steps"]) == ("epochs", 6)
    expected = weights(alone)
    for name, tensor in weights(resumed).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-2, atol=2e-3, msg=name)


class Raises:
    def __call__(self) -> int:
        raise UserError("only the first one noticed")


class Collectives:
    """Counts the collective operations of its body."""

    def __enter__(self) -> "Collectives":
        self.count, self._all_reduce = 0, torch.distributed.all_reduce

        def counting(*given: Any, **named: Any) -> Any:
            self.count += 1
            return self._all_reduce(*given, **named)

        torch.distributed.all_reduce = counting
        return self

    def __exit__(self, *_: object) -> None:
        torch.distributed.all_reduce = self._all_reduce


def _checks(rank: int, accelerator: Accelerator) -> list[Any]:
    """Two checks of two steps each; the second finds a loss that is not finite in the other process."""
    checks, found = Checks(accelerator, total_steps=9, planned=()), []
    for values in (1.0, 2.0):
        checks.note({"a": torch.tensor(values + rank), "b": torch.tensor(10.0 * rank)})
    found.append(checks.check(2, rank == 1, False, rank == 0))
    for values in (3.0, torch.inf if rank else 4.0):
        checks.note({"a": torch.tensor(values)})
    with pytest.raises(RuntimeError) as raised:
        checks.check(4, False)
    return [*found, str(raised.value)]


def _parts(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    found: dict[str, Any] = {"rows": [share_of_batch(accelerator, 6).start, share_of_batch(accelerator, 6).stop]}
    found["agreed"] = agreed(accelerator, rank == 0, rank == 1, False)
    found["from_main"] = from_main(accelerator, lambda: {"rank": rank})
    found["to_main"] = to_main(accelerator, {"rank": rank})
    for name, action in {
        "error": lambda: from_main(accelerator, Raises()),
        "norm": lambda: check_norms(accelerator, [nn.Sequential(nn.SyncBatchNorm(3))]),
        "share": lambda: share_of_batch(accelerator, 5),
    }.items():
        with pytest.raises(UserError) as raised:
            action()
        found[name] = str(raised.value)
    torch.manual_seed(rank)
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    same_weights(accelerator, [network])
    found["weight"] = network[0].weight.detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    network(torch.full((4, 3), float(rank)) + torch.arange(4)[:, None]).square().sum().backward()
    gradient, mean = network[0].weight.grad, network[1].running_mean
    assert isinstance(gradient, torch.Tensor)
    assert isinstance(mean, torch.Tensor)
    found["own"] = [gradient.clone(), mean.clone()]
    average_gradients(accelerator, optimizer)
    average_buffers(accelerator, [network])
    found["averaged"] = [gradient.clone(), mean.clone()]
    with Collectives() as collectives:
        found["checked"] = _checks(rank, accelerator)
    found["collectives"] = collectives.count
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_what_processes_tell_each_other(tmp_path: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_parts, args=(port, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert (first["rows"], second["rows"]) == ([0, 3], [3, 6])
    for found in (first, second):
        assert found["agreed"] == [True, True, False]
        assert found["from_main"] == {"rank": 0}
        assert found["to_main"] == ([{"rank": 0}, {"rank": 1}] if found["rank"] == 0 else [])
        assert found["error"] == "only the first one noticed"
        assert "needs GPUs" in found["norm"]
        assert "batch_size 5 cannot be shared evenly by 2 processes" in found["share"]
        assert found["checked"][0] == ([{"a": 1.5, "b": 5.0}, {"a": 2.5, "b": 5.0}], [True, False, True])
        assert found["checked"][1].startswith("Loss 'a' is inf at step 4 of 9; the training has diverged")
        assert found["collectives"] == 2
        for ours, one, other in zip(found["averaged"], first["own"], second["own"], strict=True):
            torch.testing.assert_close(ours, (one + other) / 2)
    assert torch.equal(first["weight"], second["weight"])
    assert not torch.equal(first["own"][1], second["own"][1])


def test_one_process_talks_to_itself():
    accelerator = Accelerator(cpu=True)
    assert share_of_batch(accelerator, 5) == slice(0, 5)
    assert agreed(accelerator, True, False) == [True, False]
    assert from_main(accelerator, lambda: 3) == 3
    assert to_main(accelerator, 3) == [3]
    check_norms(accelerator, [nn.SyncBatchNorm(3)])
    with pytest.raises(UserError):
        from_main(accelerator, Raises())


@pytest.mark.slow
def test_processes_agree_on_where_to_begin(tmp_path: Path):
    """A place that follows from the weights, a longer training, and an end that is not there."""
    data = make_dataset(tmp_path / "data", "paired")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CAT_CHECKPOINTS": str(tmp_path / "states")}

    def run(**settings: Any) -> subprocess.CompletedProcess[str]:
        words = command(data, teacher_config("pix2pix", decay_epochs=0, **settings), tmp_path, processes=2)
        place = words.index("--checkpoint")
        del words[place : place + 2]
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)

    missing = run(epochs=2, goes_on_from=[1])
    assert missing.returncode != 0
    assert "error: teacher.goes_on_from names a training of 1 epochs" in missing.stderr
    for settings, steps in ({"epochs": 1}, 3), ({"epochs": 2, "goes_on_from": [1]}, 6):
        finished = run(**settings)
        assert finished.returncode == 0, finished.stderr
        assert json.loads(finished.stdout)["metrics"]["steps"] == steps
        assert finished.stderr.count("to train on: give more") == 1
    assert read_manifest(tmp_path / "teacher").summary["history"][0]["steps"] == 3
    assert sorted(path.name for path in (tmp_path / "states").glob("*/*")) == ["1+0", "2+0-after-1"]
