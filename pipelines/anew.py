"""What runs anew: because image or code changed since an earlier run, or because somebody wants it.

Kubeflow's cache keys hold the image and the digest of a stage's code. A stage that is to run anew gets a mark behind
that digest. Kubeflow's own switch would not do: it keeps the new result out of the cache, which would then go on
answering with the old one.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from components.catlib.code_digest import code_digest
from components.catlib.errors import UserError
from pipelines.tasks import STAGE_OF_TASK


def marks(names: Iterable[str], spec: Mapping[str, Any]) -> dict[str, str]:
    """Returns a new mark for every stage that is to run anew.

    Args:
        names: Names of stages or of their tasks, such as teacher or train-teacher.
        spec: The pipeline.

    Raises:
        UserError: The pipeline has no such stage.
    """
    there = {STAGE_OF_TASK[name] for name in _codes(spec)}
    found = {}
    for name in names:
        stage = STAGE_OF_TASK.get(name, name.replace("-", "_"))
        if stage not in there:
            tasks = ", ".join(task for task, each in STAGE_OF_TASK.items() if each in there)
            raise UserError(f"--no-cache {name} names no task of this pipeline; it has {tasks}.")
        found[stage] = uuid.uuid4().hex[:8]
    return found


def earlier_marks(spec: Mapping[str, Any]) -> dict[str, str]:
    """Returns the marks of an earlier run's stages, without which the cache would answer with still earlier results."""
    found = {}
    for task, code in _codes(spec).items():
        digest, _, mark = code.partition("+")
        if mark and digest == code_digest(STAGE_OF_TASK[task]):
            found[STAGE_OF_TASK[task]] = mark
    return found


def marked(digest: Callable[[str], str], marks: Mapping[str, str]) -> Callable[[str], str]:
    """Returns the function that gives the digests of stages' code with their marks."""
    return lambda stage: f"{digest(stage)}+{marks[stage]}" if stage in marks else digest(stage)


def _codes(spec: Mapping[str, Any]) -> dict[str, str]:
    """Returns the digest of the code, with its mark, by task; the second task of a kind is left out."""
    return {name: code for name, task in _tasks(spec) if name in STAGE_OF_TASK and (code := _code(task))}


def _tasks(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for graph in (spec["root"]["dag"], *(each["dag"] for each in spec["components"].values() if "dag" in each)):
        yield from graph["tasks"].items()


def _code(task: Mapping[str, Any]) -> str | None:
    """Returns the digest of a task's code, with its mark; None if it has none."""
    given = task.get("inputs", {}).get("parameters", {}).get("code_digest", {})
    return given.get("runtimeValue", {}).get("constant")


def changes_since(name: str, earlier: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    """Returns a sentence about the stages whose results of an earlier run cannot come from the cache; "" without any.

    Settings and inputs are not compared, nor is the report, which always runs.

    Args:
        name: The earlier run's.
        earlier: Its pipeline.
        spec: The pipeline of the run to be.
    """
    before, after = dict(_keys(earlier)), dict(_keys(spec))
    common = [task for task in after if task in before]
    image = [task for task in common if before[task][0] != after[task][0]]
    code = [task for task in common if task not in image and before[task][1] != after[task][1]]
    reasons = []
    if image:
        reasons.append(f"the image is {after[image[0]][0]}, and was {before[image[0]][0]} ({', '.join(image)})")
    if code:
        reasons.append(f"the code of {', '.join(code)} is another")
    if not reasons:
        return ""
    return f"Not from the cache of run {name}, with all that reads their results: {'; '.join(reasons)}."


def _keys(spec: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Yields name, image and digest of the code of every task whose result may come from the cache."""
    components, executors = spec["components"], spec["deploymentSpec"]["executors"]
    for name, task in _tasks(spec):
        label = components[task["componentRef"]["name"]].get("executorLabel")
        if label and task.get("cachingOptions", {}).get("enableCache"):
            digest = _code(task)
            yield name, (executors[label]["container"]["image"], digest and digest.partition("+")[0])
