"""The perceptual loss: how differently a VGG19 trained on ImageNet sees two images (method section 3).

Johnson et al. 2016, with the five slices and weights that pix2pixHD and SPADE use.
"""

import torch
from torch import Tensor, nn

from components.catlib.config import WeightsConfig
from components.catlib.errors import UserError
from components.catlib.networks.published import read_state_dict
from components.catlib.networks.state_dicts import check_state
from components.catlib.objectives.precision import at_least_float32
from components.catlib.storage import local_copy

SLICE_ENDS = (2, 7, 12, 21, 30)
"""Layers of VGG19's `features` after relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1."""

SLICE_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)


class PerceptualLoss(nn.Module):
    """Weighted mean absolute differences of VGG19 features after five of its ReLUs.

    Images go in as they are, in [-1, 1]: the published implementations that the weight of this loss (10) was chosen
    with do not apply ImageNet's mean and deviation either.
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
            image: [N, 3, H, W] in [-1, 1], H and W at least 16.
            target: The same shape and range.

        Returns:
            A scalar, at least float32: Σ weight · mean |VGG(image) − VGG(target)|.
        """
        with torch.no_grad():
            wanted = self._features(target)
        terms = [
            weight * nn.functional.l1_loss(at_least_float32(seen), at_least_float32(sought))
            for weight, seen, sought in zip(SLICE_WEIGHTS, self._features(image), wanted, strict=True)
        ]
        return torch.stack(terms).sum()

    def _features(self, image: Tensor) -> list[Tensor]:
        features = []
        for layers in self.slices:
            image = layers(image)
            features.append(image)
        return features


def read_perceptual_loss(weights: WeightsConfig | None, device: torch.device) -> PerceptualLoss:
    """Reads VGG19 weights into a perceptual loss.

    Args:
        weights: Torchvision's state dict of `vgg19` (its classifier is not
            needed), and its digest.
        device: Where images will be.

    Raises:
        UserError: Not given, no such file, another digest, not a state dict, or not that of a VGG19.
    """
    if weights is None:
        raise UserError("The VGG19 loss needs weights.uri, the path of torchvision's vgg19-dcbb9e9d.pth.")
    path = local_copy(weights.uri)
    state = read_state_dict(path, sha256=weights.sha256)
    with torch.device("meta"):
        from torchvision.models.vgg import cfgs, make_layers  # takes seconds, and most recipes do without

        layers = make_layers(cfgs["E"], batch_norm=False)
    convolutions = {
        name.removeprefix("features."): tensor for name, tensor in state.items() if name.startswith("features.")
    }
    check_state(convolutions, layers.state_dict(), where=f"{path}, the features of a VGG19,")
    layers.load_state_dict(convolutions, assign=True)
    return PerceptualLoss(layers).to(device)
