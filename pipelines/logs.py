"""Log lines of a run's stages on a cluster: from the pod while it runs, later from the run's folder in the store."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from components.catlib.credentials import without_credentials
from components.catlib.errors import UserError
from components.catlib.storage import NotThere
from components.catlib.storage.addresses import split
from components.catlib.storage.places import Places
from components.kubeflow import refusal
from pipelines.connection import REQUEST_ERRORS, Kubeflow, reason
from pipelines.runs import FINISHED, Attempt, Run, Task

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""Time between two looks at the logs that are followed; neither the API nor the interface keeps a log open."""

KUBEFLOWS_LINE = re.compile(
    r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [\w.-]+\.go:\d+\]"  # the launcher
    r"|time=\S+ level=\w+ .*\bargo=true"  # Argo's process around it
    r"|Error: exit status \d+$"
    r"|\[KFP Executor "
)
"""Beginning of a line in a pod's log that is not the stage's."""

_LAUNCHERS_END = re.compile(r"F\d{4} \S+ +\d+ main\.go:\d+\] (?:failed to execute component: )?(.*)")
_STAGES_END = re.compile(r"\bexit status \d+|\bsignal: \w+")
_STAGE_LINE = re.compile(r"\[[\w-]+\] (.*)")
_TRAINING_LINE = re.compile(r"\[[\w-]+\] (step \d+/\d+ .*\bETA (\S+).*)")


class _NoLog(Exception):
    """There is no log; the message says why."""


@dataclass
class _Shown:
    """How many lines of an attempt's log were handed out: all of the pod's, and those of the stage alone."""

    lines: int = 0
    of_stage: int = 0
    to_the_end: bool = False


class Logs:
    """The logs of runs on one cluster."""

    def __init__(self, kubeflow: Kubeflow) -> None:
        """Takes an open connection; the store is reached with settings from the environment, once it is needed."""
        self._kubeflow = kubeflow
        self._places = Places()
        self._store_problem = ""

    def read(
        self, look: Callable[[], Run], *, task: str | None = None, follow: bool = False, everything: bool = False
    ) -> Iterator[tuple[str, str]]:
        """Reads the log lines of a run's stages.

        Args:
            look: Reads the run.
            task: Task whose lines are read, such as "distill-student 0.2x", or "distill-student" for all rounds of a
                loop; None: all tasks.
            follow: Whether to wait for further lines until the run ends.
            everything: Whether to hand out the lines of Kubeflow's launcher too.

        Yields:
            Name of a task, with the attempt if there were several, and a line. A log that cannot be read is a line in
            parentheses.

        Raises:
            UserError: There is no such task, or there are logs and none of them can be read.
        """
        shown: dict[tuple[str, int], _Shown] = {}
        while True:
            run = look()
            chosen = _chosen(run, task)
            alone = not follow and len(list(_attempts(chosen))) == 1
            problems: list[str] = []
            for name, each, attempt in _attempts(chosen):
                state = shown.setdefault((each.name, attempt.number), _Shown())
                if state.to_the_end or attempt.state == "PENDING":
                    continue
                try:
                    for line in self._new_lines(run, each, attempt, state, everything=everything):
                        yield name, line
                except _NoLog as problem:
                    if attempt.over or not follow:
                        problems.append(f"{name}: {problem}")
                        if not alone:  # else it is the error
                            yield name, f"(its log cannot be read: {problem})"
                state.to_the_end = attempt.over
            if not follow or run.state in FINISHED:
                break
            time.sleep(POLL_SECONDS)
        if problems and not any(state.lines or state.of_stage for state in shown.values()):
            raise UserError(f"No log of run {run.run_id} can be read; {problems[0].rstrip('.')}.")
        if task is not None and not shown:
            for each in chosen:
                yield each.name, f"(no pod has run: {each.said})"

    def stage_error(self, run: Run, task: Task) -> UserError | None:
        """Returns the error with which a stage ended; None if it did not end with one, or its log is gone."""
        if task.attempts:
            try:
                for line in self._lines(run, task, task.attempts[-1])[1]:
                    if (found := _STAGE_LINE.match(line)) and (error := refusal(found[1])):
                        return error
            except _NoLog as problem:
                logger.info("the log of %s cannot be read: %s", task.name, problem)
        return None

    def launchers_failure(self, run: Run, task: Task) -> str:
        """Returns why Kubeflow's launcher, which fetches and stores what a stage reads and writes, failed by itself.

        Its last line holds the stage's exit code where the stage failed, and else its own reason. It is in the log of
        the pod alone.

        Returns:
            The reason; "" if the launcher did not fail, or its log is gone.
        """
        with contextlib.suppress(_NoLog):
            lines = list(self._from_pod(run, task.attempts[-1])) if task.attempts else []
            found = next(filter(None, map(_LAUNCHERS_END.match, reversed(lines))), None)
            if found and not _STAGES_END.search(found[1]):
                return without_credentials(found[1])[:300]
        return ""

    def training_line(self, run: Run, task: Task) -> tuple[str, str] | None:
        """Returns the newest line on a running training's progress, and the time that it expects to need."""
        try:
            lines = list(self._from_pod(run, task.attempts[-1])) if task.attempts else []
        except _NoLog:
            return None
        found = next(filter(None, map(_TRAINING_LINE.match, reversed(lines))), None)
        return (found[1], found[2]) if found else None

    def _new_lines(self, run: Run, task: Task, attempt: Attempt, shown: _Shown, *, everything: bool) -> Iterator[str]:
        """Yields the lines that were not shown yet.

        The pod's log has the launcher's lines, the copy in the store has not: each has its own count.
        """
        in_pod, lines = self._lines(run, task, attempt, in_pod_first=shown.lines > 0)
        total = of_stage = 0
        for line in lines:
            kubeflows = KUBEFLOWS_LINE.match(line) is not None
            total += in_pod
            of_stage += not kubeflows
            new = total > shown.lines if in_pod else of_stage > shown.of_stage
            if new and (everything or not kubeflows):
                yield line
        shown.lines, shown.of_stage = max(total, shown.lines), max(of_stage, shown.of_stage)

    def _lines(
        self, run: Run, task: Task, attempt: Attempt, *, in_pod_first: bool = False
    ) -> tuple[bool, Iterable[str]]:
        """Returns whether the log is the pod's, and its lines.

        Raises:
            _NoLog: Neither the pod nor the store has it.
        """
        if not attempt.over:
            return True, list(self._from_pod(run, attempt))
        sources = [(False, lambda: self._from_store(task, attempt)), (True, lambda: self._from_pod(run, attempt))]
        problems = []
        for in_pod, source in reversed(sources) if in_pod_first else sources:
            try:
                return in_pod, list(source())
            except _NoLog as problem:
                problems.append(str(problem))
        ended = f"the attempt ended with {attempt.reason}; " if attempt.reason else ""
        raise _NoLog(ended + "; ".join(problems))

    def _from_store(self, task: Task, attempt: Attempt) -> list[str]:
        """Returns the lines that the launcher left in the store when the attempt ended, whatever became of its pod."""
        address = task.outputs.get("executor-logs")
        if not address:
            raise _NoLog("the run names no place of its log in the store")
        if self._store_problem:
            raise _NoLog("the store cannot be asked, as said above")
        folder, name = split(f"{address}-{attempt.number - 1}")
        try:
            return self._places.open(folder).read(name).decode(errors="replace").splitlines()
        except NotThere as error:
            raise _NoLog(f"{folder}/{name} does not exist in the store") from error
        except UserError as error:
            self._store_problem = str(error).rstrip(".")  # it is not asked again: waiting for it takes seconds
            raise _NoLog(self._store_problem) from error

    def _from_pod(self, run: Run, attempt: Attempt) -> Iterator[str]:
        """Yields the lines of a pod, which the API server and the interface name differently."""
        if self._kubeflow.is_interface:
            connection = self._kubeflow.connection
            path = "/k8s/pod/logs"
            namespace = run.namespace or connection.namespace or connection.kubeflow_namespace
            query = [("podname", attempt.pod), ("podnamespace", namespace), ("runid", run.run_id)]
        else:
            path, query = f"/apis/v1alpha1/runs/{run.run_id}/nodes/{attempt.node}/log", []
        try:
            answer = self._kubeflow.open(path, query)
            try:
                answer.auto_close = False  # else it counts as closed while lines are still in the buffer
                for line in io.TextIOWrapper(io.BufferedReader(answer), encoding="utf-8", errors="replace"):
                    if problem := _problem(line):
                        raise _NoLog(f"pod {attempt.pod}: {problem}")
                    yield line.rstrip("\n")
            finally:
                answer.close()
        except REQUEST_ERRORS as error:
            raise _NoLog(f"pod {attempt.pod}: {reason(error)}") from error


def _chosen(run: Run, task: str | None) -> list[Task]:
    chosen = [each for each in run.tasks if task in (None, each.name, each.kind)]
    if not chosen and task is not None:
        names = ", ".join(each.name for each in run.tasks) or "none yet"
        raise UserError(f"Run {run.run_id} has no task {task!r}; it has {names}.")
    return chosen


def _attempts(tasks: list[Task]) -> Iterator[tuple[str, Task, Attempt]]:
    """Yields every attempt with its task and what to call it."""
    for task in tasks:
        for attempt in task.attempts:
            yield f"{task.name}, attempt {attempt.number}" if len(task.attempts) > 1 else task.name, task, attempt


def _problem(line: str) -> str:
    """Returns the error in a line; the API server answers 200 and writes it where the log would stand."""
    if not line.startswith('{"error'):
        return ""
    try:
        answer = json.loads(line)
    except ValueError:
        return ""
    return str(answer.get("error_message") or answer.get("error")).split("\n", 1)[0][:300]
