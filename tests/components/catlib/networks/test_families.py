import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from components.catlib.config import GeneratorConfig, InceptionConfig, InceptionSpadeConfig, NormConfig
from components.catlib.errors import UserError
from components.catlib.networks.families import (
    Architecture,
    architecture_from_config,
    build_generator,
)
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.layers import BranchChannels, existing_branches
from components.catlib.networks.macs import parameters
from tests.components.catlib.networks.layers import KINDS
from tests.components.catlib.networks.sample_architectures import (
    ARCHITECTURES,
    inception,
    parse_architecture,
    pruned,
    spade,
)


@pytest.mark.parametrize(("architecture", "size"), ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_the_table_describes_the_network_layer_by_layer(architecture: Architecture, size: tuple[int, int]) -> None:
    """Every convolution and norm that the network holds runs, and is in the table with its true shape and size."""
    network = build_generator(architecture).eval()
    ran = []

    def record(name: str, module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        ran.append((name, module, tuple(inputs[0].shape), tuple(output.shape)))

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.InstanceNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm)
    held = {name: module for name, module in network.named_modules() if isinstance(module, kinds)}
    for name, module in held.items():
        module.register_forward_hook(lambda m, i, o, name=name: record(name, m, i, o))
    with torch.no_grad():
        network(torch.zeros(1, architecture.in_channels, *size))

    layers = {layer.name: layer for layer in architecture.layers(*size)}
    assert sorted(layers) == sorted(name for name, *_ in ran) == sorted(held)
    for name, module, read, made in ran:
        layer = layers[name]
        assert layer.in_channels == read[1], name
        if name in ("down_sampling.1", "up_sampling.7"):  # a layer of its own pads their input
            assert (layer.input_size[0] + 6, layer.input_size[1] + 6) == read[2:], name
        else:
            assert layer.input_size == read[2:], name
        assert (layer.out_channels, *layer.output_size) == made[1:], name
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert layer.kind == KINDS.get(type(module), ("conv", 1))[0], name
            assert module.kernel_size == (layer.kernel_size, layer.kernel_size), name
            assert module.groups == layer.groups, name
            assert (module.bias is not None) == layer.affine, name
        else:
            assert layer.kind == "norm", name
            assert module.affine == layer.affine, name
            assert module.track_running_stats == layer.tracks_running_stats, name
    assert parameters(architecture) == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("architecture", "size"), ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_prunable_norms_set_the_channels_of_their_space(architecture: Architecture, size: tuple[int, int]) -> None:
    layers = {layer.name: layer for layer in architecture.layers(*size)}
    norms = architecture.prunable_norms()
    assert [norm.name for norm in norms] == sorted({norm.name for norm in norms}, key=list(layers).index)
    for norm in norms:
        assert layers[norm.name].kind == "norm"
        assert layers[norm.name].out_space == norm.name
        assert layers[norm.name].out_channels == norm.channels
    unchanged = architecture.resized({norm.name: norm.channels for norm in norms})
    assert unchanged.layers(*size) == architecture.layers(*size)


def test_branches_are_numbered_as_they_exist() -> None:
    branches = list(existing_branches(BranchChannels(res=(2, 1), dw=(0, 3)), (1, 3), "features.0"))
    assert [(branch.path, branch.identity, branch.kernel_size, branch.hidden_channels) for branch in branches] == [
        ("features.0.res_ops.0", "features.0.res_1x1", 1, 2),
        ("features.0.res_ops.1", "features.0.res_3x3", 3, 1),
        ("features.0.dw_ops.0", "features.0.dw_3x3", 3, 3),
    ]


def test_a_vanished_branch_moves_names_but_not_identities() -> None:
    teacher = inception(num_blocks=1)
    student = pruned(teacher, features__0__res_ops__0=0)
    names = {layer.identity: layer.name for layer in student.layers(32, 32)}
    assert names["features.0.res_3x3.conv_in"] == "features.0.res_ops.0.1.0"
    assert "features.0.res_1x1.conv_in" not in names
    assert names.keys() < {layer.identity for layer in teacher.layers(32, 32)}


def test_a_student_is_resized_again_by_its_own_names() -> None:
    once = pruned(inception(num_blocks=1), features__0__res_ops__0=0)
    assert isinstance(once, InceptionArchitecture)
    twice = pruned(once, features__0__res_ops__0=0, down_sampling__8=5)
    assert isinstance(twice, InceptionArchitecture)
    assert once.blocks[0].res == (0, 4, 4)
    assert twice.blocks[0].res == (0, 0, 4)
    assert twice.down == (6, 12, 5)


def test_widths_of_the_paper() -> None:
    teacher = inception(base_channels=64, num_blocks=9)
    assert teacher.down == (64, 128, 256)
    assert teacher.up == (128, 64)
    assert teacher.blocks == (BranchChannels(res=(42, 42, 42), dw=(42, 42, 42)),) * 9


def test_spade_halves_from_fc() -> None:
    made = spade(base_channels=4, num_upsampling_layers="most", crop_size=(128, 256))
    assert made.block_widths == {
        "head_0": (64, 64), "G_middle_0": (64, 64), "G_middle_1": (64, 64),
        "up_0": (64, 32), "up_1": (32, 16), "up_2": (16, 8), "up_3": (8, 4), "up_4": (4, 2),
    }  # fmt: skip
    assert made.latent_size == (1, 2)
    assert made.image_size == (128, 256)
    assert made.blocks["up_1"].branches.res == (2, 2, 2)
    assert made.blocks["up_4"].branches.vanished
    with pytest.raises(AssertionError, match="multiple of 16"):
        pruned(made, fc_norm=24)


def test_a_spade_block_without_branches_is_its_shortcut() -> None:
    names = {layer.name for layer in pruned(spade(), up_0__res=0, up_0__dw=0).layers(64, 128)}
    assert {name for name in names if name.startswith("up_0.")} == {"up_0.shortcut.0", "up_0.shortcut.1.conv"}


@pytest.mark.parametrize(
    ("config", "crop_size", "message"),
    [
        ({"num_upsampling_layers": "more"}, (64, 96), "dataset.crop_size 64x96 .* multiples of 64"),
        ({"num_upsampling_layers": "most", "base_channels": 3}, (128, 128), "base_channels is 3, .* even"),
    ],
)
def test_spade_refuses_what_it_cannot_halve(config, crop_size, message) -> None:
    with pytest.raises(UserError, match=message):
        spade(crop_size=crop_size, **config)


def change(architecture: Architecture, **values) -> dict:
    return architecture.model_dump(mode="json") | values


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "Not a generator architecture"),
        ({"family": "resnet"}, "resnet"),
        (change(inception(), down=[3, 0, 5]), r"down\.1"),
        (change(inception(), surplus=1), "surplus"),
        (change(inception(), kernel_sizes=[1, 3]), "blocks.0: res and dw need one number per kernel size"),
        (change(inception(), blocks=[], kernel_sizes=[1, 4]), "kernel_sizes must be distinct odd numbers"),
        (change(inception(), blocks=[], kernel_sizes=[3, 3]), "kernel_sizes must be distinct odd numbers"),
        (change(spade(), blocks={}), "blocks must be head_0, G_middle_0"),
        (change(spade(), kernel_sizes=[1, 3]), "blocks.head_0.branches: res and dw"),
        (change(spade(), crop_width=32), "too small for 64x"),
        (change(spade(num_upsampling_layers="most", crop_size=(128, 128)), base_channels=3), "must be even"),
    ],
)
def test_wrong_architectures_are_named(value, message) -> None:
    with pytest.raises(UserError, match=message):
        parse_architecture(value)


norms = st.builds(
    NormConfig,
    kind=st.sampled_from(["instance", "batch", "syncbatch"]),
    affine=st.booleans(),
    track_running_stats=st.booleans(),
)
options = {
    "base_channels": st.integers(1, 40).map(lambda n: 2 * n),
    "kernel_sizes": st.lists(st.sampled_from([1, 3, 5, 7]), min_size=1, max_size=3, unique=True),
    "channels_reduction_factor": st.integers(1, 8),
    "norm": norms,
    "dropout": st.sampled_from([0.0, 0.1]),
    "activation": st.sampled_from(["relu", "leaky_relu"]),
}
configs = st.one_of(
    st.builds(
        InceptionConfig,
        num_blocks=st.integers(1, 4),
        padding=st.sampled_from(["reflect", "replicate", "zero"]),
        **options,
    ),
    st.builds(
        InceptionSpadeConfig,
        num_upsampling_layers=st.sampled_from(["normal", "more", "most"]),
        spade_norm=st.sampled_from(["batch", "syncbatch", "instance"]),
        spectral=st.booleans(),
        **options,
    ),
)


@settings(max_examples=50, deadline=None)
@given(configs, st.data())
def test_json_round_trip(config: GeneratorConfig, data: st.DataObject) -> None:
    architecture = architecture_from_config(config, in_channels=4, out_channels=3, crop_size=(128, 256))
    widths = {
        norm.name: norm.channels
        if norm.group == "fc"
        else data.draw(st.integers(0 if "branch" in norm.group else 1, 9))
        for norm in architecture.prunable_norms()
    }
    for made in (architecture, architecture.resized(widths)):
        read = parse_architecture(json.loads(json.dumps(made.model_dump(mode="json"))))
        assert read == made
        assert read.layers(128, 256) == made.layers(128, 256)


@pytest.mark.parametrize(("architecture", "size"), ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_an_architecture_answers_for_its_network(architecture: Architecture, size: tuple[int, int]) -> None:
    network = build_generator(architecture).eval()
    example = architecture.example_input(2, size)
    assert (example.shape, example.dtype) == ((2, architecture.in_channels, *size), np.float32)
    with torch.no_grad():
        image, features = network(torch.from_numpy(example), return_features=True)
    assert image.shape == (2, architecture.out_channels, *size)
    assert {name: feature.shape[1] for name, feature in features.items()} == architecture.feature_widths
    assert list(architecture.feature_widths) == list(network.distillation_layers) == list(features)
    assert architecture.fixed_size in (None, size)
    architecture.check_size(*size, where="The test")
    assert not size[0] % architecture.size_step
    with pytest.raises(UserError, match=f"The test has images of {size[0] + 1}x{size[1]} pixels"):
        architecture.check_size(size[0] + 1, size[1], where="The test")


def test_example_images_are_noise_and_example_labels_one_hot() -> None:
    images = inception().example_input(2, (16, 24))
    assert np.array_equal(images, inception().example_input(2, (16, 24)))
    assert not np.array_equal(images, inception().example_input(2, (16, 24), seed=1))
    assert images.min() < -0.9 < 0.9 < images.max() <= 1
    labels = spade().example_input(3, (64, 128))
    assert set(np.unique(labels)) == {0.0, 1.0}
    assert np.array_equal(labels.sum(axis=1), np.ones((3, 64, 128)))
    assert (labels.mean(axis=(0, 2, 3)) > 0.1).all()


@pytest.mark.parametrize(
    ("settings", "smallest"),
    [
        ({}, 12),
        ({"kernel_sizes": (1, 7)}, 16),
        ({"padding": "zero"}, 4),
        ({"padding": "replicate"}, 4),
        ({"kernel_sizes": (1,)}, 4),
    ],
)
def test_the_smallest_image_is_the_smallest_that_can_be_translated(settings: dict[str, Any], smallest: int) -> None:
    architecture = inception(norm=NormConfig(kind="batch", track_running_stats=True), **settings)
    assert architecture.smallest_size == smallest
    network = build_generator(architecture).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 3, smallest, smallest)).isfinite().all()
        with pytest.raises(UserError, match=f"multiples of 4, at least {smallest}"):
            network(torch.zeros(1, 3, smallest - 4, smallest))


def test_pruning_needs_no_torch() -> None:
    modules = "components.catlib.networks.families, components.catlib.pruning.slicing, components.prune.stage"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
