import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from components.catlib.config import DiscriminatorConfig, NormConfig, validate
from components.catlib.errors import UserError
from components.catlib.networks.discriminator_architecture import DiscriminatorArchitecture, discriminator_from_config
from components.catlib.networks.discriminators import Discriminator, build_discriminator
from components.catlib.networks.initialisation import initialise
from tests.components.catlib.networks.layers import check_gradients

NORM_KINDS = ("instance", "batch", "syncbatch")


def build(family: str, in_channels: int = 3, **settings) -> Discriminator:
    config = validate(DiscriminatorConfig, {"family": family, "base_channels": 4, **settings}, where="discriminator")
    return build_discriminator(discriminator_from_config(config, in_channels=in_channels))


@pytest.mark.parametrize(("num_layers", "pixels"), [(1, 16), (2, 34), (3, 70), (4, 142)])
def test_patchgan_sees_patches_of_known_size(num_layers: int, pixels: int) -> None:
    discriminator = build("patch", num_layers=num_layers, norm=NormConfig(kind="batch", track_running_stats=True))
    x = torch.randn(1, 3, 256, 256, requires_grad=True)
    logits = discriminator.eval()(x)  # running statistics: the norm connects no pixels
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    seen = x.grad.abs().sum(dim=(0, 1))
    assert (seen.sum(0) > 0).sum() == pixels
    assert (seen.sum(1) > 0).sum() == pixels


def test_patchgan_doubles_its_channels_up_to_eight_times() -> None:
    discriminator = build("patch", num_layers=5)
    widths = [module.out_channels for module in discriminator.modules() if isinstance(module, nn.Conv2d)]
    assert widths == [4, 8, 16, 32, 32, 32, 1]


def test_pixelgan_judges_every_pixel_alone() -> None:
    discriminator = build("pixel", norm=NormConfig(kind="batch", track_running_stats=True)).eval()
    x = torch.randn(1, 3, 8, 12, requires_grad=True)
    logits = discriminator(x)
    assert logits.shape == (1, 1, 8, 12)
    logits[0, 0, 2, 3].backward()
    assert x.grad.abs().sum(dim=(0, 1)).nonzero().tolist() == [[2, 3]]


@pytest.mark.parametrize(("num_scales", "num_layers"), [(1, 3), (2, 4), (3, 4)])
def test_multiscale_returns_every_feature_at_halving_sizes(num_scales: int, num_layers: int) -> None:
    discriminator = build("multiscale", num_scales=num_scales, num_layers=num_layers)
    outputs = discriminator(torch.randn(2, 3, 64, 96))
    assert [len(features) for features in outputs] == [num_layers + 1] * num_scales
    assert [features[0].shape[1:] for features in outputs] == [
        (4, 32 // 2**scale + 1, 48 // 2**scale + 1) for scale in range(num_scales)
    ]
    assert all(features[-1].shape[:2] == (2, 1) for features in outputs)


def test_second_scale_sees_the_averaged_input() -> None:
    discriminator = build("multiscale").eval()
    x = torch.randn(1, 3, 32, 32)
    count = functional.conv2d(torch.ones(1, 1, 32, 32), torch.ones(1, 1, 3, 3), stride=2, padding=1)
    pixels = functional.conv2d(x, torch.ones(3, 1, 3, 3), stride=2, padding=1, groups=3)
    expected = discriminator.get_submodule("discriminator_1").features(pixels / count)
    for found, wanted in zip(discriminator(x)[1], expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_multiscale_widths_stop_at_512() -> None:
    discriminator = build("multiscale", base_channels=256, num_layers=4, num_scales=1)
    widths = [module.out_channels for module in discriminator.modules() if isinstance(module, nn.Conv2d)]
    assert widths == [256, 512, 512, 512, 1]


def test_spectral_norms_converge_in_training_and_rest_in_evaluation() -> None:
    discriminator = build("multiscale")
    x = torch.randn(1, 3, 32, 32)
    for _ in range(50):
        discriminator(x)
    weight = discriminator.get_submodule("discriminator_0.model2.0.0").weight
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    discriminator.eval()(x)
    assert all(torch.equal(value, before[name]) for name, value in discriminator.state_dict().items())


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        *((family, {"norm": NormConfig(kind=kind)}) for family in ("patch", "pixel") for kind in NORM_KINDS),
        ("multiscale", {}),
    ],
)
def test_gradients_reach_every_parameter(family: str, settings: dict[str, Any]) -> None:
    discriminator = build(family, **settings)
    initialise(discriminator, kind="normal", gain=0.1, seed=1)
    output = discriminator(torch.randn(2, 3, 32, 32))
    logits = [output] if isinstance(output, torch.Tensor) else [features[-1] for features in output]
    check_gradients(discriminator, torch.cat([logit.flatten() for logit in logits]))


@pytest.mark.parametrize("family", ["patch", "pixel", "multiscale"])
def test_input_is_never_changed_and_may_be_channels_last(family: str) -> None:
    discriminator = build(family).eval()
    x = torch.randn(2, 3, 32, 32)
    before = x.clone()
    expected = discriminator(x)
    assert torch.equal(x, before)
    torch.testing.assert_close(discriminator(x.to(memory_format=torch.channels_last)), expected, rtol=0, atol=1e-5)


def test_features_are_not_overwritten_by_later_stages() -> None:
    discriminator = build("multiscale").eval()
    x = torch.randn(1, 3, 32, 32)
    scale = discriminator.get_submodule("discriminator_0")
    stage_by_stage = []
    for stage in scale:
        stage_by_stage.append(stage(stage_by_stage[-1].clone() if stage_by_stage else x))
    for found, wanted in zip(discriminator(x)[0], stage_by_stage, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("family", ["patch", "pixel", "multiscale"])
def test_architecture_is_json_and_back(family: str) -> None:
    architecture = build(family, in_channels=6).architecture
    described = json.loads(architecture.model_dump_json())
    assert validate(DiscriminatorArchitecture, described, where="architecture") == architecture
    keys = build_discriminator(architecture).state_dict().keys()
    assert keys == build(family, in_channels=6).state_dict().keys()


@pytest.mark.parametrize(("family", "idle"), [("patch", ["num_scales"]), ("pixel", ["num_layers", "num_scales"])])
def test_what_version_0_1_0_wrote_without_meaning_is_not_read(family: str, idle: list[str]) -> None:
    architecture = build(family).architecture
    described = architecture.model_dump(mode="json") | dict.fromkeys(idle, 2)
    assert validate(DiscriminatorArchitecture, described, where="architecture") == architecture


def test_a_multiscale_architecture_of_version_0_1_0_has_a_norm() -> None:
    architecture = build("multiscale").architecture
    described = architecture.model_dump(mode="json") | {"norm": NormConfig().model_dump(mode="json")}
    assert validate(DiscriminatorArchitecture, described, where="architecture") == architecture
    with pytest.raises(UserError, match="unknown key 'num_layer'; did you mean 'num_layers'"):
        validate(DiscriminatorArchitecture, described | {"num_layer": 3}, where="architecture")


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_a_patchgan_names_the_smallest_image_that_it_can_judge(num_layers: int) -> None:
    discriminator = build("patch", num_layers=num_layers, norm=NormConfig(kind="batch"))
    smallest = discriminator.architecture.smallest_size
    discriminator(torch.zeros(1, 3, smallest, smallest))
    discriminator.architecture.check_size(smallest, smallest, where="The dataset")
    with pytest.raises(
        UserError, match=f"The dataset has images of .*, too small for a PatchGAN of {num_layers} layers"
    ):
        discriminator.architecture.check_size(smallest, smallest - 1, where="The dataset")
