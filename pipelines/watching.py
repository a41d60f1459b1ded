"""Watching a run until it ends: what changes, how trainings get on, and why it failed."""

from __future__ import annotations

import time
from collections.abc import Callable

from components.catlib.errors import Interrupted
from pipelines.connection import Connection, NotAdmitted
from pipelines.failure import RunFailed, RunLost
from pipelines.logs import Logs
from pipelines.runs import FINISHED, Run, Task

POLL_SECONDS = 10.0
"""Time between two looks at a watched run."""

TRAINING_SECONDS = 30.0
"""Time between two looks at the log of a running training."""


def watch(
    run_id: str, look: Callable[[], Run], logs: Logs, connection: Connection, *, say: Callable[[str], None]
) -> Run:
    """Waits until a run ends, and reports every change of a task's state and the progress of trainings.

    Args:
        run_id: The run.
        look: Reads it.
        logs: The logs of its cluster.
        connection: How the cluster is reached, for the commands in messages.
        say: Receives a line per change.

    Returns:
        The run, which succeeded.

    Raises:
        UserError: A stage refused its input, or there is no such run.
        RunLost: The cluster lost the run.
        RunFailed: The run failed or was stopped.
        Interrupted: This process was interrupted, or Kubeflow no longer admits it; the run goes on.
    """
    goes_on = f"The run goes on; watch it with: {connection.command('status', run_id, '--wait')}"
    shown: dict[str, str] = {}
    progress = Progress(logs, say)
    try:
        while True:
            try:
                run = look()
            except NotAdmitted as error:
                if not shown:
                    raise
                raise Interrupted(f"{error} {goes_on}") from error  # a token has expired
            for number, task in enumerate(run.tasks, 1):
                before = shown.get(task.name, "pending")
                shown[task.name] = task.said
                if task.said != before:
                    say(f"{_stage(run, number)}, {task.name}: {task.said}")
            if run.state in FINISHED:
                break
            progress.report(run)
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        raise Interrupted(goes_on) from None
    if run.state != "SUCCEEDED":
        raise why_failed(run, logs, connection)
    return run


class Progress:
    """Reports the newest line of running trainings."""

    def __init__(self, logs: Logs, say: Callable[[str], None]) -> None:
        """Takes where to read and whom to tell."""
        self._logs = logs
        self._say = say
        self._looked: dict[str, float] = {}
        self._shown: dict[str, str] = {}

    def report(self, run: Run) -> None:
        """Reports what is new in the log of every running training, with the time that it expects to need."""
        for number, task in enumerate(run.tasks, 1):
            looked = self._looked.get(task.name, -float("inf"))
            if task.state != "RUNNING" or time.monotonic() - looked < TRAINING_SECONDS:
                continue
            self._looked[task.name] = time.monotonic()
            found = self._logs.training_line(run, task)
            if found and found[0] != self._shown.get(task.name):
                line, left = found
                self._shown[task.name] = line
                self._say(f"{_stage(run, number)}, {task.name}, {left} left: {line}")


def why_failed(run: Run, logs: Logs, connection: Connection) -> Exception:
    """Returns the error of a run that ended without success: its stage's own sentence if there is one."""
    for task in run.failed:
        if error := logs.stage_error(run, task):
            return type(error)(f"{task.name}: {error}")
    reasons = {task.name: logs.launchers_failure(run, task) for task in run.failed if not task.own}
    if run.state == "FAILED" and reasons and all(reasons.values()):
        name, reason = next(iter(reasons.items()))
        return RunLost(
            f"Run {run.name} failed in {name}: Kubeflow's launcher could not do its own part ({reason}); no stage "
            f"failed. See: {connection.command('logs', run.run_id, '--launcher', '--task', name)}"
        )
    return _failed(run, run.failed, connection)


def _failed(run: Run, failed: tuple[Task, ...], connection: Connection) -> RunFailed:
    reason = failed[0].reason if failed else "; ".join(run.own_failures) or run.error
    where = f" in {failed[0].name}" if failed else ""
    task = ("--task", failed[0].name) if failed else ()
    return RunFailed(
        f"Run {run.name} {run.state.lower()}{where}{f' ({reason})' if reason else ''}; see: "
        f"{connection.command('logs', run.run_id, *task)}"
    )


def _stage(run: Run, number: int) -> str:
    """Returns "stage 3 of 8", or "stage 3 of 8+" while a loop's rounds are not counted yet."""
    return f"stage {number} of {len(run.tasks)}{'' if run.complete else '+'}"
