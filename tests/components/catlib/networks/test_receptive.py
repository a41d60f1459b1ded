"""The receptive radius by arithmetic is the distance that gradients really reach."""

import pytest
import torch
from torch import nn

from components.catlib.config import NormConfig
from components.catlib.networks.families import build_generator
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.layers import BranchChannels
from components.catlib.networks.receptive import receptive_radius
from tests.components.catlib.networks.architectures import inception, spade

RUNNING = NormConfig(kind="batch", track_running_stats=True)
SMALL = {"base_channels": 2, "channels_reduction_factor": 4, "norm": RUNNING}


def only(res: tuple[int, ...], dw: tuple[int, ...], **config: object) -> InceptionArchitecture:
    """A generator with these branches in its only block."""
    architecture = inception(num_blocks=1, **(SMALL | config))
    return architecture.model_copy(update={"blocks": (BranchChannels(res=res, dw=dw),)})


ARCHITECTURES = {
    # A doubling looks 1 pixel farther from repeated pixels, and 2 farther where the convolution runs before it.
    "resize": (inception(num_blocks=1, kernel_sizes=(1,), upsample="resize", **SMALL), 12 + 1 * (1 + 2)),
    "subpixel": (inception(num_blocks=1, kernel_sizes=(1,), upsample="subpixel", **SMALL), 12 + 2 * (1 + 2)),
    "the example": (only((1, 1, 1), (1, 1, 1)), 3 + 1 + 2 + 4 * 4 + 2 + 1 + 3),
    "no block": (only((0, 0, 0), (0, 0, 0)), 12),
    "depthwise branch alone": (only((1, 0, 0), (0, 0, 1)), 12 + 4 * 2),
    "wide depthwise beside narrow residual": (only((1, 1), (0, 1), kernel_sizes=(3, 7)), 12 + 4 * 6),
    "two blocks, zeros at the edge": (inception(num_blocks=2, kernel_sizes=(3,), padding="zero", **SMALL), 12 + 4 * 4),
}


def reached(architecture: InceptionArchitecture) -> int:
    """Returns the largest distance of an input pixel whose change moves an output pixel, at all places of the grid."""
    network = build_generator(architecture).eval().double()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):  # no path is cancelled, switched off or saturated
            nn.init.constant_(module.weight, 1.0 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    middle, farthest = 64, 0
    for phase in range(architecture.size_step):
        image = torch.full((1, 3, 4, 128), 0.5, dtype=torch.float64)
        image = image.repeat(1, 1, 5, 1).requires_grad_()  # 20 rows: one axis is enough
        network(image)[0, :, 8, middle + phase].sum().backward()
        assert image.grad is not None
        columns = image.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten() - (middle + phase)
        farthest = max(farthest, int(columns.abs().max()))
    return farthest


@pytest.mark.parametrize(("architecture", "radius"), ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_the_radius_is_what_gradients_reach(architecture: InceptionArchitecture, radius: int) -> None:
    assert receptive_radius(architecture) == radius == reached(architecture)


@pytest.mark.parametrize("kind", ["instance", "batch", "syncbatch"])
def test_statistics_of_the_image_reach_everywhere(kind: str) -> None:
    norm = NormConfig.model_validate({"kind": kind, "track_running_stats": False})
    assert receptive_radius(inception(norm=norm)) is None
    assert receptive_radius(inception(norm=norm.model_copy(update={"track_running_stats": True}))) == 12 + 3 * 16


def test_a_generator_of_one_size_has_none() -> None:
    assert receptive_radius(spade()) is None
