"""How networks compute: precision, memory format and compilation change the speed, hardly the losses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.catlib.artifacts import read_manifest
from components.catlib.data.batches import Batch
from components.catlib.distributed.devices import Accelerator
from components.catlib.networks.inception.generator import InceptionGenerator
from components.catlib.objectives.optimisation import prepare
from components.distill import stage as distill_stage
from tests.components.small_trainings import (
    assert_same_weights,
    distill_config,
    make_dataset,
    make_student,
    make_teacher,
    teacher_config,
    weights,
)

SHORT: dict[str, Any] = {"epochs": 1, "decay_epochs": 0, "evaluations": 1}


@pytest.fixture(autouse=True)
def every_step_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAT_LOG_SECONDS", "1e-9")


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("paired"), "paired")


def losses(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["losses"] for line in lines if "losses" in line]


@pytest.mark.parametrize(("family", "pairing"), [("pix2pix", "paired"), ("cyclegan", "unpaired"), ("spade", "labels")])
def test_bf16_trains_every_family(tmp_path: Path, family: Any, pairing: Any):
    data = make_dataset(tmp_path / "data", pairing)
    exact = losses(make_teacher(data, tmp_path / "fp32", teacher_config(family, **SHORT)))
    short = losses(make_teacher(data, tmp_path / "bf16", teacher_config(family, **SHORT, precision="bf16")))
    assert short[0] == pytest.approx(exact[0], rel=0.05, abs=0.02)
    assert short[0] != exact[0]
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in weights(tmp_path / "bf16").values())


def test_bf16_distils(paired: Path, tmp_path: Path):
    teacher = make_teacher(paired, tmp_path / "teacher", teacher_config("pix2pix", **SHORT))
    student = make_student(teacher, tmp_path / "student")
    found = {}
    for precision in ("fp32", "bf16"):
        distill_stage.run(
            distill_config("pix2pix", **SHORT, precision=precision),
            teacher=teacher,
            student=student,
            dataset=paired / "dataset",
            real_stats=paired / "real_stats",
            output=tmp_path / precision,
        )
        found[precision] = losses(tmp_path / precision)[0]
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.05, abs=0.02)
    assert found["bf16"] != found["fp32"]


def test_channels_last_reaches_the_networks(paired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: set[bool] = set()
    forward = InceptionGenerator.forward

    def spying(self: InceptionGenerator, x: Tensor, return_features: bool = False) -> Any:
        if self.training:
            seen.add(x.is_contiguous(memory_format=torch.channels_last))
            seen.add(self.down_sampling[4].weight.is_contiguous(memory_format=torch.channels_last))  # type: ignore[union-attr]
        return forward(self, x, return_features)

    monkeypatch.setattr(InceptionGenerator, "forward", spying)
    settings = teacher_config("pix2pix", **SHORT, channels_last=True)
    found = losses(make_teacher(paired, tmp_path / "last", settings))
    assert seen == {True}
    expected = losses(make_teacher(paired, tmp_path / "first", teacher_config("pix2pix", **SHORT)))
    assert found[0] == pytest.approx(expected[0], rel=1e-4)


def test_a_batch_moves_into_a_memory_format():
    batch = Batch(torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4))
    moved = batch.to("cpu", memory_format=torch.channels_last)
    assert moved.source.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(moved.target, batch.target)


@pytest.mark.slow
def test_compiled_networks_learn_the_same(paired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Traced as for any compiler, but run by torch itself: compiling every kernel takes minutes."""
    plain = make_teacher(paired, tmp_path / "plain", teacher_config("pix2pix", **SHORT))
    compiled_networks: list[object] = []
    compile_network = torch.compile

    def without_kernels(network: torch.nn.Module) -> object:
        compiled_networks.append(network)
        return compile_network(network, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", without_kernels)
    compiled = make_teacher(paired, tmp_path / "compiled", teacher_config("pix2pix", **SHORT, compile=True))
    assert len(compiled_networks) == 2
    for ours, theirs in zip(losses(compiled), losses(plain), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-2, abs=1e-3)
    assert set(weights(compiled)) == set(weights(plain))


@pytest.mark.slow
def test_a_compiled_network_computes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU())
    compiled = prepare(Accelerator(cpu=True), network, teacher_config("pix2pix", compile=True))
    assert compiled is not network
    images = torch.rand(2, 3, 4, 4)
    gradients = []
    for module in (network, compiled):
        network.zero_grad()
        module(images).square().sum().backward()
        gradients.append(network[0].weight.grad.clone())  # type: ignore[union-attr,operator]
    torch.testing.assert_close(gradients[0], gradients[1])
    assert list(tmp_path.rglob("*.so"))


def test_moving_averages_are_what_the_artifact_holds(paired: Path, tmp_path: Path):
    """The discriminators are equal, so training was; the generators are not, so one is an average."""
    plain = weights(make_teacher(paired, tmp_path / "plain", teacher_config("pix2pix", **SHORT)))
    averaged = weights(make_teacher(paired, tmp_path / "ema", teacher_config("pix2pix", **SHORT, ema_decay=0.999)))
    different = {name.split(".")[0] for name in plain if not torch.equal(plain[name], averaged[name])}
    assert different == {"generator_source_to_target"}
    scores = [read_manifest(tmp_path / name).summary["metrics"]["l1"] for name in ("plain", "ema")]
    assert scores[0] != scores[1]


def test_the_summary_says_why_training_ended(paired: Path, tmp_path: Path):
    limited = teacher_config("pix2pix", time_limit_seconds=1e-9)
    summary = read_manifest(make_teacher(paired, tmp_path / "limited", limited)).summary
    assert (summary["ended"], summary["metrics"]["steps"]) == ("time limit", 1)
    assert summary["kept"]["source_to_target"]["step"] == 1
    whole = make_teacher(paired, tmp_path / "whole", teacher_config("pix2pix", **SHORT))
    assert read_manifest(whole).summary["ended"] == "epochs"


def test_more_time_goes_on_where_the_limit_stopped(paired: Path, tmp_path: Path):
    config = teacher_config("pix2pix", evaluations=0)
    whole = make_teacher(paired, tmp_path / "whole", config)
    limited = config.model_copy(update={"time_limit_seconds": 1e-9})
    make_teacher(paired, tmp_path / "limited", limited, tmp_path / "state")
    assert_same_weights(whole, make_teacher(paired, tmp_path / "resumed", config, tmp_path / "state"))


def test_keep_checkpoints_counts_the_newest(paired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CAT_KEEP_CHECKPOINTS", "3")
    monkeypatch.setenv("CAT_CHECKPOINT_SECONDS", "1e9")
    make_teacher(paired, tmp_path / "teacher", teacher_config("pix2pix", evaluations=4), tmp_path / "state")
    steps = sorted(int(path.name[5:14]) for path in (tmp_path / "state").glob("step-*.json"))
    assert 2 <= len(steps) <= 4
    assert steps[-1] == 12


def test_patience_without_enough_evaluations_is_refused():
    with pytest.raises(ValueError, match=r"set evaluations to at least patience \+ 2 = 5"):
        teacher_config("pix2pix", patience=3, evaluations=4)
