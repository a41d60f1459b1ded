"""Runs that the cluster lost, told apart from runs whose stages failed: these may be submitted again.

A pod of Kubeflow itself that fails ends the whole run, whatever the retries are set to: a driver, which prepares a task
and must not run twice; the container that hands over a stage's log while the store is away. So does a stage's pod that
is deleted where deleted pods are not tried again. Nothing is wrong with such a run. Submitted again with the same
arguments, it takes every finished stage from the cache, and a training goes on from its checkpoint.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from components.catlib.errors import UserError
from components.catlib.memory import memory_advice
from pipelines.failure import RunFailed, RunLost
from pipelines.tasks import stage_of
from pipelines.workflows import Nodes, nodes_of

if TYPE_CHECKING:
    from pipelines.cluster import Cluster
    from pipelines.runs import Run

logger = logging.getLogger(__name__)

_FAILED = ("Failed", "Error")
_ATTEMPT = re.compile(r"\(\d+\)$")
_ENDED = re.compile(r"exceeded (its|workflow) deadline|shutdown with strategy|stopped with strategy", re.IGNORECASE)
_TIME_LIMIT = re.compile("specified deadline|DeadlineExceeded")
_CONTAINER = re.compile(r"(?:([\w.-]+): )?\w+ \(exit code \d+\)")
_MEMORY = re.compile(r"OOMKilled|exit code 137")
_ADVICE = "submit the run again, as `submit --wait --resubmit N` does by itself: finished stages come from the cache"
_TERMINATED = "exit code 143"
"""SIGTERM: a node was drained, or the pod made room for another one."""


@dataclass(frozen=True)
class Failure:
    """Why a run failed.

    Attributes:
        cause: `stage`: a stage ended with an error; `memory`: the kernel killed a stage, whose memory had run out;
            `cluster`: one of Kubeflow's own pods failed, or a pod was lost; `ended`: somebody or a time limit of the
            whole run ended it.
        task: Task at which it failed, such as "train-teacher"; of a driver, what it was to prepare.
        pod: Whose pod it was: "driver" or "stage".
        message: Argo's reason; "" without one.
        limit: Memory limit of a stage's pod, such as "4Gi"; "" if it is unknown.
    """

    cause: Literal["stage", "memory", "cluster", "ended"]
    task: str
    pod: Literal["driver", "stage"]
    message: str
    limit: str = ""

    def explained(self) -> str:
        """Returns a sentence on what can be done; "" if the stage's log tells, or nothing need be done."""
        message = self.message or "Argo gives no reason"
        if self.cause == "memory":
            at = f" at its limit of {self.limit}" if self.limit else ""
            advice = memory_advice(stage_of(self.task), on_cluster=True)
            return f"Task {self.task} ran out of memory ({message}{at}); {advice}."
        if self.cause == "cluster":
            what = f"Kubeflow's own pod for {self.task}" if self.pod == "driver" else f"the pod of {self.task}"
            return f"The cluster lost {what} ({message}), and no stage failed; {_ADVICE}."
        return ""


def failure_of(nodes: Nodes) -> Failure | None:
    """Returns why a run failed: the gravest reason if there are several, and of these the earliest.

    A run that somebody ended is no failure of its stages, and where a stage failed, submitting again is in vain, even
    if a pod was lost beside it.

    Args:
        nodes: The nodes of its workflow, after its end.

    Returns:
        The reason; None if no pod failed for good.
    """
    retries = [node for node in nodes.values() if node["type"] == "Retry" and node.get("children")]
    holders = {attempt["id"]: node for node in retries for attempt in _attempts(node, nodes)}
    failed = [node for node in nodes.values() if node["type"] == "Pod" and node.get("phase") in _FAILED]
    final = [node for node in failed if _is_final(node, nodes, holders)]
    found = [_failure(node, nodes, holders) for node in sorted(final, key=lambda node: node.get("finishedAt") or "")]
    return min(found, key=lambda failure: ("ended", "memory", "stage", "cluster").index(failure.cause), default=None)


def _is_final(node: Mapping[str, Any], nodes: Nodes, holders: Nodes) -> bool:
    """Returns whether neither a node nor anything that it belongs to was tried again or succeeded in the end."""
    current: Mapping[str, Any] | None = node
    while current is not None:
        holder = holders.get(current["id"])
        if holder and (holder.get("phase") == "Succeeded" or _attempts(holder, nodes)[-1] is not current):
            return False
        current = nodes.get(current.get("boundaryID") or "")
    return True


def _attempts(holder: Mapping[str, Any], nodes: Nodes) -> list[Mapping[str, Any]]:
    """Returns the attempts that a node holds, the last one last."""
    return [nodes[child] for child in holder["children"] if child in nodes and _is_attempt(nodes[child], holder)]


def _is_attempt(node: Mapping[str, Any], holder: Mapping[str, Any]) -> bool:
    return node["displayName"] != holder["displayName"] == _plain(node)


def _failure(pod: Mapping[str, Any], nodes: Nodes, holders: Nodes) -> Failure:
    name, message = _plain(pod), pod.get("message") or ""
    if name.endswith("-driver"):
        cause = "ended" if _ENDED.search(message) else "cluster"
        return Failure(cause, name.removesuffix("-driver"), "driver", message)
    around = nodes.get(pod.get("boundaryID") or "")
    cause = _cause(pod["phase"], message)
    attempts = _attempts(holders[pod["id"]], nodes) if pod["id"] in holders else []
    killed_before = [text for each in attempts if _MEMORY.search(text := each.get("message") or "")]
    if cause == "stage" and killed_before:
        cause, message = "memory", f"{killed_before[-1]} before {message}"
    return Failure(cause, _plain(around) if around else name, "stage", message, next(_memory_limits(pod), ""))


def _cause(phase: str, message: str) -> Literal["stage", "memory", "cluster", "ended"]:
    """Returns why a stage's pod failed.

    Argo names the container that failed: `main` is the stage's, the others are Kubeflow's. A message of another form
    is the cluster's: the pod was deleted, evicted, preempted, or could not be made.
    """
    if _ENDED.search(message):
        return "ended"
    if not message:
        return "stage" if phase == "Failed" else "cluster"
    if _TIME_LIMIT.search(message):
        return "stage"
    container = _CONTAINER.match(message)
    if container is None or container[1] not in (None, "main") or _TERMINATED in message:
        return "cluster"
    return "memory" if _MEMORY.search(message) else "stage"


def _plain(node: Mapping[str, Any]) -> str:
    """Returns the name of a node without the number of the attempt."""
    return _ATTEMPT.sub("", node["displayName"])


def _memory_limits(pod: Mapping[str, Any]) -> Iterator[str]:
    for given in (pod.get("inputs") or {}).get("parameters") or []:
        if given.get("name") == "pod-spec-patch" and given.get("value"):
            for container in json.loads(given["value"]).get("containers") or []:
                if limit := ((container.get("resources") or {}).get("limits") or {}).get("memory"):
                    yield limit


def watch_and_explain(cluster: Cluster, run_id: str, *, say: Callable[[str], None]) -> Run:
    """Waits until a run ends, as `Cluster.wait` does, and explains a failure that no stage could explain.

    Args:
        cluster: Where it runs.
        run_id: The run.
        say: Receives a line per change, and the explanation.

    Raises:
        UserError: A stage refused its input or said that memory ran out.
        RunLost: The cluster lost the run.
        RunFailed: The run failed or was stopped.
        Interrupted: This process was interrupted; the run goes on.
    """
    try:
        return cluster.wait(run_id, say=say)
    except RunLost:
        say(f"{_ADVICE[0].upper()}{_ADVICE[1:]}.")
        raise
    except RunFailed as error:
        failure = _failure_of_run(cluster, run_id)
        if failure and (explanation := failure.explained()):
            say(explanation)
        if failure and failure.cause == "cluster":
            raise RunLost(str(error)) from error
        raise


def _failure_of_run(cluster: Cluster, run_id: str) -> Failure | None:
    try:
        return failure_of(nodes_of(cluster.workflow(run_id)))
    except UserError as error:
        logger.info("why the run failed cannot be read: %s", error)
        return None
