"""Small generators that look trained, for tests of export."""

import torch
from torch import nn

from components.catlib.config import InceptionSpadeConfig, NormConfig
from components.catlib.config.networks import Upsample
from components.catlib.networks.families import architecture_from_config, build_generator
from components.catlib.networks.generator import Generator
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.layers import BranchChannels
from components.catlib.networks.spade.architecture import InceptionSpadeArchitecture, SpadeBlock

SIZE = (16, 24)
VANISHED = SpadeBlock(branches=BranchChannels(res=(0,), dw=(0,)), spade=BranchChannels(res=(0,), dw=(0,)))
RUNNING = NormConfig(kind="batch", track_running_stats=True)


def trained_looking(generator: Generator) -> Generator:
    """Gives norms scales, biases and running statistics that differ between channels."""
    for module in generator.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if name == "running_var" or (name == "weight" and tensor.ndim == 1):
                nn.init.uniform_(tensor, 0.5, 1.5)
            elif name in ("running_mean", "bias"):
                nn.init.normal_(tensor, std=0.1)
    return generator.eval()


def inception(norm: NormConfig, *, padding: str = "reflect", upsample: Upsample = "transposed") -> Generator:
    """One block with three of the six branches, another without any."""
    architecture = InceptionArchitecture(
        in_channels=3,
        out_channels=3,
        down=(4, 6, 8),
        blocks=(BranchChannels(res=(0, 3, 0), dw=(2, 0, 3)), BranchChannels(res=(0, 0, 0), dw=(0, 0, 0))),
        up=(6, 5),
        kernel_sizes=(1, 3, 5),
        norm=norm,
        padding=padding,  # pyright: ignore[reportArgumentType]
        dropout=0.0,
        activation="relu",
        upsample=upsample,
    )
    return trained_looking(build_generator(architecture))


def spade() -> Generator:
    """Two blocks with branches, the others without."""
    config = InceptionSpadeConfig(
        base_channels=1,
        channels_reduction_factor=4,
        kernel_sizes=(3,),
        spade_hidden_channels=8,
        num_upsampling_layers="normal",
        norm=RUNNING,
        spectral=True,
    )
    architecture = architecture_from_config(config, in_channels=4, out_channels=3, crop_size=(32, 64))
    assert isinstance(architecture, InceptionSpadeArchitecture)
    blocks = {name: block if name in ("head_0", "up_0") else VANISHED for name, block in architecture.blocks.items()}
    generator = build_generator(architecture.model_copy(update={"blocks": blocks}))
    with torch.no_grad():
        for _ in range(20):  # until spectral norms know how large their weights are, else all pixels are black or white
            generator(example(generator, 2, (32, 64)))
    return trained_looking(generator)


NORMS = {
    "instance": NormConfig(kind="instance"),
    "instance with running statistics": NormConfig(kind="instance", track_running_stats=True),
    "batch": RUNNING,
    "batch without affine": NormConfig(kind="batch", track_running_stats=True, affine=False),
    "sync batch": NormConfig(kind="syncbatch", track_running_stats=True),
    "batch statistics": NormConfig(kind="syncbatch", track_running_stats=False),
}


def example(generator: Generator, count: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    """Makes inputs up, [count, C, height, width]."""
    return torch.from_numpy(generator.architecture.example_input(count, size))
