import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from components.catlib.config import NormConfig
from components.catlib.errors import UserError
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.inception.generator import InceptionBlock, InceptionGenerator
from components.catlib.networks.initialisation import initialise
from components.catlib.networks.layers import BranchChannels
from tests.components.catlib.networks.architectures import inception, pruned_inception
from tests.components.catlib.networks.layers import check_against_table, check_gradients
from tests.components.catlib.networks.sample_architectures import parse_architecture

NORMS = [
    NormConfig(kind=kind, affine=affine, track_running_stats=tracks)
    for kind, affine, tracks in itertools.product(("instance", "batch", "syncbatch"), (True, False), (True, False))
]


def norm_id(norm: NormConfig) -> str:
    return f"{norm.kind}-{'affine' if norm.affine else 'plain'}-{'tracking' if norm.track_running_stats else 'not'}"


@pytest.mark.parametrize("norm", NORMS, ids=norm_id)
@pytest.mark.parametrize("make", [inception, pruned_inception])
def test_network_holds_exactly_the_layers_of_its_table(make, norm: NormConfig) -> None:
    check_against_table(make(norm=norm), torch.randn(1, 3, 16, 24))


@pytest.mark.parametrize("norm", NORMS, ids=norm_id)
@pytest.mark.parametrize("make", [inception, pruned_inception])
def test_gradients_reach_every_parameter(make, norm: NormConfig) -> None:
    generator = InceptionGenerator(make(norm=norm))
    initialise(generator, kind="normal", gain=0.2, seed=1)
    check_gradients(generator, generator(torch.randn(2, 3, 16, 16)))


@given(
    kernel_sizes=st.lists(st.sampled_from([1, 3, 5, 7]), min_size=1, max_size=3, unique=True).map(tuple),
    height=st.integers(4, 7).map(lambda quarter: 4 * quarter),
    width=st.integers(4, 7).map(lambda quarter: 4 * quarter),
    in_channels=st.sampled_from([1, 3]),
    out_channels=st.sampled_from([1, 3]),
    padding=st.sampled_from(["reflect", "replicate", "zero"]),
    activation=st.sampled_from(["relu", "leaky_relu"]),
    dropout=st.sampled_from([0.0, 0.5]),
    factor=st.sampled_from([1, 6]),
    num_blocks=st.integers(1, 4),
)
@settings(max_examples=15, deadline=None)
def test_any_options_translate_images_of_any_size(
    kernel_sizes, height, width, in_channels, out_channels, padding, activation, dropout, factor, num_blocks
) -> None:
    architecture = inception(
        in_channels,
        out_channels,
        kernel_sizes=kernel_sizes,
        padding=padding,
        activation=activation,
        dropout=dropout,
        channels_reduction_factor=factor,
        num_blocks=num_blocks,
    )
    assert parse_architecture(architecture.model_dump(mode="json")) == architecture
    image, features = InceptionGenerator(architecture)(torch.randn(2, in_channels, height, width), return_features=True)
    assert image.shape == (2, out_channels, height, width)
    assert image.abs().max() <= 1
    assert all(feature.shape == (2, 16, height // 4, width // 4) for feature in features.values())


@pytest.mark.parametrize(
    ("size", "padding", "smallest"),
    [((30, 32), "reflect", 12), ((32, 34), "zero", 4), ((8, 32), "reflect", 12), ((32, 0), "zero", 4)],
)
def test_sizes_that_do_not_fit_are_refused(size, padding, smallest) -> None:
    generator = InceptionGenerator(inception(padding=padding))
    with pytest.raises(UserError, match=f"{size[0]}x{size[1]} pixels.*multiples of 4, at least {smallest}"):
        generator(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(("padding", "smallest"), [("reflect", 12), ("replicate", 8), ("zero", 8)])
def test_the_smallest_size_works(padding: str, smallest: int) -> None:
    generator = InceptionGenerator(inception(padding=padding))
    assert generator(torch.zeros(1, 3, smallest, smallest)).shape == (1, 3, smallest, smallest)


@pytest.mark.parametrize(
    ("padding", "mode"), [("reflect", "reflect"), ("replicate", "replicate"), ("zero", "constant")]
)
def test_blocks_pad_as_asked(padding: str, mode: str) -> None:
    architecture = inception(padding=padding, norm=NormConfig(kind="batch", track_running_stats=True), num_blocks=1)
    architecture = architecture.model_copy(update={"blocks": (BranchChannels(res=(0, 0, 2), dw=(0, 0, 0)),)})
    block = InceptionBlock(16, architecture.blocks[0], architecture).eval()
    x = torch.randn(1, 16, 6, 7)
    branch = block.res_ops[0].state_dict()
    # New batch norms at evaluation only divide by sqrt(1 + epsilon).
    shrink = (1 + 1e-5) ** -0.5
    hidden = functional.conv2d(functional.pad(x, (2, 2, 2, 2), mode), branch["1.0.weight"]) * shrink
    output = functional.conv2d(functional.pad(hidden.relu(), (2, 2, 2, 2), mode), branch["4.weight"]) * shrink
    torch.testing.assert_close(block(x), x + output)


def test_block_without_branches_is_the_identity_and_holds_nothing() -> None:
    architecture = pruned_inception()
    block = InceptionBlock(7, architecture.blocks[1], architecture)
    x = torch.randn(1, 7, 4, 4)
    assert torch.equal(block(x), x)
    assert not block.state_dict()


def test_features_are_those_of_the_named_modules_and_stay_unchanged() -> None:
    generator = InceptionGenerator(pruned_inception())
    seen = {}
    for name in generator.distillation_layers:
        generator.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output.clone()})
        )
    x = torch.randn(2, 3, 16, 16)
    image, features = generator(x, return_features=True)
    assert list(features) == list(generator.distillation_layers)
    for name, feature in features.items():
        assert torch.equal(feature, seen[name])
    assert torch.equal(generator(x), image)


@pytest.mark.parametrize(
    ("num_blocks", "expected"),
    [(9, (2, 5, 8)), (6, (1, 3, 5)), (3, (0, 1, 2)), (4, (1, 2, 3)), (2, (0, 1)), (1, (0,)), (0, ())],
)
def test_distillation_layers_end_each_third(num_blocks: int, expected: tuple[int, ...]) -> None:
    architecture = inception().model_copy(update={"blocks": inception().blocks[:1] * num_blocks})
    widths = architecture.feature_widths
    assert list(widths) == ["down_sampling.9", *(f"features.{i}" for i in expected)]
    assert set(widths.values()) == {architecture.down[-1]}


def test_input_is_never_changed() -> None:
    x = torch.randn(1, 3, 16, 16)
    before = x.clone()
    InceptionGenerator(inception())(x)
    assert torch.equal(x, before)


def test_channels_last_gives_the_same_image() -> None:
    generator = InceptionGenerator(inception()).eval()
    x = torch.randn(2, 3, 16, 24)
    expected = generator(x)
    torch.testing.assert_close(generator(x.to(memory_format=torch.channels_last)), expected, rtol=0, atol=1e-5)
    generator.to(memory_format=torch.channels_last)
    torch.testing.assert_close(generator(x.to(memory_format=torch.channels_last)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["instance", "batch", "syncbatch"])
def test_bfloat16_autocast_trains(kind: str) -> None:
    generator = InceptionGenerator(inception(norm=NormConfig(kind=kind)))
    x = torch.randn(2, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        image, features = generator(x, return_features=True)
    image.float().sum().backward()
    assert image.dtype == torch.bfloat16
    assert (image.float() - generator(x)).abs().mean() < 0.02
    assert all(feature.isfinite().all() for feature in features.values())
    assert all(parameter.grad.isfinite().all() for parameter in generator.parameters())


def test_dropout_acts_in_training_only() -> None:
    generator = InceptionGenerator(inception(dropout=0.5, norm=NormConfig(track_running_stats=True)))
    x = torch.randn(1, 3, 16, 16)
    assert not torch.equal(generator(x), generator(x))
    generator.eval()
    assert torch.equal(generator(x), generator(x))


def test_sync_batch_norm_is_torchs_own_and_equals_batch_norm_in_one_process() -> None:
    batch = InceptionGenerator(inception(norm=NormConfig(kind="batch", track_running_stats=True)))
    sync = InceptionGenerator(inception(norm=NormConfig(kind="syncbatch", track_running_stats=True)))
    sync.load_state_dict(batch.state_dict())
    assert any(isinstance(module, nn.SyncBatchNorm) for module in sync.modules())
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(sync(x), batch(x))
    torch.testing.assert_close(sync.state_dict(), batch.state_dict())


def test_architecture_decides_channels_alone() -> None:
    architecture = pruned_inception()
    copy = InceptionArchitecture.model_validate_json(architecture.model_dump_json())
    first, second = InceptionGenerator(architecture), InceptionGenerator(copy)
    second.load_state_dict(first.state_dict())
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(first(x), second(x))
