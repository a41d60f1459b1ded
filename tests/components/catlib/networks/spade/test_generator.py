import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from components.catlib.config import NormConfig
from components.catlib.networks.initialisation import initialise
from components.catlib.networks.spade.architecture import InceptionSpadeArchitecture
from components.catlib.networks.spade.generator import InceptionSpadeGenerator, SpadeInceptionBlock, SpadeNorm
from tests.components.catlib.networks.architectures import pruned_spade, spade
from tests.components.catlib.networks.layers import check_against_table, check_gradients
from tests.components.catlib.networks.sample_architectures import parse_architecture

NORMS = [
    NormConfig(kind="syncbatch", track_running_stats=True),
    NormConfig(kind="batch", track_running_stats=False),
    NormConfig(kind="instance"),
    NormConfig(kind="batch", affine=False, track_running_stats=True),
]


def semantics(batch: int, height: int, width: int) -> Tensor:
    """Five one-hot planes with a different mixture at every pixel."""
    labels = torch.randint(5, (batch, height, width))
    return functional.one_hot(labels, 5).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: f"{norm.kind}-{norm.affine}-{norm.track_running_stats}")
@pytest.mark.parametrize("spade_norm", ["syncbatch", "batch", "instance"])
@pytest.mark.parametrize("make", [spade, pruned_spade])
def test_network_holds_exactly_the_layers_of_its_table(make, norm: NormConfig, spade_norm: str) -> None:
    check_against_table(make(norm=norm, spade_norm=spade_norm), semantics(1, 64, 128))


@pytest.mark.parametrize("spectral", [False, True], ids=["plain", "spectral"])
@pytest.mark.parametrize("norm", NORMS[:2], ids=lambda norm: norm.kind)
@pytest.mark.parametrize("make", [spade, pruned_spade])
def test_gradients_reach_every_parameter(make, norm: NormConfig, spectral: bool) -> None:
    # A 1x1 convolution of one channel is constant under spectral norm, so no branch may be that narrow.
    architecture = make(norm=norm, spectral=spectral, channels_reduction_factor=1 if spectral else 2)
    generator = InceptionSpadeGenerator(architecture)
    initialise(generator, kind="normal", gain=0.3, seed=1)
    check_gradients(generator, generator(semantics(2, 64, 128)))


@pytest.mark.parametrize(
    ("num_upsampling_layers", "crop_size", "latent_size"),
    [
        ("normal", (32, 64), (1, 2)),
        ("normal", (96, 64), (3, 2)),
        ("more", (64, 128), (1, 2)),
        ("more", (128, 64), (2, 1)),
        ("most", (128, 128), (1, 1)),
    ],
)
def test_images_have_the_crop_size(num_upsampling_layers: str, crop_size, latent_size) -> None:
    architecture = spade(crop_size, num_upsampling_layers=num_upsampling_layers)
    assert parse_architecture(architecture.model_dump(mode="json")) == architecture
    assert architecture.latent_size == latent_size
    generator = InceptionSpadeGenerator(architecture)
    image, features = generator(semantics(2, *crop_size), return_features=True)
    assert image.shape == (2, 3, *crop_size)
    assert image.abs().max() <= 1
    assert features["head_0"].shape == (2, 32, *latent_size)
    assert [feature.shape[1] for feature in features.values()] == [32, 32, 8]


def test_semantics_of_another_size_change_nothing_about_the_image_size() -> None:
    generator = InceptionSpadeGenerator(spade((64, 128)))
    assert generator(semantics(2, 128, 256)).shape == (2, 3, 64, 128)


def test_features_are_those_of_the_named_modules_and_stay_unchanged() -> None:
    generator = InceptionSpadeGenerator(pruned_spade()).eval()
    seen = {}
    for name in generator.distillation_layers:
        generator.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output.clone()})
        )
    x = semantics(2, 64, 128)
    image, features = generator(x, return_features=True)
    assert list(features) == list(generator.distillation_layers)
    for name, feature in features.items():
        assert torch.equal(feature, seen[name])
    assert torch.equal(generator(x), image)


def test_block_without_branches_is_its_shortcut() -> None:
    architecture = pruned_spade()
    x, labels = torch.randn(2, 32, 4, 4), semantics(2, 64, 128)
    same_width = SpadeInceptionBlock("G_middle_0", architecture)
    assert torch.equal(same_width(x, labels), x)
    assert not same_width.state_dict()
    narrowing = SpadeInceptionBlock("up_1", architecture)
    x = torch.randn(2, 16, 4, 4)
    weight = narrowing.state_dict()["shortcut.1.conv.weight"]
    expected = functional.conv2d(functional.batch_norm(x, None, None, training=True), weight)
    torch.testing.assert_close(narrowing(x, labels), expected)


def test_spade_norm_without_branches_only_normalises() -> None:
    norm = SpadeNorm(32, "up_0", pruned_spade())
    x = torch.randn(2, 32, 4, 4)
    torch.testing.assert_close(norm(x, semantics(2, 8, 8)), functional.batch_norm(x, None, None, training=True))


def test_spade_norm_modulates_by_the_labels_under_each_pixel() -> None:
    """With 1x1 kernels, one branch and no hidden norm's shift, equal labels are treated equally and others are not."""
    architecture = spade(kernel_sizes=(1,), norm=NormConfig(kind="batch", track_running_stats=True))
    norm = SpadeNorm(32, "head_0", architecture).eval()
    labels = torch.zeros(1, 5, 4, 8)
    labels[:, 0, :, :4] = 1
    labels[:, 1, :, 4:] = 1
    modulated = norm(torch.ones(1, 32, 2, 4), labels)
    left, right = modulated[..., :2], modulated[..., 2:]
    assert torch.equal(left, left[..., :1, :1].expand_as(left))
    assert torch.equal(right, right[..., :1, :1].expand_as(right))
    assert not torch.allclose(left, right)


def test_spectral_norm_sits_on_the_convolutions_of_blocks_only() -> None:
    generator = InceptionSpadeGenerator(spade((32, 32), num_upsampling_layers="normal", spectral=True))
    spectral = {name.removesuffix(".weight_orig") for name in generator.state_dict() if name.endswith(".weight_orig")}
    convolutions = {name for name, module in generator.named_modules() if isinstance(module, nn.Conv2d)}
    assert spectral == {name for name in convolutions if "." in name and ".spade." not in name}
    generator.train()
    for _ in range(30):
        generator(semantics(2, 32, 32))
    weight = generator.get_submodule("head_0.res_ops.1.0.conv").weight
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


def test_channels_last_and_bfloat16_autocast() -> None:
    generator = InceptionSpadeGenerator(spade())
    x = semantics(2, 64, 128)
    expected = generator(x).detach()
    torch.testing.assert_close(generator(x.to(memory_format=torch.channels_last)), expected, rtol=0, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        image = generator(x)
    image.float().sum().backward()
    assert (image.float() - expected).abs().mean() < 0.02
    assert all(parameter.grad.isfinite().all() for parameter in generator.parameters())


def test_architecture_decides_channels_alone() -> None:
    architecture = pruned_spade()
    copy = InceptionSpadeArchitecture.model_validate_json(architecture.model_dump_json())
    first, second = InceptionSpadeGenerator(architecture).eval(), InceptionSpadeGenerator(copy).eval()
    second.load_state_dict(first.state_dict())
    x = semantics(1, 64, 128)
    assert torch.equal(first(x), second(x))
