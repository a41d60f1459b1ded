"""What a training works on and how far it came: the objective, its evaluations, the result so far."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer

from components.catlib.data.batches import Batch
from components.catlib.metrics.catalogue import shortfall
from components.catlib.networks.directions import Direction
from components.catlib.training.log import Record


class Objective(Protocol):
    """What is trained: networks, their optimisers, and one optimisation step."""

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """Every network whose weights change, by name."""
        ...

    @property
    def generators(self) -> Mapping[str, nn.Module]:
        """The generators by direction; the scores of the first are the headline."""
        ...

    @property
    def discriminators(self) -> Mapping[str, nn.Module]:
        """The discriminators by the domain that they judge."""
        ...

    @property
    def optimizers(self) -> Mapping[str, Optimizer]:
        """The optimisers "generator" and "discriminator"."""
        ...

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Takes one optimisation step, with networks in train mode; returns every loss as a detached scalar."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """An objective with a state beyond its networks and optimisers."""

    def extra_state(self) -> dict[str, Any]:
        """Returns what a checkpoint needs of it, in plain containers."""
        ...

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restores what `extra_state` returned."""
        ...


def opponents(objective: Objective, direction: str) -> dict[str, nn.Module]:
    """Returns the generator of a direction and the discriminator that judges its images."""
    judged = Direction(direction).output
    return {"generator": objective.generators[direction], "discriminator": objective.discriminators[judged]}


@dataclass(frozen=True)
class Evaluation:
    """The scores of the generators on held-out images.

    Attributes:
        scores: Direction -> metric -> value, the headline direction first.
        chosen_by: The metric that chooses the best weights.
        picture: Sample translations, a WebP file.
    """

    scores: dict[str, dict[str, float]]
    chosen_by: str
    picture: bytes

    def shortfalls(self) -> dict[str, float]:
        """Returns direction -> distance to the best possible value of the metric that chooses the weights."""
        return {
            direction: shortfall(self.chosen_by, scores[self.chosen_by]) for direction, scores in self.scores.items()
        }

    def flat(self) -> dict[str, float]:
        """Returns metric -> value; metrics of all directions but the first have the direction's name in front."""
        first, *others = self.scores
        return self.scores[first] | {
            f"{direction}/{metric}": value for direction in others for metric, value in self.scores[direction].items()
        }


class Kept(TypedDict):
    """The result so far in one direction: its weights, their scores and their step."""

    step: int
    scores: dict[str, float]
    networks: dict[str, dict[str, Tensor]]


@dataclass
class Progress:
    """How far a training came; with networks, optimisers and random numbers this is its whole state.

    Attributes:
        step: Optimisation steps done.
        seconds: Seconds that they took, those before a resumption included.
        scores: For every evaluation, the distance to the best possible value of the metric that chooses the weights, as
            the mean over directions.
        kept: Direction -> the result so far.
        pictures: Step -> sample translations, a WebP file.
        records: The log.
        ended: Why training is over: "epochs", "patience" or "time limit"; empty while it goes on.
        history: The ends of the earlier trainings that this one goes on from, oldest first: `epochs`, `decay_epochs`,
            `steps`, and why each was over.
    """

    step: int = 0
    seconds: float = 0.0
    scores: list[float] = field(default_factory=list)
    kept: dict[str, Kept] = field(default_factory=dict)
    pictures: dict[int, bytes] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    ended: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)

    def note(self, evaluation: Evaluation, objective: Objective, *, keep: Literal["best", "last"]) -> None:
        """Records an evaluation of the objective's present weights, and these weights if they are the new result.

        Args:
            evaluation: Scores and a picture.
            objective: The objective whose generators it scored.
            keep: Whether the result is the best weights or the last ones.
        """
        self.pictures[self.step] = evaluation.picture
        metric, shortfalls = evaluation.chosen_by, evaluation.shortfalls()
        self.scores.append(statistics.fmean(shortfalls.values()))
        for direction, scores in evaluation.scores.items():
            so_far = self.kept.get(direction)
            best = math.inf if so_far is None else shortfall(metric, so_far["scores"][metric])
            if keep == "last" or so_far is None or shortfalls[direction] < best:
                self.kept[direction] = Kept(
                    step=self.step,
                    scores=scores,
                    networks={
                        name: {key: value.to("cpu", copy=True) for key, value in network.state_dict().items()}
                        for name, network in opponents(objective, direction).items()
                    },
                )
