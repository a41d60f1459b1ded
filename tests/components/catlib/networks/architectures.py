"""Small architectures for the tests of networks."""

from typing import Any

from components.catlib.config import GeneratorConfig, NormConfig, validate
from components.catlib.networks.families import architecture_from_config
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.layers import BranchChannels
from components.catlib.networks.spade.architecture import InceptionSpadeArchitecture, SpadeBlock


def inception(in_channels: int = 3, out_channels: int = 3, **changes: Any) -> InceptionArchitecture:
    """An unpruned inception generator of 4 base channels and three blocks."""
    settings = {"base_channels": 4, "num_blocks": 3, **changes}
    architecture = architecture_from_config(
        validate(GeneratorConfig, settings, where="generator"),
        in_channels=in_channels,
        out_channels=out_channels,
        crop_size=(32, 32),
    )
    assert isinstance(architecture, InceptionArchitecture)
    return architecture


def pruned_inception(**changes: Any) -> InceptionArchitecture:
    """A student: uneven widths, missing branches, and a second block without any."""
    blocks = (
        BranchChannels(res=(2, 0, 1), dw=(0, 3, 0)),
        BranchChannels(res=(0, 0, 0), dw=(0, 0, 0)),
        BranchChannels(res=(0, 0, 0), dw=(1, 0, 2)),
    )
    return inception().model_copy(update={"down": (3, 5, 7), "blocks": blocks, "up": (6, 2), **changes})


def spade(crop_size: tuple[int, int] = (64, 128), **changes: Any) -> InceptionSpadeArchitecture:
    """An unpruned SPADE generator of 2 base channels and 5 semantic planes."""
    settings: dict[str, Any] = {
        "family": "inception_spade",
        "base_channels": 2,
        "channels_reduction_factor": 2,
        "spade_hidden_channels": 6,
        "norm": NormConfig(kind="syncbatch", track_running_stats=True),
        **changes,
    }
    architecture = architecture_from_config(
        validate(GeneratorConfig, settings, where="generator"), in_channels=5, out_channels=3, crop_size=crop_size
    )
    assert isinstance(architecture, InceptionSpadeArchitecture)
    return architecture


def pruned_spade(**changes: Any) -> InceptionSpadeArchitecture:
    """A student: missing branches, a block without any, and a SPADE norm without any."""
    whole = spade(**changes)
    none = BranchChannels(res=(0, 0, 0), dw=(0, 0, 0))
    some = BranchChannels(res=(0, 2, 1), dw=(3, 0, 0))
    blocks = whole.blocks | {
        "G_middle_0": SpadeBlock(branches=none, spade=some),
        "up_0": SpadeBlock(branches=some, spade=none),
        "up_1": SpadeBlock(branches=none, spade=none),
        "up_2": SpadeBlock(branches=some, spade=some),
    }
    return whole.model_copy(update={"blocks": blocks})
