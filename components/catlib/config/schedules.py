"""Settings of learning-rate schedules; a bare word such as `schedule: cosine` names the kind."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from components.catlib.config.sections import Count, Section, default_kind


class LinearConfig(Section):
    """The rate stays for `epochs`, then falls to zero in equal steps over `decay_epochs` (method section 4)."""

    kind: Literal["linear"] = Field(default="linear", description="learning-rate schedule")


class CosineConfig(Section):
    """The rate falls along half a cosine wave over all epochs."""

    kind: Literal["cosine"] = Field(default="cosine", description="learning-rate schedule")


class OneCycleConfig(Section):
    """The rate rises over the first steps and then falls along half a cosine wave, both by the step."""

    kind: Literal["one_cycle"] = Field(default="one_cycle", description="learning-rate schedule")
    warm_up: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.2, description="share of the training over which the learning rate rises to its highest value"
    )


class StepConfig(Section):
    """The rate drops to a tenth from time to time."""

    kind: Literal["step"] = Field(default="step", description="learning-rate schedule")
    epochs: Count = Field(default=50, description="epochs between two drops of the learning rate to a tenth")


class PlateauConfig(Section):
    """The rate drops to a fifth when scores stop improving."""

    kind: Literal["plateau"] = Field(default="plateau", description="learning-rate schedule")
    patience: Annotated[int, Field(ge=0)] = Field(
        default=5,
        description="number of evaluations in a row that may pass without improvement before the learning rate falls",
    )


def _named(settings: Any) -> Any:
    """Reads a bare word as a kind; a schedule has no weight that a bare number could be."""
    return {"kind": settings} if isinstance(settings, str) else settings


ScheduleConfig = Annotated[
    LinearConfig | CosineConfig | OneCycleConfig | StepConfig | PlateauConfig,
    Field(discriminator="kind"),
    default_kind("kind", "linear"),
    BeforeValidator(_named),
]
"""A schedule of any kind; linear where none is named."""
