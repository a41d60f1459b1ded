"""Runs and their tasks, read from Kubeflow's answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.stage_plan import Planned, plan_stages
from pipelines.workflows import Node, Workflow

FINISHED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
"""States of a run that has ended."""

_CONTAINER = re.compile(r"(?:(\w+): )?(\w+) \(exit code (\d+)\)")
_LACKING = re.compile(r"Insufficient [\w./-]*\w")
_DEADLINE = re.compile("deadline", re.IGNORECASE)


@dataclass(frozen=True)
class Attempt:
    """One pod that does, or did, the work of a task.

    Attributes:
        number: Number of the attempt, from 1.
        pod: Name of its pod.
        node: Argo's id of its node, by which the API server knows its log.
        state: PENDING, RUNNING, SUCCEEDED or FAILED.
        reason: Why it waits or failed; "" without a reason.
        own: Whether it was Kubeflow's own work in the pod that failed, not the stage.
    """

    number: int
    pod: str
    node: str
    state: str
    reason: str
    own: bool = False

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in ("SUCCEEDED", "FAILED")


@dataclass(frozen=True)
class Task:
    """A task of a run as a person sees it: a round of a loop is a task of its own.

    Attributes:
        name: Such as "train-teacher", in a loop with what its round is about: "distill-student 0.2x".
        kind: Its name without the round: "distill-student".
        state: PENDING, RUNNING, SUCCEEDED, CACHED (its result is an earlier run's), FAILED, CANCELED, or NOT_RUN: the
            run goes or ended without it.
        reason: Why it waits or failed; "" without a reason.
        attempts: Its pods, the last attempt last.
        outputs: Address of each of its outputs, as Kubeflow has set them.
        own: Whether Kubeflow's own work failed, such as its driver, not the stage.
    """

    name: str
    kind: str
    state: str
    reason: str = ""
    attempts: tuple[Attempt, ...] = ()
    outputs: Mapping[str, str] = field(default_factory=dict)
    own: bool = False

    @property
    def pods(self) -> tuple[str, ...]:
        """Its pods, the last attempt last."""
        return tuple(attempt.pod for attempt in self.attempts)

    @property
    def said(self) -> str:
        """State and reason in words: "pending: insufficient cpu"."""
        state = self.state.lower().replace("_", " ")
        return f"{state}: {self.reason}" if self.reason else state


@dataclass(frozen=True)
class Run:
    """A run at the moment when it was read.

    Attributes:
        run_id: Kubeflow's id of the run.
        name: Its name for people.
        pipeline: Name of its pipeline.
        state: PENDING, RUNNING, PAUSED, CANCELING, SUCCEEDED, FAILED, CANCELED or SKIPPED.
        tasks: Its tasks in the order in which they may run.
        error: Kubeflow's message about its failure; "" without one.
        root: Address below which it writes its artifacts; "" if it was not set and no task has begun.
        namespace: Namespace of its pods; "" as long as there are none.
        complete: Whether all tasks are known: those of a loop whose rounds are counted during the run are missing
            before.
        own_failures: Failures of Kubeflow's own pods, a sentence each.
    """

    run_id: str
    name: str
    pipeline: str
    state: str
    tasks: tuple[Task, ...]
    error: str
    root: str
    namespace: str = ""
    complete: bool = True
    own_failures: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Task, ...]:
        """Tasks that failed."""
        return tuple(task for task in self.tasks if task.state == "FAILED")


def pipeline_of(raw: Any) -> dict[str, Any]:
    """Returns the pipeline in Kubeflow's model of a run; empty for a run that was started from the form."""
    spec = raw.pipeline_spec or {}
    return spec.get("pipeline_spec", spec)  # it comes with or without the part for Kubernetes


def read_run(raw: Any, workflow: Workflow | None = None) -> Run:
    """Reads Kubeflow's model of a run, and its tasks from its workflow; without one there are no tasks."""
    workflow = workflow or Workflow({})
    plan, state = plan_stages(workflow), _run_state(raw)
    tasks = tuple(_task(stage, workflow, state) for stage in plan.stages)
    pipeline = pipeline_of(raw).get("pipelineInfo", {}).get("name", "") or workflow.pipeline
    given = raw.runtime_config.pipeline_root or "" if raw.runtime_config else ""
    return Run(
        run_id=raw.run_id,
        name=raw.display_name or "",
        pipeline=pipeline,
        state=state,
        tasks=tasks,
        error=((raw.error.message if raw.error else "") or workflow.message) if state == "FAILED" else "",
        root=given or _root(tasks, f"/{pipeline}/{raw.run_id}/"),
        namespace=workflow.namespace,
        complete=plan.complete,
        own_failures=tuple(f"{node.place[-1]}: {failure(node.message)}" for node in workflow.failed_drivers()),
    )


def _run_state(raw: Any) -> str:
    """Returns the state of a run. One that a person ended counts as failed for Kubeflow."""
    state = raw.state or "PENDING"
    ended = any(each.state == "CANCELING" for each in raw.state_history or [])
    return "CANCELED" if state == "FAILED" and ended else state


def _root(tasks: tuple[Task, ...], middle: str) -> str:
    """Returns the address above the run's own part of its tasks' addresses; "" if none of them has begun."""
    addresses = (address for task in tasks for address in task.outputs.values())
    return next((address.partition(middle)[0] for address in addresses if middle in address), "")


# ------------------------------------------------------------------------------------------------------------ one task


def _task(stage: Planned, workflow: Workflow, run_state: str) -> Task:
    *before, last = stage.place
    driver = workflow.node((*before, f"{last}-driver"))
    executor = (*stage.place, "executor")
    attempts = tuple(_attempt(number, node) for number, node in enumerate(workflow.attempts(executor), 1))
    state, reason, own = _state(driver, workflow.node(stage.place), workflow.node(executor), attempts)
    if state in ("PENDING", "RUNNING") and run_state in FINISHED:
        state, reason = "CANCELED" if attempts else "NOT_RUN", ""
    if state == "FAILED" and run_state in ("CANCELED", "CANCELING") and _DEADLINE.search(reason):
        state, reason = "CANCELED", ""  # Kubeflow ends a run by setting its deadline to now
    name = f"{stage.task} {stage.round}".strip()
    return Task(name, stage.task, state, reason, attempts, _outputs(driver), own)


def _state(
    driver: Node | None, node: Node | None, executor: Node | None, attempts: tuple[Attempt, ...]
) -> tuple[str, str, bool]:
    """Returns a task's state with the reason, and whether Kubeflow's own work failed."""
    if driver is None:
        return "PENDING", "", False
    if driver.failed:
        return "FAILED", f"Kubeflow's own pod that prepares it ended: {failure(driver.message)}", True
    if driver.left_out or (node is not None and node.left_out):
        return "NOT_RUN", "", False
    if node is None or not driver.over:
        return "PENDING", waiting(driver.message), False
    if node.phase == "Succeeded":
        return "CACHED" if executor is not None and executor.left_out else "SUCCEEDED", "", False
    if not attempts:
        return ("FAILED", failure(node.message), True) if node.failed else ("PENDING", "", False)
    last = attempts[-1]
    if node.failed:
        times = f" ({len(attempts)} attempts)" if len(attempts) > 1 else ""
        return "FAILED", f"{last.reason or failure(node.message)}{times}", last.own
    if last.state == "FAILED":
        return "PENDING", _before_next(last, executor.message if executor else ""), False
    return ("PENDING" if last.state == "PENDING" else "RUNNING"), last.reason, False


def _attempt(number: int, node: Node) -> Attempt:
    state = {"Succeeded": "SUCCEEDED", "Running": "RUNNING", "Failed": "FAILED", "Error": "FAILED"}
    found = state.get(node.phase, "PENDING")
    reason = failure(node.message) if found == "FAILED" else waiting(node.message) if found == "PENDING" else ""
    own = _CONTAINER.match(node.message)
    beside = found == "FAILED" and own is not None and own[1] not in (None, "main")
    return Attempt(number, node.pod, node.node_id, found, reason, beside)


def _before_next(last: Attempt, message: str) -> str:
    pause = message.removeprefix("Backoff for ").replace(" 0 seconds", "") if message.startswith("Backoff for ") else ""
    return f"attempt {last.number} failed ({last.reason}), the next one begins {f'after {pause}' if pause else 'soon'}"


def failure(message: str) -> str:
    """Returns Argo's message about a failure in the words of this project: "OOMKilled", "exit code 1", "deadline …"."""
    if found := _CONTAINER.match(message):
        container, word, code = found.groups()
        what = f"exit code {code}" if word == "Error" else word
        return what if container in (None, "main") else f"{what} in Kubeflow's container {container!r}"
    if _DEADLINE.search(message):
        return f"deadline exceeded: {message}"
    return message or "no reason given"


def waiting(message: str) -> str:
    """Returns why a pod waits in a few words: "insufficient cpu"."""
    if lacking := dict.fromkeys(word.lower() for word in _LACKING.findall(message)):
        return " and ".join(lacking)
    return message


def _outputs(driver: Node | None) -> dict[str, str]:
    """Returns the address of every output of a task, from the command line that its driver made for the launcher."""
    patch = driver.outputs.get("pod-spec-patch") if driver else None
    if not patch:
        return {}
    for container in json.loads(patch).get("containers", []):
        words = [*container.get("command", []), *container.get("args", [])]
        if "--executor_input" in words:
            made = json.loads(words[words.index("--executor_input") + 1]).get("outputs", {}).get("artifacts", {})
            return {name: each["artifacts"][0]["uri"] for name, each in made.items() if each.get("artifacts")}
    return {}
