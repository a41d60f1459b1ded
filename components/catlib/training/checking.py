"""Looks at what a training has computed: losses are fetched, checked and shared by the processes every few steps.

A GPU computes behind the program's back. Asking it for a number waits until all work before that is done, and the GPU
then waits for the next work. So the losses of every step stay on the device, and a *check* fetches those of all steps
since the last one. A loss that is not finite is found there, before anything is logged, scored, kept or saved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, distributed

from components.catlib.distributed.devices import Accelerator

CHECK_SECONDS = 1.0
"""Seconds between checks on a GPU; a stop, a time limit or a due checkpoint waits no longer than that."""

MOST_STEPS = 1000
"""Most steps between checks."""

Losses = dict[str, float]


class Checks:
    """Keeps the losses of steps until the next check, and decides when that is.

    On a CPU every step is checked. On a GPU the first one is, then about one per `CHECK_SECONDS`, and those after which
    something happens that has been planned. All processes check after the same steps, by the first one's clock.
    """

    def __init__(
        self, accelerator: Accelerator, *, total_steps: int, planned: Collection[int], seconds: float = CHECK_SECONDS
    ) -> None:
        """Begins before a step.

        Args:
            accelerator: Device and processes.
            total_steps: Optimisation steps of the whole training, the last of which is checked.
            planned: Further steps to check.
            seconds: Seconds between checks.
        """
        self._accelerator = accelerator
        self._total_steps = total_steps
        self._planned = frozenset((*planned, total_steps))
        self._seconds = seconds
        self._names: list[tuple[str, ...]] = []
        self._values: list[Tensor] = []
        self._spacing = self._wanted = 1
        self.resume()

    def note(self, losses: Mapping[str, Tensor]) -> None:
        """Keeps the losses of one more step, scalars on the device."""
        self._names.append(tuple(losses))
        self._values.append(torch.stack(list(losses.values())))

    def due(self, step: int) -> bool:
        """Returns whether this step is to be checked; all processes get the same answer."""
        return not self._accelerator.runs_behind or len(self._values) >= self._spacing or step in self._planned

    def check(self, step: int, *flags: bool) -> tuple[list[Losses], list[bool]]:
        """Fetches the losses since the last check, in one transfer and, of several processes, one collective operation.

        Args:
            step: Optimisation steps done.
            flags: What this process knows.

        Returns:
            The losses of each step, means over the processes; and for each flag whether any process has raised it.

        Raises:
            RuntimeError: A loss is NaN or infinite; the message names the first such step.
        """
        values, count = torch.cat(self._values), self._accelerator.num_processes
        if count > 1:
            main = self._accelerator.is_main_process
            told = torch.tensor([*flags, self._wanted if main else 0], dtype=values.dtype, device=values.device)
            values = torch.cat([values, told])
            distributed.all_reduce(values)
            values[: -len(told)] /= count
        numbers = values.tolist()
        if count > 1:
            *raised, self._spacing = (round(number) for number in numbers[-len(flags) - 1 :])
            flags = tuple(map(bool, raised))
        else:
            self._spacing = self._wanted
        found = self._by_step(numbers)
        self._wanted = self._steps_within(time.monotonic() - self._resumed, steps=len(found))
        self._names, self._values = [], []
        _check_finite(found, step, self._total_steps)
        return found, list(flags)

    def resume(self) -> None:
        """Starts the clock again after a check and what followed it, such as an evaluation."""
        self._resumed = time.monotonic()

    def _by_step(self, numbers: list[float]) -> list[Losses]:
        upcoming = iter(numbers)
        return [{name: next(upcoming) for name in names} for names in self._names]

    def _steps_within(self, passed: float, *, steps: int) -> int:
        """Returns how many steps fit between two checks, at the pace of the last ones."""
        return min(MOST_STEPS, max(1, int(steps * self._seconds / max(passed, 1e-9))))


def _check_finite(losses: list[Losses], step: int, total_steps: int) -> None:
    for number, values in enumerate(losses, start=step - len(losses) + 1):
        for name, value in values.items():
            if not math.isfinite(value):
                raise RuntimeError(
                    f"Loss {name!r} is {value} at step {number} of {total_steps}; the training has diverged. "
                    "Lower learning_rate or the weight of that loss; checkpoints of earlier steps are not affected."
                )
