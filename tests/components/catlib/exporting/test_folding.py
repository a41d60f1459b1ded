import pytest
import torch
from torch import nn

from components.catlib.config import NormConfig
from components.catlib.exporting.folding import inference_copy
from tests.components.catlib.exporting.small_generators import NORMS, SIZE, inception


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
def test_inference_copy_computes_the_same_images(norm: NormConfig) -> None:
    generator = inception(norm)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    images = 2 * torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0)) - 1

    copied = inference_copy(generator)

    torch.testing.assert_close(copied(images), generator(images), atol=1e-6, rtol=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


@pytest.mark.parametrize("norm", ["batch", "batch without affine", "sync batch", "instance with running statistics"])
def test_inference_copy_folds_norms_with_running_statistics(norm: str) -> None:
    copied = inference_copy(inception(NORMS[norm]))
    assert isinstance(copied.get_submodule("features.0.pw_bn"), nn.Identity)
    norms = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d)
    assert [name for name, module in copied.named_modules() if isinstance(module, norms)] == []


def test_inference_copy_drops_biases_that_an_instance_norm_takes_away() -> None:
    copied = inference_copy(inception(NORMS["instance"]))
    with_bias = [
        name
        for name, module in copied.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None
    ]
    assert with_bias == ["up_sampling.7"]
