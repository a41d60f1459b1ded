"""What an attempt of a task leaves for the next one: that the task was refused, so another try is in vain.

Kubeflow's launcher ends with exit code 1 whatever the stage's code was, and so does `torchrun` in a TrainJob. So a
cluster cannot tell a user's mistake, or memory that ran out, from a crash, and tries all of them again. An attempt that
refuses its input, or whose memory runs out, therefore writes a small file beside the checkpoints,
`refused/RUN.TASK.ID.json` or `refused/trainjob.STAGE.UID.json`, and the next one passes its sentence on at once.
Without a place for checkpoints nothing is written, and every attempt refuses
anew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

from components.catlib.errors import OutOfMemory, UserError
from components.catlib.storage import NotThere, Store, open_store
from components.catlib.training.upkeep import CHECKPOINTS_VARIABLE

ATTEMPT_VARIABLE = "KFP_RETRY_INDEX"
"""Environment variable of Kubeflow's pods: 0 in the first attempt of a task, then 1, and so on."""

JOB_VARIABLE = "CAT_JOB_UID"
"""Environment variable of a TrainJob's pods: Kubernetes' UID of their Job, which all its attempts share."""

PATIENCE_SECONDS = 30.0
"""Seconds for which the place of checkpoints is waited for; without it the stage just runs."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """One attempt of a task in a pod.

    Attributes:
        number: 0 for the first one; None if it is unknown, as in a Job, which has a new UID when it is started anew.
        task: Name of the task that all its attempts share and no other task has: RUN.TASK.ID.
        place: Where trainings keep their checkpoints.
    """

    number: int | None
    task: str
    place: str

    @classmethod
    def current(cls) -> Attempt | None:
        """Returns the attempt that this process is; None outside of Kubeflow's pods or without a place."""
        number, place, task = os.environ.get(ATTEMPT_VARIABLE, ""), os.environ.get(CHECKPOINTS_VARIABLE), _task()
        return cls(int(number), task, place) if number.isdigit() and place and task else None

    @classmethod
    def of_job(cls, stage: str) -> Attempt | None:
        """Returns the attempt of a stage that this process is in a TrainJob; None elsewhere or without a place."""
        job, place = os.environ.get(JOB_VARIABLE), os.environ.get(CHECKPOINTS_VARIABLE)
        return cls(None, f"trainjob.{stage}.{job}", place) if job and place else None

    @contextlib.contextmanager
    def refused_once(self) -> Iterator[None]:
        """Runs the body, unless the attempt before was refused; a refusal in the body is kept for the next one.

        Raises:
            UserError: The body refused, or an earlier attempt did, which the message repeats.
        """
        if self.number == 0:
            with self._tolerating("removed"):
                self._store.remove(self._name)  # of an earlier start of the same task, by "Retry"
        elif (refusal := self._refusal()) is not None:
            logger.info("an earlier attempt was refused, and this one would be")
            raise refusal
        try:
            yield
        except UserError as error:
            if error.exit_code == UserError.exit_code or isinstance(error, OutOfMemory):
                note = {"sentence": str(error), "attempt": self.number, "memory": isinstance(error, OutOfMemory)}
                with self._tolerating("written"):
                    self._store.write(self._name, json.dumps(note).encode())
            raise

    def _refusal(self) -> UserError | None:
        damaged = (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError)
        with self._tolerating("read"), contextlib.suppress(NotThere, *damaged):
            note = json.loads(self._store.read(self._name))
            sentence = str(note["sentence"])
            return OutOfMemory(sentence) if note.get("memory") else UserError(sentence)
        return None

    @property
    def _name(self) -> str:
        return f"refused/{self.task}.json"

    @property
    def _store(self) -> Store:
        return open_store(self.place, patience=PATIENCE_SECONDS)

    @contextlib.contextmanager
    def _tolerating(self, what: str) -> Iterator[None]:
        """Goes on, after a line, as if there were no place when it cannot be used."""
        try:
            yield
        except (UserError, OSError) as error:
            logger.warning("the note on a refused attempt cannot be %s at %s: %s", what, self.place, error)


def _task() -> str | None:
    """Returns the last parts of the folder where Kubeflow keeps what this task makes: ROOT/RUN/TASK/ID.

    Kubeflow hands a task its addresses as an argument. Its driver chooses them once, for all attempts.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--executor_input", default="{}")
    with contextlib.suppress(ValueError, KeyError, AttributeError, StopIteration, IndexError):
        outputs = json.loads(parser.parse_known_args()[0].executor_input)["outputs"]["artifacts"]
        address = next(iter(outputs.values()))["artifacts"][0]["uri"]
        *_, run, task, own, _ = address.split("/")
        return f"{run}.{task}.{own}"
    return None
