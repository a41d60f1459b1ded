import copy
import re
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.catlib.distributed import devices
from components.catlib.distributed.devices import Accelerator, measures_on, measuring_device, open_accelerator
from components.catlib.errors import UserError
from tests.components.small_trainings import teacher_config


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    open_accelerator(teacher_config("pix2pix"))


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, values: Tensor) -> tuple[Tensor, dict[str, list[Tensor]], None]:
        product = self.layer(values)
        self.computed_in = product.dtype
        return product, {"features": [product]}, None


def test_bf16_is_what_networks_compute_in():
    accelerator = open_accelerator(teacher_config("pix2pix", precision="bf16"))
    network = nn.Linear(2, 2)
    with accelerator.autocast():
        product = network(torch.ones(1, 2))
    assert product.dtype == torch.bfloat16
    assert network.weight.dtype == torch.float32


@pytest.mark.parametrize("times", [1, 2])
def test_prepared_networks_compute_short_and_answer_in_float32(times: int):
    accelerator, network = Accelerator(cpu=True, precision="bf16"), TwoOutputs()
    for _ in range(times):
        assert accelerator.prepare(network) is network
    product, features, nothing = network(torch.ones(1, 2))
    assert network.computed_in == torch.bfloat16
    assert (product.dtype, features["features"][0].dtype, nothing) == (torch.float32, torch.float32, None)
    assert torch.equal(product, product.bfloat16().float())


def test_a_copy_of_a_prepared_network_has_layers_of_its_own():
    network = Accelerator(cpu=True, precision="bf16").prepare(TwoOutputs())
    other = copy.deepcopy(network)
    nn.init.zeros_(other.layer.weight)
    nn.init.zeros_(other.layer.bias)
    assert not other(torch.ones(1, 2))[0].any()
    assert network(torch.ones(1, 2))[0].any()


def test_in_fp32_networks_stay_as_they_are():
    network = Accelerator(cpu=True).prepare(nn.Linear(2, 2).double())
    assert "forward" not in vars(network)
    assert network(torch.ones(1, 2).double()).dtype == torch.float64


def test_precision_can_change_within_a_process():
    assert open_accelerator(teacher_config("pix2pix", precision="bf16")).precision == "bf16"
    assert open_accelerator(teacher_config("pix2pix")).precision == "fp32"


@pytest.mark.parametrize("fused", [False, True])
def test_fp16_leaves_out_a_step_whose_gradients_overflow(fused: bool):
    """Two optimisers share the scale: every step adapts it, and only the overflowing one changes no weights."""
    accelerator, weights = Accelerator(cpu=True, precision="fp16"), [torch.ones(3, requires_grad=True) for _ in "ab"]
    optimizers = [torch.optim.Adam([values], lr=0.5, fused=fused) for values in weights]
    assert accelerator.scaler is not None
    before = accelerator.scaler.get_scale()
    accelerator.backward(weights[0].sum() * torch.inf)
    accelerator.step(optimizers[0])
    assert torch.equal(weights[0], torch.ones(3))
    assert accelerator.scaler.get_scale() == before / 2
    accelerator.backward((weights[1] * torch.tensor([1.0, -2.0, 3.0])).sum())
    assert weights[1].grad is not None
    torch.testing.assert_close(weights[1].grad, torch.tensor([1.0, -2.0, 3.0]) * before / 2)
    accelerator.step(optimizers[1])
    torch.testing.assert_close(weights[1].detach(), torch.tensor([0.5, 1.5, 0.5]))  # Adam's first step is the rate
    torch.testing.assert_close(
        optimizers[1].state_dict()["state"][0]["exp_avg"], torch.tensor([0.1, -0.2, 0.3]), msg="unscaled"
    )
    assert accelerator.scaler.get_scale() == before / 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fp16_without_a_gpu_is_refused():
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        open_accelerator(teacher_config("pix2pix", precision="fp16"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fp16_scales_its_losses():
    assert open_accelerator(teacher_config("pix2pix", precision="fp16")).scaler is not None


def test_what_measures_computes_in_float32_without_tf32(monkeypatch: pytest.MonkeyPatch):
    accelerator = open_accelerator(teacher_config("pix2pix", precision="bf16", tf32=True))
    network = accelerator.prepare(nn.Linear(64, 64))
    inputs = torch.rand(8, 64)
    exact = nn.functional.linear(inputs, network.weight, network.bias)
    assert not torch.equal(network(inputs), exact)
    with accelerator.measuring():
        assert torch.equal(network(inputs), exact)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
    assert not torch.equal(network(inputs), exact)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
    assert measuring_device() == ("cuda" if torch.cuda.is_available() else "cpu")
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)


def test_a_task_that_finds_fewer_accelerators_than_it_reserved_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setenv("CAT_ACCELERATORS", "4")
    for take in (lambda: open_accelerator(teacher_config("pix2pix")), measuring_device):
        with pytest.raises(
            UserError, match=r"reserved accelerators \(4\).*built for CPUs alone, finds 1; use the image"
        ):
            take()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CAT_ACCELERATORS", "")
    assert measuring_device() == "cpu", "whoever reserved none takes what there is"


def test_one_line_names_device_precision_and_processes(caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO"):
        open_accelerator(teacher_config("pix2pix", precision="bf16"))
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("trains on")]
    assert re.fullmatch(r"trains on .+ \(.+\), in bf16, by 1 process", line)


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    config = teacher_config("pix2pix", compile=True)
    with pytest.raises(UserError, match=r"needs a compiler \(.+ or clang.*\), and there is none here.*compile: false"):
        open_accelerator(config)
    for name in ("mine", "gcc", "g++"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("CXX", "mine")
    open_accelerator(config)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(UserError, match=r"needs Python's headers, and .*/Python\.h does not exist.*compile: false"):
        open_accelerator(config)


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this machine look like one with Apple's GPU; nothing is computed there."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


@pytest.mark.usefixtures("apple")
def test_apples_gpu_trains_and_the_cpu_measures(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with caplog.at_level("INFO"):
        accelerator = open_accelerator(teacher_config("pix2pix"))
        assert (accelerator.device.type, accelerator.runs_behind, accelerator.scaler) == ("mps", True, None)
        assert measuring_device() == "cpu"
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "trains on Apple's GPU (mps), in fp32, by 1 process"
    assert said[1] == "measures on the CPU (1 thread)"
    assert measures_on("mps") == torch.device("cpu")
    assert measures_on("cuda:1") == torch.device("cuda:1")


@pytest.mark.usefixtures("apple")
def test_cuda_comes_before_apples_gpu_and_several_processes_stay_on_cpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert devices._device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert devices._device() == torch.device("cuda", 1)


@pytest.mark.usefixtures("apple")
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"precision": "fp16"}, "precision fp16 needs a GPU of CUDA, and there is none; use bf16 or fp32."),
        ({"compile": True}, "compile: true does not work on Apple's GPU (mps); set compile: false."),
        ({"speed": "fast"}, "speed: fast is for CUDA GPUs, and training runs on Apple's GPU (mps); set speed: exact"),
    ],
)
def test_what_apples_gpu_cannot_do_is_refused(settings: dict[str, Any], sentence: str):
    with pytest.raises(UserError, match=re.escape(sentence)):
        open_accelerator(teacher_config("pix2pix", **settings))


def test_speed_fast_is_refused_on_a_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for settings in ({}, {"compile": False, "precision": "fp32"}):
        with pytest.raises(
            UserError, match=r"^speed: fast is for CUDA GPUs, and training runs on the CPU \(.*exact, or"
        ):
            open_accelerator(teacher_config("pix2pix", speed="fast", **settings))
        assert open_accelerator(teacher_config("pix2pix", speed="exact", **settings)).device.type == "cpu"


def test_cudnn_tries_its_algorithms_where_asked_but_not_while_measuring():
    accelerator = open_accelerator(teacher_config("pix2pix", cudnn_benchmark=True))
    assert torch.backends.cudnn.benchmark
    with accelerator.measuring():
        assert not torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark
    measuring_device()
    assert not torch.backends.cudnn.benchmark
    open_accelerator(teacher_config("pix2pix"))
    assert not torch.backends.cudnn.benchmark


def test_random_numbers_of_a_device_are_kept_and_those_of_another_kind_are_not_taken(monkeypatch: pytest.MonkeyPatch):
    class Device:
        state = torch.arange(16, dtype=torch.uint8)

        @classmethod
        def get_rng_state(cls, device: torch.device) -> Tensor:
            return cls.state.clone()

        @classmethod
        def set_rng_state(cls, state: Tensor, device: torch.device) -> None:
            cls.state = state

    accelerator = Accelerator(cpu=True)
    assert accelerator.random_state() is None
    accelerator.restore_random_state(torch.zeros(16, dtype=torch.uint8))  # of a GPU
    monkeypatch.setattr(torch, "get_device_module", lambda _: Device)
    accelerator.device = torch.device("mps")
    kept = accelerator.random_state()
    assert kept is not None
    accelerator.restore_random_state(torch.zeros(24, dtype=torch.uint8))  # of another kind of GPU
    accelerator.restore_random_state(None)  # of a CPU
    assert torch.equal(Device.state, kept)
    accelerator.restore_random_state(kept.flip(0))
    assert torch.equal(Device.state, kept.flip(0))


@pytest.mark.parametrize(("tf32", "precision"), [(True, "high"), (False, "highest")])
def test_tf32_is_a_switch(tf32: bool, precision: str):
    open_accelerator(teacher_config("pix2pix", tf32=tf32))
    assert torch.get_float32_matmul_precision() == precision
    assert torch.backends.cudnn.allow_tf32 is tf32
