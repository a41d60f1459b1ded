"""Reads the reference's option names in parity files as architectures of ours."""

from typing import Any

from components.catlib.config import InceptionConfig, InceptionSpadeConfig, NormConfig
from components.catlib.networks.families import architecture_from_config
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.layers import BranchChannels
from components.catlib.networks.spade.architecture import InceptionSpadeArchitecture, SpadeBlock


def inception_teacher(
    config: dict[str, Any], norm: dict[str, Any], num_blocks: int, size: tuple[int, int]
) -> InceptionArchitecture:
    """Reads an unpruned generator; `norm` has the keys norm, norm_affine and norm_track_running_stats."""
    assert config.get("channels") is None
    architecture = architecture_from_config(
        InceptionConfig(
            base_channels=config["ngf"],
            num_blocks=num_blocks,
            kernel_sizes=config["kernel_sizes"],
            channels_reduction_factor=config["channels_reduction_factor"],
            norm=NormConfig(
                kind=norm["norm"], affine=norm["norm_affine"], track_running_stats=norm["norm_track_running_stats"]
            ),
        ),
        in_channels=config["input_nc"],
        out_channels=config["output_nc"],
        crop_size=size,
    )
    assert isinstance(architecture, InceptionArchitecture)
    return architecture


def spade_teacher(config: dict[str, Any], size: tuple[int, int]) -> InceptionSpadeArchitecture:
    """Reads an unpruned SPADE generator whose norms are all sync-batch norms with running statistics."""
    assert config.get("channels") is None
    architecture = architecture_from_config(
        InceptionSpadeConfig(
            base_channels=config["ngf"],
            kernel_sizes=config["kernel_sizes"],
            channels_reduction_factor=config["channels_reduction_factor"],
            num_upsampling_layers=config["num_upsampling_layers"],
            norm=NormConfig(kind="syncbatch", track_running_stats=True),
        ),
        in_channels=config["semantic_nc"],
        out_channels=3,
        crop_size=size,
    )
    assert isinstance(architecture, InceptionSpadeArchitecture)
    return architecture


def with_hidden_channels(
    architecture: InceptionSpadeArchitecture, channels: list[int] | None, factor: int
) -> InceptionSpadeArchitecture:
    """Gives every block and its SPADE norm hidden channels of their own per kernel size, divided by the factor."""
    if channels is None:
        return architecture
    widths = tuple(width // factor for width in channels)
    branches = BranchChannels(res=widths, dw=widths)
    blocks = dict.fromkeys(architecture.blocks, SpadeBlock(branches=branches, spade=branches))
    return architecture.model_copy(update={"blocks": blocks})


def inception_student(teacher: InceptionArchitecture, arch: dict[str, Any]) -> InceptionArchitecture:
    """Reads the channel counts of a pruned generator."""
    blocks = tuple(BranchChannels(res=block["res_channels"], dw=block["dw_channels"]) for block in arch["features"])
    return teacher.model_copy(update={"down": tuple(arch["down"]), "blocks": blocks, "up": tuple(arch["up"])})


def spade_student(teacher: InceptionSpadeArchitecture, arch: dict[str, Any]) -> InceptionSpadeArchitecture:
    """Reads the channel counts of a pruned SPADE generator."""
    blocks = {
        name: SpadeBlock(
            branches=BranchChannels(res=block["res_channels"], dw=block["dw_channels"]),
            spade=BranchChannels(res=block["spade_res_channels"], dw=block["spade_dw_channels"]),
        )
        for name, block in arch["blocks"].items()
    }
    return teacher.model_copy(update={"base_channels": arch["ngf_student"], "blocks": blocks})


def size_of(data: str) -> tuple[int, int]:
    """Reads "1x3x256x512" as height and width."""
    height, width = data.split("x")[-2:]
    return int(height), int(width)
