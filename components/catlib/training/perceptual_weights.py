"""Reads the network behind perceptual losses: a VGG19 trained on ImageNet."""

import torch

from components.catlib.config import (
    CycleGanDistillConfig,
    DistillConfig,
    Pix2PixConfig,
    Pix2PixDistillConfig,
    SpadeConfig,
    SpadeDistillConfig,
    TeacherConfig,
    WeightsConfig,
)
from components.catlib.config.distillers import OmgdConfig
from components.catlib.errors import UserError
from components.catlib.networks.published.reading import read_state_dict
from components.catlib.networks.state_dicts import check_state
from components.catlib.objectives.perceptual import PerceptualLoss
from components.catlib.storage import local_copy


def wanted_perceptual_loss(config: TeacherConfig | DistillConfig, device: torch.device) -> PerceptualLoss | None:
    """Reads VGG19 if a loss of the recipe needs it.

    Args:
        config: The teacher or the distill section of a recipe.
        device: The device of the images.

    Returns:
        The loss, or None if the recipe has no use for it.

    Raises:
        UserError: The weights are missing, not the expected ones, or not those of a VGG19.
    """
    match config:
        case SpadeConfig() | SpadeDistillConfig() if config.perceptual.weight > 0:
            return read_perceptual_loss(config.perceptual.weights, device)
        case Pix2PixConfig() | Pix2PixDistillConfig() | CycleGanDistillConfig() if config.reconstruction.kind == "vgg":
            return read_perceptual_loss(config.reconstruction.weights, device)
    distiller = getattr(config, "distiller", None)
    if isinstance(distiller, OmgdConfig) and distiller.perceptual.weight > 0:
        return read_perceptual_loss(distiller.perceptual.weights, device)
    return None


def read_perceptual_loss(weights: WeightsConfig | None, device: torch.device) -> PerceptualLoss:
    """Reads VGG19 weights into a perceptual loss.

    Args:
        weights: Torchvision's state dict of `vgg19` (its classifier is not needed), and its digest.
        device: The device of the images.

    Raises:
        UserError: No file is given, or it does not exist, has another digest, or is not the state dict of a VGG19.
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
