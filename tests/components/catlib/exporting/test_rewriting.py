"""Every rewrite computes the same images to 1e-5, on generators of several shapes, and is really used."""

from typing import get_args

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional

from components.catlib.config import NormConfig
from components.catlib.config.student import Rewrite
from components.catlib.exporting.onnx_file import family_rewrites, generator_model
from components.catlib.exporting.parity import OnnxGenerator, compare, parity_batches
from components.catlib.exporting.rewriting import flipped, input_parts, output_phases
from components.catlib.networks.families import build_generator
from components.catlib.networks.generator import Generator
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.layers import BranchChannels
from tests.components.catlib.exporting.small_generators import NORMS, example, spade, trained_looking

REWRITES: tuple[Rewrite, ...] = get_args(Rewrite)
WHOLE = BranchChannels(res=(3, 5, 2), dw=(4, 9, 3))
PRUNED = BranchChannels(res=(0, 9, 17), dw=(0, 0, 6))
POINTWISE = BranchChannels(res=(5, 0, 0), dw=(2, 0, 0))
RESIDUAL = BranchChannels(res=(2, 0, 3), dw=(0, 0, 0))
NONE = BranchChannels(res=(0, 0, 0), dw=(0, 0, 0))


def generator(
    *blocks: BranchChannels,
    norm: NormConfig = NORMS["instance"],
    padding: str = "reflect",
    activation: str = "relu",
    channels: tuple[int, int, int, int, int, int] = (4, 6, 18, 6, 13, 3),
    kernel_sizes: tuple[int, ...] = (1, 3, 5),
) -> Generator:
    first, second, features, third, last, out_channels = channels
    architecture = InceptionArchitecture.model_validate(
        {
            "in_channels": 2,
            "out_channels": out_channels,
            "down": (first, second, features),
            "blocks": blocks,
            "up": (third, last),
            "kernel_sizes": kernel_sizes,
            "norm": norm,
            "padding": padding,
            "dropout": 0.2,
            "activation": activation,
        }
    )
    torch.manual_seed(0)
    return trained_looking(build_generator(architecture))


BATCH = NORMS["batch"]
GENERATORS = {
    **{name: lambda norm=norm: generator(WHOLE, NONE, PRUNED, norm=norm) for name, norm in NORMS.items()},
    "instance without affine": lambda: generator(WHOLE, norm=NormConfig(kind="instance", affine=False)),
    "zero padding": lambda: generator(WHOLE, PRUNED, padding="zero", norm=BATCH),
    "replicated padding": lambda: generator(WHOLE, padding="replicate"),
    "leaky relu": lambda: generator(WHOLE, POINTWISE, activation="leaky_relu", norm=BATCH),
    "1x1 branches": lambda: generator(POINTWISE, norm=BATCH),
    "residual branches": lambda: generator(RESIDUAL, RESIDUAL, norm=BATCH),
    "no blocks": lambda: generator(),
    "multiples of 4": lambda: generator(PRUNED, channels=(8, 16, 16, 8, 16, 3), norm=BATCH),
    "many outputs": lambda: generator(PRUNED, channels=(4, 9, 10, 9, 5, 8)),
    "one output": lambda: generator(WHOLE, channels=(5, 4, 9, 9, 9, 1)),
    "other kernels": lambda: generator(
        BranchChannels(res=(3, 2), dw=(4, 9)), kernel_sizes=(7, 3), channels=(4, 6, 9, 6, 9, 3)
    ),
}


def largest_difference(network: Generator, *rewrites: Rewrite) -> float:
    model = generator_model(network, input_size=(32, 40), opset=18, rewrites=rewrites)
    onnx.checker.check_model(model, full_check=True)
    batches = parity_batches(example(network, 2, (32, 40)), size_step=4)
    return compare(network, OnnxGenerator(model.SerializeToString()), batches).largest


@pytest.mark.parametrize("name", GENERATORS)
def test_all_rewrites_together_and_each_alone_compute_the_same_images(name: str) -> None:
    network = GENERATORS[name]()
    together = largest_difference(network, *REWRITES)
    alone = {rewrite: largest_difference(network, rewrite) for rewrite in REWRITES}
    assert max(largest_difference(network), together, *alone.values()) < 1e-5, (together, alone)


def operators(network: Generator, *rewrites: Rewrite) -> dict[str, int]:
    nodes = generator_model(network, input_size=(32, 40), opset=18, rewrites=rewrites).graph.node
    return {name: sum(node.op_type == name for node in nodes) for name in {node.op_type for node in nodes}}


@pytest.mark.parametrize(
    ("rewrites", "changed"),
    [
        (("transposed_branches",), {"Conv": -2, "ConvTranspose": 2}),
        (("transposed_branches", "shared_padding"), {"Conv": -2, "ConvTranspose": 2, "Pad": -1}),
        (("output_phases",), {"Conv": 1, "Split": 1, "Add": 1, "DepthToSpace": 1}),
        (("merged_depthwise",), {"Conv": -6, "InstanceNormalization": -4, "Relu": -4, "Pad": -1, "Add": -2}),
    ],
)
def test_a_rewrite_changes_the_operators(rewrites: tuple[Rewrite, ...], changed: dict[str, int]) -> None:
    network = generator(WHOLE)
    plain, rewritten = operators(network), operators(network, *rewrites)
    differences = {name: rewritten.get(name, 0) - plain.get(name, 0) for name in plain | rewritten}
    assert {name: change for name, change in differences.items() if change} == changed


def test_a_pointwise_branch_joins_the_depthwise_ones_where_no_norm_stands_between() -> None:
    folded = generator(WHOLE, norm=BATCH)
    assert operators(folded, "merged_depthwise")["Conv"] == operators(folded)["Conv"] - 8
    leaky = generator(WHOLE, norm=BATCH, activation="leaky_relu")
    assert operators(leaky, "merged_depthwise")["Conv"] == operators(leaky)["Conv"] - 6


def test_zero_channels_make_convolutions_read_multiples_of_4() -> None:
    def inputs(*rewrites: Rewrite) -> dict[str, int]:
        network = generator(WHOLE, channels=(9, 17, 18, 6, 9, 3))
        model = generator_model(network, input_size=(32, 40), opset=18, rewrites=rewrites)
        shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
        convolutions = [node for node in model.graph.node if node.op_type == "Conv" and "down" in node.name]
        return {node.name: shapes[node.input[1]][1] for node in convolutions}

    assert inputs() == {"down_sampling.1": 2, "down_sampling.4": 9, "down_sampling.7": 17}
    assert inputs("padded_channels") == {"down_sampling.1": 2, "down_sampling.4": 12, "down_sampling.7": 20}


def test_a_flipped_transposed_convolution_equals_the_convolution() -> None:
    random = np.random.default_rng(0)
    weight, x = (torch.from_numpy(random.normal(size=size)) for size in ((3, 4, 5, 5), (2, 4, 9, 11)))
    found = functional.conv_transpose2d(x, torch.from_numpy(flipped(weight.numpy())), padding=4)
    torch.testing.assert_close(found, functional.conv2d(x, weight))


def test_shuffled_phases_equal_the_convolution() -> None:
    random = np.random.default_rng(0)
    weight, x = (torch.from_numpy(random.normal(size=size)) for size in ((3, 2, 7, 7), (2, 2, 14, 18)))
    phases = functional.conv2d(x, torch.from_numpy(output_phases(weight.numpy())), stride=4)
    torch.testing.assert_close(functional.pixel_shuffle(phases, 4), functional.conv2d(x, weight))


@pytest.mark.parametrize(("channels", "parts"), [(3, [3]), (8, [8]), (15, [7, 8]), (16, [16]), (18, [2, 16])])
def test_inputs_are_read_in_parts(channels: int, parts: list[int]) -> None:
    assert input_parts(channels) == parts


def test_label_maps_have_no_rewrites() -> None:
    assert family_rewrites(spade()) == ()
    assert family_rewrites(generator()) == REWRITES
