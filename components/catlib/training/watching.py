"""Watches a training: notes signs of its health, lets the rules judge them, warns, and stops it if the recipe asks."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from components.catlib.config import TrainingConfig
from components.catlib.diagnosis.causes import Cause
from components.catlib.diagnosis.trainings import STOPPED_BY, diagnose_training
from components.catlib.errors import UserError
from components.catlib.training.log import LogWriter, Record
from components.catlib.training.signs import SignsTaken

logger = logging.getLogger(__name__)


class Watch:
    """Watches one training, in the main process.

    Attributes:
        verdict: Why to stop, in one sentence; empty while there is no reason, or the recipe does not ask for it.
    """

    def __init__(self, signs: SignsTaken, *, config: TrainingConfig, stage: str) -> None:
        """Takes what it works with.

        Args:
            signs: Takes the signs.
            config: The stage's section of the recipe.
            stage: Name of the stage.
        """
        self.verdict = ""
        self._signs = signs
        self._config = config.model_dump(mode="json")
        self._stop_on = {cause for name in config.stop_on for cause in STOPPED_BY[name]}
        self._stage = stage
        self._known: set[Cause] = set()

    def after(self, step: int, *, epoch: int, losses: Mapping[str, float], log: LogWriter) -> None:
        """Notes the signs after a step, if they are due, and judges all of the log.

        Args:
            step: Optimisation steps done.
            epoch: The epoch, from 0.
            losses: The losses of the last step.
            log: Receives the signs.
        """
        signs = self._signs.after(step, losses)
        if signs is not None:
            log.signs(step, epoch=epoch, of=self._signs.total_steps, signs=signs)
            self.judge(log.records)

    def judge(self, records: Sequence[Record]) -> None:
        """Warns of what the rules find in a log, once per cause."""
        for diagnosis in diagnose_training(self._stage, self._config, records):
            if diagnosis.cause in self._known:
                continue
            self._known.add(diagnosis.cause)
            step = records[-1]["step"]
            if diagnosis.cause in self._stop_on:
                self.verdict = (
                    f"The {self._stage} stage stopped after step {step} of {self._signs.total_steps}, as "
                    f"{self._stage}.stop_on asks: {diagnosis.cause.name} ({diagnosis.evidence}); {diagnosis.advice}, "
                    f"or set {self._stage}.stop_on: [] to go on from here."
                )
            else:
                logger.warning("step %d: %s", step, diagnosis)


def watched(
    watch: Watch | None, step: int, *, epoch: int, losses: Sequence[Mapping[str, float]], log: LogWriter
) -> bool:
    """Lets a watch, if there is one, look at the last steps; returns whether it wants the training to stop.

    Args:
        watch: The watch, in the main process.
        step: Optimisation steps done.
        epoch: The epoch, from 0.
        losses: The losses of the last steps, oldest first; only after the last of them signs may be due.
        log: Receives the signs.
    """
    if watch is not None:
        for number, values in enumerate(losses, start=step - len(losses) + 1):
            watch.after(number, epoch=epoch, losses=values, log=log)
    return watch is not None and bool(watch.verdict)


def give_up(watch: Watch | None) -> None:
    """Ends a training that its recipe does not want any more.

    Raises:
        UserError: There is a verdict.
    """
    if watch is not None and watch.verdict:
        raise UserError(watch.verdict)
