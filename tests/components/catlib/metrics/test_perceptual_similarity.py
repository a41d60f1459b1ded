from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor
from torchmetrics.functional.image.lpips import _LPIPS

from components.catlib.artifacts import file_sha256
from components.catlib.config import LpipsConfig, WeightsConfig
from components.catlib.errors import UserError
from components.catlib.metrics.perceptual_similarity import BACKBONES, Lpips, read_lpips

MAKERS = {"alex": torchvision.models.alexnet, "vgg": torchvision.models.vgg16}


@pytest.fixture(scope="module", params=["alex", "vgg"])
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LpipsConfig:
    """A backbone with random weights, without the large classifier."""
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in MAKERS[request.param]().state_dict().items()}
    state = {
        name: torch.randn(shape) * (0.1 if len(shape) == 1 else (2 / shape[1:].numel()) ** 0.5)
        for name, shape in shapes.items()
        if name.startswith("features.")
    }
    path = tmp_path_factory.mktemp("lpips") / f"{request.param}.pth"
    torch.save(state | {"classifier.1.weight": torch.zeros(1, 1)}, path)
    return LpipsConfig(backbone=request.param, weights=WeightsConfig(uri=str(path), sha256=file_sha256(path)))


def pair(side: int = 64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    images = torch.rand(3, 3, side, side) * 2 - 1
    return images, (images + 0.3 * torch.randn(images.shape)).clamp(-1, 1)


def test_it_is_torchmetrics_with_the_same_weights(config: LpipsConfig):
    """torchmetrics itself fetches its backbones from the web, so it gets a random one and then these weights."""
    theirs = _LPIPS(pretrained=True, net=config.backbone, pnet_rand=True, eval_mode=True)
    weights = torch.load(config.weights.uri, weights_only=True)
    # Its slices keep the numbers of torchvision's layers: slice2.3.weight is features.3.weight.
    theirs.net.load_state_dict({
        name: weights["features." + name.partition(".")[2]] for name in theirs.net.state_dict()
    })  # fmt: skip
    first, second = pair()
    with torch.inference_mode():
        expected = theirs(first, second).flatten()
    assert read_lpips(config)(first, second) == pytest.approx(expected, rel=1e-4)
    assert expected.min() > 1e-3


def test_equal_images_are_at_0_and_others_further_the_more_they_differ(config: LpipsConfig):
    lpips = read_lpips(config)
    image, other = pair()
    assert lpips(image, image) == pytest.approx(torch.zeros(3), abs=1e-6)
    assert (lpips(image, other) > lpips(image, (3 * image + other) / 4)).all()


def test_which_network_it_was_is_told(config: LpipsConfig):
    identity = read_lpips(config).identity
    assert (identity.backbone, identity.sha256) == (config.backbone, config.weights.sha256)
    assert identity.heads_sha256 != identity.sha256


def test_the_smallest_images_are_those_named(config: LpipsConfig):
    lpips = read_lpips(config)
    side = BACKBONES[config.backbone].smallest_side
    assert torch.isfinite(lpips(*pair(side))).all()
    with pytest.raises(RuntimeError):
        lpips(*pair(side - 1))


def test_other_weights_are_refused(config: LpipsConfig, tmp_path: Path):
    other = config.weights.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(UserError, match="expected 0000"):
        read_lpips(config.model_copy(update={"weights": other}))
    wrong = "vgg" if config.backbone == "alex" else "alex"
    with pytest.raises(UserError, match=rf"backbone {wrong} of LPIPS.*features\."):
        read_lpips(LpipsConfig.model_validate({"backbone": wrong, "weights": {"uri": config.weights.uri}}))
    state = torch.load(config.weights.uri, weights_only=True)
    torch.save(state | {"features.99.bias": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(UserError, match=r"holds the tensor features\.99\.bias"):
        read_lpips(config.model_copy(update={"weights": WeightsConfig(uri=str(tmp_path / "more.pth"))}))


def test_it_is_frozen(config: LpipsConfig):
    lpips = read_lpips(config)
    assert isinstance(lpips, Lpips)
    assert not lpips.training
    assert not any(parameter.requires_grad for parameter in lpips.parameters())
