"""The stages that a run's pipeline plans, those of every round of a loop by themselves."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.catlib.config.dotted import leaves
from components.catlib.config.sweep import STEP_SECONDS
from pipelines.workflows import Place, Workflow


@dataclass(frozen=True)
class Planned:
    """A stage of the run.

    Attributes:
        place: Where its nodes stand in the workflow.
        task: Name of its task: "distill-student".
        round: What its round of the loop is about: "0.2x"; "" outside of loops.
    """

    place: Place
    task: str
    round: str


@dataclass(frozen=True)
class StagePlan:
    """All stages of a run, in an order in which they may run.

    Attributes:
        stages: The stages. Those of a loop whose rounds are unknown yet are missing.
        complete: Whether the rounds of every loop are known.
    """

    stages: tuple[Planned, ...]
    complete: bool


def plan_stages(workflow: Workflow) -> StagePlan:
    """Lists the stages of a run from the pipeline that its workflow holds."""
    missing: list[Place] = []
    stages = tuple(_stages(workflow, (), workflow.component("root"), workflow.parameters(), "", missing))
    return StagePlan(stages, complete=not missing)


def _stages(
    workflow: Workflow,
    place: Place,
    graph: Mapping[str, Any],
    values: Mapping[str, Any],
    label: str,
    missing: list[Place],
) -> Iterator[Planned]:
    tasks = graph.get("dag", {}).get("tasks", {})
    for name in in_order(tasks):
        task, here = tasks[name], (*place, name)
        below = workflow.component(task["componentRef"]["name"])
        if "dag" not in below:
            yield Planned(here, name, label)
            continue
        given = _given(task, values)
        loop = task.get("parameterIterator")
        if not loop:
            yield from _stages(workflow, here, below, given, label, missing)
            continue
        rounds = _rounds(workflow, here, tasks, values)
        if rounds is None:
            missing.append(here)
        for number, (item, about) in enumerate(rounds or ()):
            inner = given | {loop["itemInput"]: item}
            yield from _stages(workflow, (*here, number), below, inner, f"{label} {about}".strip(), missing)


def _rounds(
    workflow: Workflow, place: Place, tasks: Mapping[str, Any], values: Mapping[str, Any]
) -> list[tuple[Any, str]] | None:
    """Returns item and label of every round of a loop; None as long as nobody knows them."""
    task = tasks[str(place[-1])]
    source = task["parameterIterator"]["items"]
    if "raw" in source:
        items = json.loads(source["raw"])
    else:
        name = source["inputParameter"]
        items = _given(task, values).get(name)
        if items is None:
            produced = task["inputs"]["parameters"][name].get("taskOutputParameter", {})
            items = points_of_sweep(tasks.get(produced.get("producerTask")), values)
    if items is not None:
        return list(zip(items, labels(items), strict=True))
    driver = workflow.node((*place, "iteration-driver"))
    count = driver.outputs.get("iteration-count", "") if driver else ""
    return [(None, f"#{number}") for number in range(1, int(count) + 1)] if count else None


def points_of_sweep(producer: Mapping[str, Any] | None, values: Mapping[str, Any]) -> list[Any] | None:
    """Returns what the rounds of a sweep are about; its first task lists them in the same order."""
    if producer is None or producer["componentRef"]["name"] != "comp-plan-sweep":
        return None
    asked = _given(producer, values)
    grid: list[Any] = [asked.get(name) for name in ("budgets", "variations", "seeds")]
    if not all(isinstance(each, list) for each in grid):
        return None
    budgets, variations, seeds = grid
    told = [{key: value for key, value in each.items() if key != STEP_SECONDS} for each in variations]
    return [{"budget": budget, **each, "seed": seed} for budget, each, seed in itertools.product(budgets, told, seeds)]


def labels(items: Sequence[Any]) -> list[str]:
    """Returns what to call the rounds of a loop: "0.2x", or "0.2x seed=1" where rounds differ in other things too."""
    flat = [_flat(item) for item in items]
    keys = dict.fromkeys(key for each in flat for key in each if key not in ("", "budget"))
    differing = [
        key
        for key in sorted(keys, key=lambda key: key == "seed")
        if len({json.dumps(each.get(key)) for each in flat}) > 1
    ]
    texts = []
    for each in flat:
        words = [each.get("", each.get("budget", ""))]
        words += [f"{key}={each[key]}" for key in differing if key in each]
        texts.append(" ".join(str(word) for word in words if word != ""))
    seen, total = Counter[str](), Counter(texts)
    for index, text in enumerate(texts):
        seen[text] += 1
        if total[text] > 1:
            texts[index] = f"{text} #{seen[text]}".strip()
    return texts


def _flat(item: Any) -> dict[str, Any]:
    named = leaves(item)
    return {name: f"{value:g}" if isinstance(value, float) else value for name, value in named if value != {}}


def _given(task: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a task's inputs; None for those that are made during the run."""
    found: dict[str, Any] = {}
    for name, source in task.get("inputs", {}).get("parameters", {}).items():
        if "runtimeValue" in source:
            found[name] = source["runtimeValue"].get("constant")
        elif "parameterExpressionSelector" in source:
            found[name] = None  # a part of a value
        else:
            found[name] = values.get(source.get("componentInputParameter", ""))
    return found


def in_order(tasks: Mapping[str, Any]) -> list[str]:
    """Returns the names of tasks so that every task stands after those that it needs, in the same order every time.

    A pipeline's file and Kubeflow's answers hold tasks in any order (a protobuf map), so names decide between equals.
    """
    ordered: list[str] = []
    left = sorted(tasks)
    while left:
        ready = next((name for name in left if not set(tasks[name].get("dependentTasks", ())) & set(left)), left[0])
        ordered.append(ready)
        left.remove(ready)
    return ordered
