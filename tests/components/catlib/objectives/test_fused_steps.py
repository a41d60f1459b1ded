"""Steps with fused branches compute what steps without compute, whatever else a recipe switches on."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, multiprocessing

from components.catlib.distributed.devices import Accelerator
from tests.components.catlib.objectives.test_distillation import build as build_distillation
from tests.components.catlib.objectives.test_processes import _half
from tests.components.catlib.objectives.test_teachers import build as build_teacher
from tests.components.catlib.objectives.tiny import batch

STAGES = {"teacher": build_teacher, "distill": build_distillation}
FAMILIES = ("pix2pix", "cyclegan", "spade")


def taken(family: str, stage: str, *, rank: int | None = None, **settings: Any) -> dict[str, Tensor]:
    """Takes two steps and returns their losses and the weights afterwards by name."""
    objective = STAGES[stage](family, **settings)
    images = batch(family, size=4)
    found = {}
    for step in range(2):
        losses = objective.step(images if rank is None else _half(images, rank))
        found |= {f"step {step}/{name}": loss.float() for name, loss in losses.items()}
    for name, network in objective.networks.items():
        found |= {f"{name}/{key}": tensor.detach().clone() for key, tensor in network.state_dict().items()}
    return found


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Checks names and losses; the weights after Adam's steps follow the signs of gradients, so only few may differ."""
    assert found.keys() == expected.keys(), "checkpoints interchange"
    for name, value in expected.items():
        if name.startswith("step "):
            torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance, msg=name)
        assert found[name].shape == value.shape


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", [{}, {"recompute_activations": True}], ids=["plain", "recomputed"])
def test_fused_steps_are_those_of_the_branches(family: str, stage: str, settings: dict[str, Any]) -> None:
    expected = taken(family, stage)
    assert_alike(taken(family, stage, fuse_branches=True, **settings), expected, 2e-4)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_fused_steps_in_bfloat16(family: str, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = taken(family, stage)
    initialise = Accelerator.__init__
    monkeypatch.setattr(Accelerator, "__init__", lambda self, **_: initialise(self, cpu=True, precision="bf16"))
    plain, fused = taken(family, stage), taken(family, stage, fuse_branches=True)
    assert any(not torch.equal(plain[name], expected[name]) for name in expected), "bfloat16 was used"
    assert_alike(fused, expected, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "stage"), [("pix2pix", "distill"), ("cyclegan", "teacher"), ("spade", "teacher")])
def test_fused_steps_that_are_compiled(family: str, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for any compiler, without a break, and run by torch itself: compiling every kernel takes minutes."""
    expected = taken(family, stage)
    compile_network = torch.compile
    compiled: list[object] = []

    def without_kernels(network: torch.nn.Module) -> object:
        compiled.append(network)
        return compile_network(network, backend="aot_eager", fullgraph=True)

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", without_kernels)
    assert_alike(taken(family, stage, fuse_branches=True, compile=True), expected, 2e-4)
    assert compiled


def _train_half(rank: int, port: int, folder: Path) -> None:
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    assert Accelerator(cpu=True).num_processes == 2
    found = {
        (family, stage, fuses): taken(family, stage, rank=rank, fuse_branches=fuses)
        for family in ("pix2pix", "cyclegan")  # SPADE's synchronised norms need GPUs
        for stage in STAGES
        for fuses in (False, True)
    }
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_fused_steps_of_two_processes(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_train_half, args=(port, tmp_path), nprocs=2)
    of_both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for results in of_both:
        for (family, stage, fuses), found in results.items():
            if fuses:
                assert_alike(found, results[family, stage, False], 2e-4)
    for key, found in of_both[0].items():
        for name, tensor in found.items():
            if "/" in name and not name.startswith("step "):
                other = of_both[1][key][name]
                buffer = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
                assert buffer or torch.equal(tensor, other), f"{key} {name}: the processes hold the same weights"
