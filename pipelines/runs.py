"""Runs and their tasks, read from Kubeflow's answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

FINISHED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
"""States of a run that has ended."""


@dataclass(frozen=True)
class Task:
    """A task of a run as a person sees it: an iteration of a loop is a task of its own.

    Attributes:
        name: Such as "train-teacher".
        state: Kubeflow's name for it: PENDING, RUNNING, SUCCEEDED, SKIPPED, FAILED, CANCELED.
        pods: Its pods, the last attempt last.
        error: Kubeflow's message about its failure; "" without one.
    """

    name: str
    state: str
    pods: tuple[str, ...]
    error: str


@dataclass(frozen=True)
class Run:
    """A run at the moment when it was read.

    Attributes:
        run_id: Kubeflow's id of the run.
        name: Its name for people.
        pipeline: Name of its pipeline.
        state: Its state, named as that of a `Task`.
        tasks: Its tasks in the order in which they began.
        error: Kubeflow's message about its failure; "" without one.
        root: Address below which it was set to write its artifacts; "" if none was set.
    """

    run_id: str
    name: str
    pipeline: str
    state: str
    tasks: tuple[Task, ...]
    error: str
    root: str


def pipeline_of(raw: Any) -> dict[str, Any]:
    """Returns the pipeline in Kubeflow's model of a run; empty for a run that was started from the form."""
    spec = raw.pipeline_spec or {}
    return spec.get("pipeline_spec", spec)  # it comes with or without the part for Kubernetes


def read_run(raw: Any) -> Run:
    """Reads Kubeflow's model of a run."""
    spec = pipeline_of(raw)
    return Run(
        run_id=raw.run_id,
        name=raw.display_name or "",
        pipeline=spec.get("pipelineInfo", {}).get("name", ""),
        state=raw.state or "PENDING",
        tasks=tuple(_tasks((raw.run_details.task_details if raw.run_details else None) or [], _task_names(spec))),
        error=raw.error.message or "" if raw.error else "",
        root=raw.runtime_config.pipeline_root or "" if raw.runtime_config else "",
    )


def _tasks(nodes: list[Any], names: set[str]) -> Iterator[Task]:
    """Yields the tasks of a run.

    Kubeflow lists every node of the workflow. The nodes named like a task of the pipeline are the tasks; the pods that
    do their work are below them.
    """
    by_pod = {node.pod_name: node for node in nodes if node.pod_name}
    found = [node for node in nodes if node.display_name in names]
    for node in sorted(found, key=lambda node: str(node.start_time or node.create_time or "")):
        yield Task(
            name=node.display_name,
            state=node.state or "PENDING",
            pods=tuple(_pods(node, by_pod)),
            error=node.error.message or "" if node.error else "",
        )


def _pods(node: Any, by_pod: Mapping[str, Any]) -> Iterator[str]:
    """Yields the pods at the ends of the branches below a node."""
    for child in node.child_tasks or []:
        below = by_pod.get(child.pod_name)
        if below is not None and below.child_tasks:
            yield from _pods(below, by_pod)
        elif child.pod_name:
            yield child.pod_name


def _task_names(spec: Mapping[str, Any]) -> set[str]:
    """Returns the names of all tasks that do something, those in loops included, loops themselves not."""
    components = spec.get("components", {})
    dags = [spec.get("root", {}).get("dag", {}), *(each["dag"] for each in components.values() if "dag" in each)]
    return {
        name
        for dag in dags
        for name, task in dag.get("tasks", {}).items()
        if "dag" not in components.get(task["componentRef"]["name"], {})
    }
