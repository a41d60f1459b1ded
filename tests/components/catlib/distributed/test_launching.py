import logging
from pathlib import Path

import pytest
import torch

from components.catlib.artifacts import read_manifest
from components.catlib.distributed import launching
from components.catlib.distributed.launching import on_every_gpu
from components.catlib.errors import UserError
from components.teacher import stage
from tests.components.small_trainings import assert_same_weights, make_dataset, make_teacher, teacher_config, weights


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("paired"), "paired")


def launch(data: Path, output: Path, **settings: object) -> Path:
    config = teacher_config("pix2pix", epochs=1, decay_epochs=0, evaluations=1, **settings)
    on_every_gpu(stage.run, config, dataset=data / "dataset", real_stats=data / "real_stats", output=output)
    return output


def test_without_gpus_it_is_a_call(paired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    config = teacher_config("pix2pix", epochs=1, decay_epochs=0, evaluations=1)
    assert_same_weights(launch(paired, tmp_path / "launched"), make_teacher(paired, tmp_path / "called", config))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="pretends that there are two GPUs")
def test_two_devices_are_one_training(paired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = teacher_config("pix2pix", epochs=1, decay_epochs=0, evaluations=1)
    alone = weights(make_teacher(paired, tmp_path / "alone", config))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    together = launch(paired, tmp_path / "together")
    assert read_manifest(together).summary["metrics"]["steps"] == 3
    found = weights(together)
    assert any(not torch.equal(found[name], tensor) for name, tensor in alone.items())  # sums in another order
    for name, tensor in alone.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-2, atol=2e-3, msg=name)
    with pytest.raises(UserError, match="batch_size 3 cannot be shared evenly by 2 processes"):
        launch(paired, tmp_path / "uneven", batch_size=3)


@pytest.mark.parametrize(
    ("cores", "processes", "asked", "threads"), [(16, 4, None, [4]), (3, 8, None, [1]), (16, 4, "2", [])]
)
def test_processes_of_a_machine_share_its_cores(
    cores: int, processes: int, asked: str | None, threads: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_: list[int] = []
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr("torch.set_num_threads", set_.append)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    launching._outcome(lambda: None, (), {}, logging.INFO, str(tmp_path))
    assert set_ == threads
