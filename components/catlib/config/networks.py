"""Settings of networks: generators, discriminators, their norms, and weights from outside."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.catlib.config.sections import Count, Positive, Section, refuse_idle


class NormConfig(Section):
    """Normalisation layers of a network."""

    kind: Literal["instance", "batch", "syncbatch"] = Field(default="instance", description="statistics over what")
    affine: bool = Field(default=True, description="learn a scale and a bias per channel; pruning needs the scales")
    track_running_stats: bool = Field(default=False, description="normalise with running statistics at evaluation")
    momentum: float = Field(default=0.1, gt=0, le=1, description="weight of the newest batch in running statistics")
    epsilon: float = Field(default=1e-5, gt=0, description="added to the variance")


class GeneratorConfig(Section):
    """A generator before pruning (paper section 3.1; method sections 1.1 and 1.2)."""

    family: Literal["inception", "inception_spade"] = Field(default="inception", description="network family")
    base_channels: Count = Field(
        default=64, description="ngf: channels of the first layer; the bottleneck has 4x (SPADE: 16x)"
    )
    num_blocks: Count = Field(default=9, description="inception residual blocks (inception family only)")
    kernel_sizes: tuple[Count, ...] = Field(default=(1, 3, 5), description="odd kernel sizes K of the branches")
    channels_reduction_factor: Count = Field(
        default=6, description="hidden channels of a branch = block channels // factor"
    )
    hidden_channels: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None,
        description="hidden channels per kernel size before division by the factor, of blocks and SPADE norms; "
        "default: the block's channels, in SPADE norms spade_hidden_channels",
    )
    norm: NormConfig = Field(default=NormConfig(), description="normalisation (for SPADE: the norms inside branches)")
    padding: Literal["reflect", "replicate", "zero"] = Field(default="reflect", description="padding inside the blocks")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout rate inside branches")
    activation: Literal["relu", "leaky_relu"] = Field(default="relu", description="leaky_relu has slope 0.01")
    num_upsampling_layers: Literal["normal", "more", "most"] = Field(
        default="more", description="SPADE only: x32, x64 or x128"
    )
    spade_norm: Literal["batch", "syncbatch", "instance"] = Field(
        default="syncbatch", description="SPADE only: the parameter-free norm that is modulated"
    )
    spade_hidden_channels: Count = Field(
        default=128, description="SPADE only: hidden channels before division by the factor"
    )
    spectral: bool = Field(default=False, description="SPADE only: spectral norm on convolutions")
    init: Literal["normal", "xavier"] = Field(default="normal", description="weight initialisation")
    init_gain: Positive = Field(default=0.02, description="standard deviation (normal) or gain (xavier)")

    @model_validator(mode="after")
    def _check(self) -> GeneratorConfig:
        distinct = len(set(self.kernel_sizes)) == len(self.kernel_sizes)
        if not self.kernel_sizes or not distinct or any(k % 2 == 0 for k in self.kernel_sizes):
            raise ValueError("kernel_sizes must be odd and distinct numbers, at least one")
        if self.hidden_channels is not None and len(self.hidden_channels) != len(self.kernel_sizes):
            raise ValueError("hidden_channels must have one number per kernel size")
        if self.family == "inception":
            spade = ("num_upsampling_layers", "spade_norm", "spade_hidden_channels", "spectral")
            refuse_idle(self, spade, reason="in an inception generator, only in inception_spade")
        else:
            refuse_idle(self, ("num_blocks", "padding"), reason="in an inception_spade generator, only in inception")
        return self


class DiscriminatorConfig(Section):
    """A discriminator (method section 2)."""

    family: Literal["patch", "pixel", "multiscale"] = Field(
        default="patch", description="PatchGAN, PixelGAN or multi-scale"
    )
    base_channels: Count = Field(default=64, description="ndf: channels of the first layer")
    num_layers: Count = Field(default=3, description="strided layers of a PatchGAN; 3 sees 70x70 pixels")
    num_scales: Count = Field(default=2, description="multi-scale only: how many PatchGANs")
    norm: NormConfig = Field(
        default=NormConfig(), description="norm of the middle layers (multi-scale: always spectral + instance)"
    )
    init: Literal["normal", "xavier"] = Field(default="normal", description="weight initialisation")
    init_gain: Positive = Field(default=0.02, description="standard deviation (normal) or gain (xavier)")


class WeightsConfig(Section):
    """Weights from outside: a file or URI, and the digest that makes them trustworthy."""

    uri: str = Field(description="path, s3:// or https:// address of the file")
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$", description="expected digest of the file")


class PublishedConfig(Section):
    """Networks published by the reference implementation (`.pth` state dicts) to start from."""

    generator: WeightsConfig | None = Field(default=None, description="generator source -> target")
    discriminator: WeightsConfig | None = Field(default=None, description="judges target images")
    generator_backward: WeightsConfig | None = Field(default=None, description="CycleGAN: generator target -> source")
    discriminator_backward: WeightsConfig | None = Field(default=None, description="CycleGAN: judges source images")
