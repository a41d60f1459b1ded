"""LPIPS: how different two images look to a network that was trained to recognise things.

Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", version 0.1: features after
five ReLUs, each pixel's vector scaled to length 1; squared differences, weighted per channel by how people judged
pairs of images; the mean over pixels, summed over layers. 0 is equal; unlike pictures are at about 0.7.

The weights of the network (AlexNet or VGG16) come from outside; those per channel lie in the package torchmetrics.

Shape suffixes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from components.catlib.artifacts import file_sha256
from components.catlib.config import LpipsConfig
from components.catlib.config.measuring import LPIPS_SMALLEST_SIDE
from components.catlib.data.image_conversion import in_threes, mean_of_threes
from components.catlib.errors import UserError
from components.catlib.networks.published.reading import read_state_dict
from components.catlib.networks.state_dicts import check_state
from components.catlib.storage import local_copy

MEAN = (-0.030, -0.088, -0.188)
STD = (0.458, 0.448, 0.450)
"""ImageNet's mean and standard deviation for colours in [-1, 1], as LPIPS rounds them."""

EPSILON = 1e-8
"""Added to the squared length of a feature vector."""


PREFIX = "features."
"""How the names of convolutions begin in torchvision's state dicts."""


class Backbone(NamedTuple):
    """The places in a network where features are taken.

    Attributes:
        ends: Numbers of the layers of torchvision's `features` after the five ReLUs.
        smallest_side: Smallest height and width of images, in pixels.
    """

    ends: tuple[int, ...]
    smallest_side: int


BACKBONES = {
    "alex": Backbone((2, 5, 8, 10, 12), LPIPS_SMALLEST_SIDE["alex"]),
    "vgg": Backbone((4, 9, 16, 23, 30), LPIPS_SMALLEST_SIDE["vgg"]),
}


class LpipsIdentity(BaseModel):
    """Which network made a number; numbers of different identities must not be compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str = Field(description="alex or vgg")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="digest of the file of its weights")
    heads_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="digest of the weights per channel, version 0.1")


class Lpips(nn.Module):
    """The distance, as a frozen network.

    Attributes:
        identity: Which network it is.
    """

    def __init__(self, layers: nn.Sequential, heads: list[Tensor], identity: LpipsIdentity) -> None:
        """Splits the backbone after each feature.

        Args:
            layers: torchvision's `features` of the backbone.
            heads: Weight per channel [1, C, 1, 1] of each of the five features.
            identity: Which network it is.
        """
        super().__init__()
        ends = BACKBONES[identity.backbone].ends
        self.identity = identity
        self.slices = nn.ModuleList(layers[start:end] for start, end in itertools.pairwise((0, *ends)))
        self._heads = [f"head_{number}" for number in range(len(heads))]
        for name, head in zip(self._heads, heads, strict=True):
            self.register_buffer(name, head)
        self.register_buffer("_mean", torch.tensor(MEAN).reshape(3, 1, 1))
        self.register_buffer("_std", torch.tensor(STD).reshape(3, 1, 1))
        self.eval().requires_grad_(False)

    @property
    def smallest_side(self) -> int:
        """Smallest height and width of images, in pixels."""
        return BACKBONES[self.identity.backbone].smallest_side

    @torch.inference_mode()
    def forward(self, generated_NCHW: Tensor, target_NCHW: Tensor) -> Tensor:
        """Computes the distance of every pair [N] of images in [-1, 1]; other channels than 3 are seen in threes."""
        seen = [in_threes(images) for images in (generated_NCHW, target_NCHW)]
        distances = seen[0].new_zeros(len(seen[0]))
        features = [(images - self.get_buffer("_mean")) / self.get_buffer("_std") for images in seen]
        for layers, head in zip(self.slices, self._heads, strict=True):
            features = [layers(images) for images in features]
            first, second = (
                values / (values.square().sum(dim=1, keepdim=True) + EPSILON).sqrt() for values in features
            )
            weighted_NHW = ((first - second).square() * self.get_buffer(head)).sum(dim=1)
            distances = distances + weighted_NHW.mean(dim=(1, 2))
        return mean_of_threes(distances, len(generated_NCHW))


def read_lpips(config: LpipsConfig, device: str | torch.device = "cpu") -> Lpips:
    """Reads the network that LPIPS is measured with.

    Args:
        config: Which backbone, and its weights.
        device: Device of the images.

    Raises:
        UserError: The file is missing, has another digest, or does not hold this network.
    """
    path = local_copy(config.weights.uri)
    state = read_state_dict(path, sha256=config.weights.sha256)
    with torch.device("meta"):
        layers = _layers(config.backbone)
    # The classifier is not part of it.
    features = {name: tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    expected = {PREFIX + name: tensor for name, tensor in layers.state_dict().items()}
    check_state(features, expected, where=f"{path}, the backbone {config.backbone} of LPIPS,")
    layers.load_state_dict({name.removeprefix(PREFIX): tensor for name, tensor in features.items()}, assign=True)
    heads_file = _heads_file(config.backbone)
    identity = LpipsIdentity(
        backbone=config.backbone,
        sha256=config.weights.sha256 or file_sha256(path),
        heads_sha256=file_sha256(heads_file),
    )
    heads = read_state_dict(heads_file)
    return Lpips(layers, [heads[f"lin{number}.model.1.weight"] for number in range(5)], identity).to(device)


def _layers(backbone: str) -> nn.Sequential:
    from torchvision.models.alexnet import AlexNet  # takes seconds, and most runs do without
    from torchvision.models.vgg import cfgs, make_layers

    return AlexNet().features if backbone == "alex" else make_layers(cfgs["D"], batch_norm=False)


def _heads_file(backbone: str) -> Path:
    package = importlib.util.find_spec("torchmetrics")
    assert package is not None and package.origin is not None, "a dependency of this package"
    file = Path(package.origin).parent / "functional" / "image" / "lpips_models" / f"{backbone}.pth"
    if not file.is_file():
        raise UserError(f"This version of torchmetrics lacks {file.name}, the weights per channel of LPIPS.")
    return file
