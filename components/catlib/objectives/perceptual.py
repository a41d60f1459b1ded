"""The perceptual loss: how differently a VGG19 trained on ImageNet sees two images (method section 3).

Johnson et al. 2016, with the five slices and weights that pix2pixHD and SPADE use.
"""

import torch
from torch import Tensor, nn

from components.catlib.data.image_conversion import in_threes
from components.catlib.objectives.precision import at_least_float32

SLICE_ENDS = (2, 7, 12, 21, 30)
"""Layers of VGG19's `features` after relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1."""

SLICE_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)


class PerceptualLoss(nn.Module):
    """Weighted mean absolute differences of VGG19 features after five of its ReLUs.

    Images go in as they are, in [-1, 1]. The published implementations, for which this loss got its weight (10), do not
    apply ImageNet's mean and deviation either.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        """Freezes the network.

        Args:
            layers: VGG19's `features`, at least the first 30 layers.
        """
        super().__init__()
        starts = (0, *SLICE_ENDS[:-1])
        self.slices = nn.ModuleList(layers[start:end] for start, end in zip(starts, SLICE_ENDS, strict=True))
        self.requires_grad_(False)
        self.eval()

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Compares images; the gradient flows to the first argument only.

        Args:
            image: [N, C, H, W] in [-1, 1], H and W at least 16; other channels than 3 are seen in threes.
            target: The same shape and range.

        Returns:
            A scalar, at least float32: Σ weight · mean |VGG(image) − VGG(target)|.
        """
        with torch.no_grad():
            wanted = self._features(in_threes(target))
        terms = [
            weight * nn.functional.l1_loss(at_least_float32(seen), at_least_float32(sought))
            for weight, seen, sought in zip(SLICE_WEIGHTS, self._features(in_threes(image)), wanted, strict=True)
        ]
        return torch.stack(terms).sum()

    def _features(self, image: Tensor) -> list[Tensor]:
        features = []
        for layers in self.slices:
            image = layers(image)
            features.append(image)
        return features
