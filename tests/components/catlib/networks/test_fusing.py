"""Branches that run together compute what branches on their own compute, on the same parameters."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.catlib.config import NormConfig
from components.catlib.exporting.folding import inference_copy
from components.catlib.networks.families import Architecture, build_generator
from components.catlib.networks.generator import Generator
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.inception.generator import InceptionBlock
from components.catlib.networks.initialisation import initialise
from components.catlib.networks.spade.generator import SpadeInceptionBlock
from tests.components.catlib.networks.architectures import inception, pruned_inception, pruned_spade, spade
from tests.components.catlib.networks.test_modules import recorded

RUNNING = {"track_running_stats": True}
SMALL: dict[str, Any] = {"num_upsampling_layers": "normal", "crop_size": (32, 32), "kernel_sizes": (1, 3)}
ARCHITECTURES = {
    "instance": inception(),
    "instance, running": inception(norm=NormConfig(**RUNNING)),
    "batch": inception(norm=NormConfig(kind="batch")),
    "batch, running, zero padding": inception(padding="zero", norm=NormConfig(kind="batch", **RUNNING)),
    "sync batch, running, plain": inception(norm=NormConfig(kind="syncbatch", affine=False, **RUNNING)),
    "no 1x1": inception(kernel_sizes=(3, 5), padding="replicate", activation="leaky_relu"),
    "student": pruned_inception(),
    "student, running": pruned_inception(norm=NormConfig(kind="syncbatch", momentum=0.3, **RUNNING)),
    "spade": spade(),
    "spade spectral": spade(spectral=True, activation="leaky_relu"),
    "spade batch": spade(norm=NormConfig(kind="batch", affine=False)),
    "spade instance": spade(spade_norm="instance", norm=NormConfig()),
    "spade student": pruned_spade(),
}


class Blocks(nn.Module):
    """Some blocks of a generator, each on an input of its own."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        if isinstance(architecture, InceptionArchitecture):
            width = architecture.down[-1]
            self.blocks = nn.ModuleList([InceptionBlock(width, each, architecture) for each in architecture.blocks])
            self.widths, self.reads = [width] * len(self.blocks), None
        else:
            names = ["head_0", "G_middle_0", "up_0", "up_2"]
            self.blocks = nn.ModuleList([SpadeInceptionBlock(name, architecture) for name in names])
            self.widths = [architecture.block_widths[name][0] for name in names]
            self.reads = architecture.semantic_channels

    def forward(self, x: Tensor, semantics: Tensor) -> list[Tensor]:
        """Returns the output of each block."""
        others = [] if self.reads is None else [semantics[:, : self.reads]]
        return [block(x[:, :width], *others) for block, width in zip(self.blocks, self.widths, strict=True)]

    def fuse(self) -> None:
        """Fuses the branches, as a generator does."""
        Generator.fuse_branches(self)  # pyright: ignore[reportArgumentType]


def build(architecture: Architecture) -> Blocks:
    blocks = Blocks(architecture)
    initialise(blocks, kind="xavier", gain=0.5, seed=3)
    with torch.no_grad():
        for name, tensor in blocks.state_dict().items():
            if name.endswith("running_var"):
                nn.init.uniform_(tensor, 0.5, 1.5)
            elif name.endswith(("running_mean", "bias")):
                nn.init.normal_(tensor, std=0.1)
    return blocks


def inputs(blocks: Blocks, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, max(blocks.widths), 6, 7, generator=random, dtype=torch.float64)
    semantics = torch.randn(2, 5, 6, 7, generator=random, dtype=torch.float64)
    return x.to(dtype).requires_grad_(), semantics.to(dtype)


def passed(blocks: Blocks, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Runs forward and back; returns outputs and gradients."""
    x, semantics = inputs(blocks, dtype)
    outputs = blocks(x, semantics)
    weights = [torch.linspace(-1, 1, each.numel(), dtype=dtype).view_as(each) for each in outputs]
    loss = torch.stack([(each * weight).sum() for each, weight in zip(outputs, weights, strict=True)]).sum()
    return outputs, list(torch.autograd.grad(loss, [x, *blocks.parameters()]))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_fused_equals_plain(architecture: Architecture, training: bool) -> None:
    made = build(architecture).train(training)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        plain, fused = copy.deepcopy(made).to(dtype), copy.deepcopy(made).to(dtype)
        fused.fuse()
        for found, expected in zip(passed(fused, dtype), passed(plain, dtype), strict=True):
            assert difference(found, expected) < tolerance
        found, expected = fused.state_dict(), plain.state_dict()
        assert found.keys() == expected.keys() == made.state_dict().keys()
        assert difference([*found.values()], [*expected.values()]) < tolerance


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """Returns the largest difference in any tensor, relative to the largest value of all."""
    largest = max([1.0, *(each.abs().max().item() for each in expected)])
    return max((one - other).abs().max().item() for one, other in zip(found, expected, strict=True)) / largest


@pytest.mark.parametrize("make", [inception, spade])
def test_dropout_is_that_of_the_branches(make: Any) -> None:
    blocks = build(make(dropout=0.5))
    blocks.fuse()
    assert not torch.equal(blocks(*inputs(blocks))[0], blocks(*inputs(blocks))[0])
    blocks.eval()
    assert torch.equal(blocks(*inputs(blocks))[0], blocks(*inputs(blocks))[0])


def test_fused_branches_run_fewer_layers() -> None:
    architecture = inception()
    block = InceptionBlock(16, architecture.blocks[0], architecture)
    counts = []
    for block.fuses in (False, True):
        ran = recorded(block(torch.randn(1, 16, 8, 8)).sum())
        counts.append((ran["ConvolutionBackward0"], ran["NativeBatchNormBackward0"]))
    assert counts == [(3 * 2 + 3 * 3, 3 + 3 * 2 + 1), (3 + 3 + 3, 1 + 1 + 1)]


@pytest.mark.parametrize("architecture", [pruned_inception(), spade(**SMALL)], ids=["inception", "spade"])
def test_a_generator_fuses_all_its_blocks_and_its_export_none(architecture: Architecture) -> None:
    generator = build_generator(architecture).eval()
    x = torch.from_numpy(architecture.example_input(1, architecture.fixed_size or (16, 16)))
    before = generator(x)
    generator.fuse_branches()
    able = [module for module in generator.modules() if hasattr(module, "fuses")]
    assert len(able) >= len(architecture.blocks)
    assert all(module.fuses for module in able)
    torch.testing.assert_close(generator(x), before, rtol=0, atol=1e-5)
    torch.testing.assert_close(inference_copy(generator)(x), before, rtol=0, atol=1e-5)
    generator.fuse_branches(False)
    assert torch.equal(generator(x), before)
