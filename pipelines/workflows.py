"""A run's workflow as Argo keeps it: its nodes, and the stages that its pipeline plans.

Kubeflow's API hands out the whole workflow as JSON. Its own list of tasks is no source: for a large workflow it stops
changing, and it names neither pods nor reasons.

The name of a node is its place. The third attempt of pruning in the second round of the loop is

    compress-xwvm2(0).root(0).for-loop-1(0).iteration-iterations(1:1)(0).iteration-item(0).prune-teacher(0).executor(2)

Below every stage `S` there are `S-driver`, `S`, and the pods of `S.executor`. Numbers of attempts stand only at what
may be tried again, which differs between clusters.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Place = tuple[str | int, ...]
"""Place of a node or stage: names of tasks, and numbers of a loop's rounds: ("for-loop-1", 1, "prune-teacher")."""

Steps = tuple[tuple[str | int, int], ...]
"""Every name on the way to a node, with the number of its attempt."""

_NUMBERED = re.compile(r"(.+?)(?:\((\d+)\))?")
_ROUND = re.compile(r"iteration-iterations\((\d+):[^)]*\)")


Nodes = Mapping[str, Mapping[str, Any]]
"""The nodes of an Argo workflow by id: its `status.nodes`."""


@dataclass(frozen=True)
class Node:
    """A node of the workflow.

    Attributes:
        node_id: Argo's id of the node, which is not the name of its pod.
        place: Where it stands.
        attempt: Number of this attempt from 0; None for a node that holds its attempts, or has none.
        kind: Pod, DAG, Retry, Skipped, TaskGroup …
        phase: Pending, Running, Succeeded, Failed, Error, Skipped, Omitted.
        message: Argo's reason for the phase; "" without one.
        pod: Name of its pod, if it is one.
        started: When it began.
        outputs: Values of its output parameters.
        inputs: Values of its input parameters.
    """

    node_id: str
    place: Place
    attempt: int | None
    kind: str
    phase: str
    message: str
    pod: str
    started: str
    outputs: Mapping[str, str]
    inputs: Mapping[str, str]

    @property
    def failed(self) -> bool:
        """Whether it ended without success."""
        return self.phase in ("Failed", "Error")

    @property
    def left_out(self) -> bool:
        """Whether Argo decided not to run it."""
        return self.phase in ("Omitted", "Skipped")

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.phase not in ("", "Pending", "Running")


class Workflow:
    """A workflow at the moment when it was read.

    Attributes:
        namespace: Namespace of its pods.
        message: Argo's message about the whole workflow; "" without one.
        pipeline: Name of the pipeline.
    """

    def __init__(self, manifest: Mapping[str, Any]) -> None:
        """Reads the manifest of an Argo workflow, or nothing of an empty one."""
        metadata, status = manifest.get("metadata", {}), manifest.get("status") or {}
        self._name: str = metadata.get("name", "")
        self._old_pod_names = metadata.get("annotations", {}).get("workflows.argoproj.io/pod-name-format") == "v1"
        self.namespace: str = metadata.get("namespace", "")
        self.pipeline: str = metadata.get("generateName", "").rstrip("-")
        self.message: str = status.get("message") or ""
        self._spec: Mapping[str, Any] = manifest.get("spec", {})
        self._arguments = _values(self._spec.get("arguments"))
        nodes = [self._node(raw) for raw in nodes_of(manifest).values()]
        newest = _newest_attempts(attempts for _, attempts in nodes)
        self._nodes = [node for node, attempts in nodes if _is_current(attempts, newest)]
        self._holders = {node.place: node for node in self._nodes if node.attempt is None}

    def node(self, place: Place) -> Node | None:
        """Returns the node at a place, the one that holds the attempts if there are several."""
        return self._holders.get(place)

    def attempts(self, place: Place) -> list[Node]:
        """Returns the pods that do the work of a place, in their order."""
        pods = [node for node in self._nodes if node.place == place and node.kind == "Pod"]
        return sorted(pods, key=lambda node: node.attempt or 0)

    def failed_drivers(self) -> list[Node]:
        """Returns Kubeflow's own pods that failed: the drivers, which prepare stages and loops."""
        found = (node for place, node in self._holders.items() if place and str(place[-1]).endswith("-driver"))
        return [node for node in found if node.failed]

    def component(self, name: str) -> dict[str, Any]:
        """Returns what Kubeflow knows of a graph of the pipeline: "root", or that of a loop; {} for a stage."""
        return json.loads(self._arguments.get(f"components-{name}", "{}"))

    def parameters(self) -> dict[str, Any]:
        """Returns the values of the pipeline's parameters."""
        given: dict[str, Any] = {}
        for template in self._spec.get("templates", []):
            for task in template.get("dag", {}).get("tasks", []) if template["name"] == "entrypoint" else []:
                text = _values(task.get("arguments")).get("runtime-config")
                given |= json.loads(text).get("parameterValues", {}) if text else {}
        defined = self.component("root").get("inputDefinitions", {}).get("parameters", {})
        return {name: each.get("defaultValue") for name, each in defined.items()} | given

    def _node(self, raw: Mapping[str, Any]) -> tuple[Node, Steps]:
        steps = [_step(part) for part in raw["name"].split(".")]
        own = steps[-1][1]
        template, node_id = raw.get("templateName", ""), raw["id"]
        in_pod = raw["type"] == "Pod"
        node = Node(
            node_id=node_id,
            place=tuple(name for name, _ in steps[1:] if name not in ("root", "iteration-item")),
            attempt=own,
            kind=raw["type"],
            phase=raw.get("phase", ""),
            message=raw.get("message", ""),
            pod=self._pod(node_id, template) if in_pod else "",
            started=raw.get("startedAt") or "",
            outputs=_values(raw.get("outputs")),
            inputs=_values(raw.get("inputs")),
        )
        return node, tuple((name, attempt or 0) for name, attempt in steps)

    def _pod(self, node_id: str, template: str) -> str:
        if self._old_pod_names or node_id == self._name:
            return node_id
        return f"{self._name}-{template}-{node_id.removeprefix(f'{self._name}-')}"


def _step(part: str) -> tuple[str | int, int | None]:
    """Returns name and attempt in a part of a node's name; the name of a loop's round is its number."""
    numbered = _NUMBERED.fullmatch(part)
    assert numbered, part
    turn = _ROUND.fullmatch(numbered[1])
    return int(turn[1]) if turn else numbered[1], None if numbered[2] is None else int(numbered[2])


def _values(inputs_or_outputs: Mapping[str, Any] | None) -> dict[str, Any]:
    return {each["name"]: each.get("value", "") for each in (inputs_or_outputs or {}).get("parameters", [])}


def nodes_of(manifest: Mapping[str, Any]) -> Nodes:
    """Returns the nodes of a workflow by id, which Argo compresses once the workflow has grown beyond 1 MB."""
    status = manifest.get("status") or {}
    if packed := status.get("compressedNodes"):
        return json.loads(gzip.decompress(base64.b64decode(packed)))
    return status.get("nodes") or {}


def _newest_attempts(nodes: Iterator[Steps]) -> dict[Place, tuple[int, ...]]:
    """Returns the newest attempt of everything that other nodes stand below."""
    newest: dict[Place, tuple[int, ...]] = {}
    for steps in nodes:
        for length in range(1, len(steps)):
            place = tuple(name for name, _ in steps[:length])
            newest[place] = max(newest.get(place, ()), tuple(attempt for _, attempt in steps[:length]))
    return newest


def _is_current(steps: Steps, newest: Mapping[Place, tuple[int, ...]]) -> bool:
    """Returns whether a node belongs to the newest attempt of all that it stands below."""
    return all(
        newest[tuple(name for name, _ in steps[:length])] == tuple(attempt for _, attempt in steps[:length])
        for length in range(1, len(steps))
    )
