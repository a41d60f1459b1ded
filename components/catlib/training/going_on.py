"""Where a training begins: at its own newest checkpoint, where an earlier, shorter training ended, or at step 0.

A longer training goes on from a shorter one only if its settings say so (`goes_on_from`). Its weights are others than
those of a training that had this length from the start, because its learning rate followed the shorter schedule first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from components.catlib.config import TrainingConfig
from components.catlib.errors import UserError
from components.catlib.training.checkpoints import Checkpoints, open_checkpoints
from components.catlib.training.origin import Length, Origin
from components.catlib.training.progress import Progress
from components.catlib.training.upkeep import CHECKPOINTS_VARIABLE

logger = logging.getLogger(__name__)

State = dict[str, Any]
"""What a checkpoint holds."""


@dataclass(frozen=True)
class Place:
    """Where a training keeps its checkpoints.

    Attributes:
        address: Folder or `s3://bucket/prefix`.
        beside: Address below which trainings of other lengths have their places; "" if they share this one, which
            somebody has chosen.
    """

    address: str
    beside: str = ""


def place_of(origin: Origin, *, chosen: str | None, root: str | None) -> Place | None:
    """Returns where a training keeps its checkpoints; None if it keeps none.

    Args:
        origin: What determines its weights.
        chosen: The place that somebody has chosen.
        root: Otherwise the place for the checkpoints of all trainings.

    Raises:
        UserError: It goes on from an earlier training, but has no place with checkpoints.
    """
    if chosen is not None:
        return Place(chosen)
    if root is not None:
        beside = origin.place(root)
        return Place(f"{beside}/{origin.length.name}", beside)
    if origin.length.goes_on_from:
        raise UserError(
            f"{origin.stage}.goes_on_from needs the checkpoints of the earlier training; name their place with "
            f"--checkpoint or {CHECKPOINTS_VARIABLE}, on a cluster with resources.checkpoints."
        )
    return None


@dataclass(frozen=True)
class _Ended:
    """An earlier training that has ended: its place, its length, and its last state."""

    address: str
    length: Length
    state: State


class Beginning:
    """Finds the state that a training begins with.

    Attributes:
        checkpoints: The training's own checkpoints.
    """

    def __init__(self, origin: Origin, place: Place, open_: Callable[[str, Length], Checkpoints]) -> None:
        """Opens the training's checkpoints.

        Args:
            origin: What determines its weights.
            place: Where it keeps its checkpoints.
            open_: Opens the checkpoints at an address, of a training that may differ in length.
        """
        self.checkpoints = open_(place.address, origin.length)
        self._origin, self._stage, self._length = origin, origin.stage, origin.length
        self._place = place
        self._open = open_

    def state(self) -> State | None:
        """Takes the place for this process and returns the state; None to begin at step 0.

        Raises:
            Unavailable: Another process owns the place and lives.
            UserError: The training that it should go on from is not there or has not ended, or the chosen place holds
                one of another length; the message says what to set.
        """
        own = self.checkpoints.resume()
        try:
            return self._state(own)
        except BaseException:
            self.checkpoints.give_back()
            raise

    def _state(self, own: State | None) -> State | None:
        if own is not None:
            self._check_last(own)
            self._say_if_other_code(self._place.address)
            return own
        if self._length.goes_on_from:
            earlier = self._earlier()
            self._say_if_other_code(earlier.address)
            return self._gone_on(earlier)
        if not self._place.beside:
            self._check_empty()
            return None
        for ended in self._all_ended(lambda length: length.total < self._length.total):
            logger.info(
                "training starts at step 0; to train on instead from step %d, where a training of %d epochs ended, add "
                "%s",
                ended.state["progress"]["step"],
                ended.length.total,
                goes_on_from(self._stage, ended.length.on_from_here),
            )
            break
        return None

    def _say_if_other_code(self, address: str) -> None:
        if self._origin.other_code:
            logger.warning(
                "other code (%s) wrote checkpoints in %s; to train anew with the code of now, remove them",
                *(", ".join(sorted(self._origin.other_code)), address),
            )

    def _gone_on(self, earlier: _Ended) -> State:
        progress = earlier.state["progress"]
        step, ended, length = progress["step"], progress["ended"], earlier.length
        logger.info(
            "training goes on from step %d, where the training of %d epochs in %s ended",
            *(step, length.total, earlier.address),
        )
        entry = {"epochs": length.epochs, "decay_epochs": length.decay_epochs, "steps": step, "ended": ended}
        history = [*progress.get("history", []), entry]
        return {**earlier.state, "progress": {**progress, "history": history}}

    def _earlier(self) -> _Ended:
        """Returns the training that this one goes on from."""
        *before, total = self._length.goes_on_from
        found = list(self._all_ended(lambda length: length.on_from_here == self._length.goes_on_from))
        if len(found) > 1:
            raise UserError(
                f"{self._stage}.goes_on_from names a training of {total} epochs, but there are several: "
                f"{' and '.join(each.address for each in found)}; give the place of one with --checkpoint, or move the "
                "others away."
            )
        if not found:
            wanted = f"{self._stage}.epochs + {self._stage}.decay_epochs = {total}"
            if before:
                wanted += f" and {goes_on_from(self._stage, before)}"
            raise UserError(
                f"{self._stage}.goes_on_from names a training of {total} epochs, but there is no checkpoint of the end "
                f"of one with the same other settings and inputs in {self._place.beside or self._place.address}; first "
                f"train with {wanted}, or change {self._stage}.goes_on_from."
            )
        return found[0]

    def _all_ended(self, wanted: Callable[[Length], bool]) -> Iterator[_Ended]:
        """Yields the trainings of other lengths that have ended, the longest first."""
        others = [(length, address) for address, length in self._others() if wanted(length)]
        for length, address in sorted(others, key=lambda other: (-other[0].total, other)):
            state = self._open(address, length).load_newest()
            if state is not None and state["progress"]["ended"]:
                yield _Ended(address, length, state)

    def _others(self) -> list[tuple[str, Length]]:
        """Returns address and length of all trainings that differ in length alone."""
        if not self._place.beside:
            lengths = {Length.of(length) for length in self.checkpoints.other_lengths().values()}
            return [(self._place.address, length) for length in lengths]
        names = {entry.name.partition("/")[0] for entry in open_checkpoints(self._place.beside).entries()}
        lengths = {name: Length.named(name) for name in names - {self._length.name}}
        return [(f"{self._place.beside}/{name}", length) for name, length in lengths.items() if length is not None]

    def _check_empty(self) -> None:
        """Refuses a chosen place with checkpoints of another length.

        Raises:
            UserError: It holds some; the message says what to set to train on from them.
        """
        others = {step: Length.of(length) for step, length in self.checkpoints.other_lengths().items()}
        if not others:
            return
        step = max(others)
        other = others[step]
        there = (
            f"The checkpoint of step {step} in {self._place.address} belongs to a training of {other.total} epochs "
            f"({other.name}), not {self._length.total} ({self._length.name})"
        )
        if other.total >= self._length.total:
            raise UserError(f"{there}; give another place, or that length.")
        raise UserError(
            f"{there}; to train on from its end, add {goes_on_from(self._stage, other.on_from_here)}; to start at step "
            "0, give another place."
        )

    def _check_last(self, own: State) -> None:
        """Refuses to train on in a chosen place where a longer training has gone on from this one.

        Raises:
            UserError: It has; the message names its step.
        """
        step, beyond = own["progress"]["step"], max(self.checkpoints.other_lengths(), default=0)
        if beyond > step and own["progress"]["ended"] != "epochs":
            raise UserError(
                f"{self._place.address} holds step {step} of this training, and a longer one has gone on from it to "
                f"step {beyond}; give another place to train this one further."
            )


def goes_on_from(stage: str, totals: Sequence[int]) -> str:
    """Returns the words that set `goes_on_from`."""
    return f"--set {stage}.goes_on_from=[{','.join(map(str, totals))}]"


def how_to_train_on(origin: Origin, config: TrainingConfig, progress: Progress) -> str:
    """Returns what to set so that a training that is over goes on, as the end of a sentence.

    Args:
        origin: What determines the training.
        config: The stage's section of the recipe.
        progress: How far the training came.
    """
    stage = origin.stage
    if progress.ended == "patience":
        return f"raise --set {stage}.patience={config.patience} (0: never end early)"
    if progress.ended == "time limit":
        return f"raise --set {stage}.time_limit_seconds={config.time_limit_seconds:g} (null: no limit)"
    if config.steps is not None:
        return f"raise --set {stage}.steps={config.steps}; that training then starts at step 0"
    longer = f"more {stage}.epochs or {stage}.decay_epochs than {origin.length.name}"
    return f"give {longer}, and add {goes_on_from(stage, origin.length.on_from_here)}"
