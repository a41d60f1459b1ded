from collections.abc import Iterator

import pytest
import torch
from accelerate.state import AcceleratorState

from components.catlib.distributed.devices import open_accelerator
from components.catlib.errors import UserError
from tests.components.small_trainings import teacher_config


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    open_accelerator(teacher_config("pix2pix"))
    AcceleratorState._reset_state(reset_partial_state=True)


def test_bf16_is_what_networks_compute_in():
    accelerator = open_accelerator(teacher_config("pix2pix", precision="bf16"))
    network = torch.nn.Linear(2, 2)
    with accelerator.autocast():
        product = network(torch.ones(1, 2))
    assert product.dtype == torch.bfloat16
    assert network.weight.dtype == torch.float32


def test_precision_can_change_within_a_process():
    assert open_accelerator(teacher_config("pix2pix", precision="bf16")).mixed_precision == "bf16"
    assert open_accelerator(teacher_config("pix2pix")).mixed_precision == "no"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fp16_without_a_gpu_is_refused():
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        open_accelerator(teacher_config("pix2pix", precision="fp16"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fp16_scales_its_losses():
    assert open_accelerator(teacher_config("pix2pix", precision="fp16")).scaler is not None


@pytest.mark.parametrize(("tf32", "precision"), [(True, "high"), (False, "highest")])
def test_tf32_is_a_switch(tf32: bool, precision: str):
    open_accelerator(teacher_config("pix2pix", tf32=tf32))
    assert torch.get_float32_matmul_precision() == precision
    assert torch.backends.cudnn.allow_tf32 is tf32
