"""The VGG19 loss, with random weights in the shape of the real ones."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from components.catlib.config import WeightsConfig
from components.catlib.config.losses import VggLossConfig
from components.catlib.errors import UserError
from components.catlib.objectives.reconstruction import reconstruction_loss
from components.catlib.training.perceptual_weights import read_perceptual_loss

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def layers() -> nn.Sequential:
    """VGG19's features with weights that keep the signal alive."""
    with torch.device("meta"):
        layers = make_layers(cfgs["E"], batch_norm=False)
    random, state = torch.Generator().manual_seed(0), {}
    for name, tensor in layers.state_dict().items():
        deviation = (2 / tensor[0].numel()) ** 0.5 if tensor.ndim == 4 else 0.0
        state[name] = torch.randn(tensor.shape, generator=random) * deviation
    layers.load_state_dict(state, assign=True)
    return layers.eval()


@pytest.fixture(scope="module")
def weights(layers: nn.Sequential, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file such as torchvision's: features and a classifier, which is not read."""
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    features = {f"features.{name}": tensor for name, tensor in layers.state_dict().items()}
    torch.save(features | {"classifier.0.weight": torch.zeros(3, 3)}, path)
    yield path
    path.unlink()


def _by_hand(layers: nn.Sequential, image: Tensor, target: Tensor) -> float:
    total, weights = 0.0, dict(zip((1, 6, 11, 20, 29), (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1), strict=True))
    with torch.no_grad():
        for number, layer in enumerate(layers[:30]):
            image, target = layer(image), layer(target)
            if number in weights:
                assert isinstance(layer, nn.ReLU)
                total += weights[number] * (image - target).abs().mean().item()
    return total


def test_five_weighted_slices(layers: nn.Sequential, weights: Path) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    loss = read_perceptual_loss(WeightsConfig(uri=str(weights), sha256=digest), CPU)
    image, target = torch.rand(2, 3, 32, 32, requires_grad=True), torch.rand(2, 3, 32, 32, requires_grad=True)
    value = loss(image, target)
    assert value.shape == ()
    assert value.item() == pytest.approx(_by_hand(layers, image.detach(), target.detach()), rel=1e-5)
    value.backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0
    assert target.grad is None
    assert all(parameter.grad is None for parameter in loss.parameters())
    assert loss(target, target).item() == 0


def test_is_a_reconstruction_loss(layers: nn.Sequential, weights: Path) -> None:
    config = VggLossConfig(weights=WeightsConfig(uri=str(weights)))
    image, target = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    loss = reconstruction_loss(config, read_perceptual_loss(config.weights, CPU))
    assert loss(image, target).item() == pytest.approx(_by_hand(layers, image, target), rel=1e-5)


def test_refusals(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weights\.uri"):
        read_perceptual_loss(None, CPU)
    with pytest.raises(UserError, match=r"absent\.pth"):
        read_perceptual_loss(WeightsConfig(uri=str(tmp_path / "absent.pth")), CPU)
    with pytest.raises(UserError, match="expected 0000"):
        read_perceptual_loss(WeightsConfig(uri=str(weights), sha256="0" * 64), CPU)
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, other)
    with pytest.raises(UserError, match="VGG19"):
        read_perceptual_loss(WeightsConfig(uri=str(other)), CPU)
    other.write_bytes(b"not a file of tensors")
    with pytest.raises(UserError, match=r"other\.pth"):
        read_perceptual_loss(WeightsConfig(uri=str(other)), CPU)
