"""The device, its precisions, and several processes, on a card."""

import logging
import os
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn

from components.catlib.config import Pix2PixConfig
from components.catlib.distributed.devices import Accelerator, measuring_device, open_accelerator
from components.catlib.metrics.features import RandomFeatures
from components.catlib.objectives.distillers.kernel_alignment import kernel_alignment

pytestmark = pytest.mark.gpu

ONE_PROCESS = """
import torch
from torch import distributed, nn
from components.catlib.distributed.devices import Accelerator
from components.catlib.distributed.processes import average_gradients, agreed
from torch.optim import SGD
import os
cpu = os.environ["GPU_TESTS_DEVICE"] == "cpu"
accelerator = Accelerator(cpu=cpu)
distributed.init_process_group("gloo" if cpu else "nccl")
value = torch.tensor([3.0], device=accelerator.device)
distributed.all_reduce(value)
layer = nn.Linear(2, 1).to(accelerator.device)
layer(torch.ones(1, 2, device=accelerator.device)).sum().backward()
average_gradients(accelerator, SGD(layer.parameters(), lr=1.0))
print(distributed.get_backend(), value.item(), layer.weight.grad.tolist())
distributed.destroy_process_group()
"""


def test_a_training_takes_the_card_and_the_log_names_it(card: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "components")
    accelerator = open_accelerator(Pix2PixConfig(precision="bf16", tf32=True))
    assert accelerator.device == torch.device("cuda", 0)
    assert f"trains on {torch.cuda.get_device_name()} (cuda:0), in bf16 with TF32, by 1 process" in caplog.text


def test_autocast_computes_in_the_short_type_and_returns_float32(device: str):
    accelerator = Accelerator(cpu=device == "cpu", precision="bf16")
    plain = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 3, 3)).to(device)
    images, seen = torch.randn(2, 3, 16, 16, device=device), []
    expected = plain(images)
    plain[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    found = accelerator.prepare(plain)(images)
    assert found.dtype == torch.float32
    assert seen == [torch.bfloat16]
    assert 0 < (found - expected).norm() / expected.norm() < 0.03


def test_a_step_in_fp16_that_overflows_is_skipped(card: str):
    accelerator = Accelerator(precision="fp16")
    layer = accelerator.prepare(nn.Linear(4, 1))
    optimizer = torch.optim.Adam(layer.parameters(), fused=True)
    before = layer.weight.detach().clone()
    assert accelerator.scaler is not None
    scale = accelerator.scaler.get_scale()
    accelerator.backward(layer(torch.full((1, 4), 3e4, device=card)).sum() * 3e4)
    accelerator.step(optimizer)
    assert torch.equal(layer.weight, before)
    assert accelerator.scaler.get_scale() < scale
    for _ in range(20):  # the scale halves until a step fits
        optimizer.zero_grad()
        accelerator.backward(layer(torch.ones(1, 4, device=card)).sum())
        accelerator.step(optimizer)
    assert not torch.equal(layer.weight, before)
    assert layer.weight.isfinite().all()


def test_synchronised_batch_norm_in_one_process_is_batch_norm(device: str):
    one, other = nn.SyncBatchNorm(8).to(device), nn.BatchNorm2d(8).to(device)
    images = [torch.randn(4, 8, 6, 6, device=device, requires_grad=True) for _ in range(2)]
    images[1].data.copy_(images[0].data)
    outputs = one(images[0]), other(images[1])
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(images[0].grad, images[1].grad)
    torch.testing.assert_close(one.running_var, other.running_var)


def test_one_process_talks_to_itself_by_the_library_for_the_device(device: str):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    place |= {"GPU_TESTS_DEVICE": device, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", ONE_PROCESS], capture_output=True, text=True, env=os.environ | place, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == ("gloo" if device == "cpu" else "nccl")
    assert done.stdout.split(maxsplit=1)[1].strip() == "3.0 [[1.0, 1.0]]"


def test_kernel_alignment_is_exact_where_tf32_is_allowed(device: str):
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    first = torch.randn(16, 64, 8, 8, device=device).relu()
    second = first + 0.1 * torch.randn_like(first)
    found = kernel_alignment(first, second).item()
    assert found == pytest.approx(kernel_alignment(first.double(), second.double()).item(), abs=2e-6)
    assert torch.get_float32_matmul_precision() == "high", "the training goes on with it"


def test_what_is_measured_on_the_card_is_what_the_cpu_measures(device: str):
    open_accelerator(Pix2PixConfig(tf32=True))
    measuring_device()
    assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"
    images = torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8)
    expected = RandomFeatures()(images)
    torch.testing.assert_close(RandomFeatures().to(device)(images.to(device)).cpu(), expected, rtol=1e-4, atol=1e-5)
