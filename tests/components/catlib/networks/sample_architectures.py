"""Small generators of every kind, for tests of what reads architectures."""

from typing import Any

from components.catlib.config import GeneratorConfig, NormConfig, validate
from components.catlib.networks.families import AnyArchitecture, Architecture, architecture_from_config
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.layers import BranchChannels
from components.catlib.networks.spade.architecture import InceptionSpadeArchitecture


def inception(**config: Any) -> InceptionArchitecture:
    """Makes a small unpruned generator."""
    settings: dict[str, Any] = {"base_channels": 6, "num_blocks": 3} | config
    made = architecture_from_config(
        validate(GeneratorConfig, settings, where="generator"), in_channels=3, out_channels=3, crop_size=(32, 32)
    )
    assert isinstance(made, InceptionArchitecture)
    return made


def spade(*, crop_size: tuple[int, int] = (64, 128), **config: Any) -> InceptionSpadeArchitecture:
    """Makes a small unpruned SPADE generator."""
    settings: dict[str, Any] = {
        "family": "inception_spade",
        "base_channels": 2,
        "spade_hidden_channels": 12,
        "norm": NormConfig(kind="batch", track_running_stats=True),
    } | config
    made = architecture_from_config(
        validate(GeneratorConfig, settings, where="generator"), in_channels=5, out_channels=3, crop_size=crop_size
    )
    assert isinstance(made, InceptionSpadeArchitecture)
    return made


def pruned(architecture: Architecture, **widths: int) -> Architecture:
    """Sets the width of every prunable norm whose name starts with a key (dots are written as __)."""
    chosen = {norm.name: norm.channels for norm in architecture.prunable_norms()}
    for prefix, width in widths.items():
        chosen |= {name: width for name in chosen if name.startswith(prefix.replace("__", "."))}
    return architecture.resized(chosen)


ARCHITECTURES = {
    "instance norm": (inception(), (32, 32)),
    "odd size": (inception(num_blocks=1), (20, 36)),
    "batch norm": (inception(norm=NormConfig(kind="batch", track_running_stats=True)), (16, 16)),
    "no scales, instance norm with running statistics": (
        inception(norm=NormConfig(kind="instance", affine=False, track_running_stats=True)),
        (16, 16),
    ),
    "two kernel sizes, given widths": (
        inception(kernel_sizes=(3, 5)).model_copy(update={"blocks": (BranchChannels(res=(2, 1), dw=(2, 0)),) * 3}),
        (32, 32),
    ),
    "branch and block vanished": (
        pruned(inception(), features__0__res_ops__0=0, features__0__dw_ops__2=0, features__1=0, up_sampling__1=3),
        (32, 32),
    ),
    "resize": (inception(num_blocks=1, upsample="resize"), (20, 32)),
    "subpixel": (
        inception(num_blocks=1, upsample="subpixel", norm=NormConfig(kind="batch", track_running_stats=True)),
        (32, 16),
    ),
    "spade more": (spade(), (64, 128)),
    "spade normal": (spade(num_upsampling_layers="normal"), (64, 128)),
    "spade most, last blocks without branches": (spade(num_upsampling_layers="most", crop_size=(128, 256)), (128, 256)),
    "spade spectral instance": (spade(spectral=True, spade_norm="instance", norm=NormConfig()), (64, 128)),
    "spade block and modulation vanished": (
        pruned(spade(), G_middle_1__res=0, G_middle_1__dw=0, up_0__spade=0),
        (64, 128),
    ),
    "spade pruned": (pruned(spade(), fc_norm=16, head_0__res_ops__1=1), (64, 128)),
}


def parse_architecture(value: Any) -> Architecture:
    """Reads an architecture from JSON values, as readers of `architecture.json` do."""
    return validate(AnyArchitecture, value, where="Not a generator architecture")
