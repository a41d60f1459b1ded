"""Results in Kubeflow's cache whose files are gone from the store: the cache does not look whether they still exist."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from typing import Any

from components.catlib.artifacts import MANIFEST
from components.catlib.errors import UserError
from components.catlib.storage import Storage, is_in_object_store
from components.catlib.storage.settings import store_out_of_sight
from pipelines.preflight import LOOKING_SECONDS, Finding, doubtful
from pipelines.tasks import STAGE_OF_TASK
from pipelines.workflows import nodes_of

_ADDRESS = re.compile(r"\w+://[^\"\\\s,]+/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/([\w-]+)/[\w-]+/\w+\b")
"""Address of an artifact, ROOT/PIPELINE/RUN/TASK/ID/NAME, with the name of the task that made it."""


def lost_results(name: str, workflow: Mapping[str, Any], *, made_anew: Container[str] = ()) -> Iterator[Finding]:
    """Yields the tasks of an earlier run whose results the cache may answer with, though the store has lost them.

    Nothing is yielded where the store cannot be asked from this machine.

    Args:
        name: The earlier run's.
        workflow: Its workflow, as Kubeflow's API hands it out.
        made_anew: Stages that do not count, because they run anew.
    """
    if store_out_of_sight():
        return
    store, seen = Storage(patience=LOOKING_SECONDS), set()
    for task, address in read_artifacts(workflow):
        if task in seen or STAGE_OF_TASK[task] in made_anew:
            continue
        try:
            there = store.is_file(f"{address}/{MANIFEST}")
        except UserError:  # these credentials are for another store or bucket than Kubeflow's
            return
        if not there:
            seen.add(task)
            yield doubtful(
                f"The result of {task} in run {name} ({address}) is gone from the store, but Kubeflow's cache may "
                f"still answer with it, and then this run fails; add --no-cache {task} to make it anew."
            )


def read_artifacts(workflow: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the artifacts that tasks of a run read, each with the task that made it; they existed once.

    What a task writes does not count, because the task may have failed.

    Args:
        workflow: The run's workflow.
    """
    found = set()
    for node in nodes_of(workflow).values():
        own = re.sub(r"-driver(\(\d+\))?$", "", node.get("displayName", ""))
        for output in (node.get("outputs") or {}).get("parameters") or []:
            for address in _ADDRESS.finditer(output.get("value", "") if output["name"] == "pod-spec-patch" else ""):
                if address[1] != own and address[1] in STAGE_OF_TASK and is_in_object_store(address[0]):
                    found.add((address[1], address[0]))
    return sorted(found)
