"""Two processes: kernel alignment is averaged over them, not summed (bug 10 of the published implementation)."""

import os
import socket
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from components.catlib.data.batches import Batch
from components.catlib.distributed.devices import Accelerator
from components.catlib.objectives.distillation import DistillationObjective
from tests.components.catlib.objectives.test_distillation import build
from tests.components.catlib.objectives.tiny import batch

SETTINGS = {"reconstruction": 0.0, "adversarial": 0.0}
"""Distillation alone, whose gradient is that of the alignments."""


def _half(images: Batch, rank: int) -> Batch:
    return Batch(images.source[2 * rank : 2 * rank + 2], images.target[2 * rank : 2 * rank + 2])


def _results(objective: DistillationObjective, images: Batch) -> dict[str, torch.Tensor]:
    losses = objective.step(images)
    student = objective.generators["source_to_target"]
    gradients = {f"gradient/{name}": parameter.grad for name, parameter in student.named_parameters()}
    return losses | {name: gradient.clone() for name, gradient in gradients.items() if gradient is not None}


def _train_half(rank: int, port: int, folder: Path) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    assert Accelerator(cpu=True).num_processes == 2
    results = _results(build("pix2pix", **SETTINGS), _half(batch("pix2pix", size=4), rank))
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_kernel_alignment_is_averaged_over_processes(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_train_half, args=(port, tmp_path), nprocs=2)
    of_both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    alone = [_results(build("pix2pix", **SETTINGS), _half(batch("pix2pix", size=4), rank)) for rank in range(2)]
    assert any(name.startswith("gradient/") for name in alone[0])
    assert alone[0]["distillation"] != alone[1]["distillation"]
    for name in alone[0]:
        # Every process has the losses of its own images; a check makes their means. Gradients are means at once.
        mean = (alone[0][name] + alone[1][name]) / 2 if name.startswith("gradient/") else None
        for results, own in zip(of_both, alone, strict=True):
            expected = own[name] if mean is None else mean
            torch.testing.assert_close(results[name], expected, rtol=1e-4, atol=1e-6, msg=name)
