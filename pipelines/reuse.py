"""What a run would take from Kubeflow's cache: its tasks, compared with those of an earlier run of the pipeline.

A task's result is in the cache if it had the same image, code and parameters, and read results that are there too.
Only one earlier run is compared, and no store is asked: the cache may know results of others, and may name results that
are gone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.catlib.config.dotted import leaves
from pipelines.stage_plan import in_order, labels, points_of_sweep

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """A task, in a loop that of one round.

    Attributes:
        key: Name of the task and the loop's item, which tell steps of several runs apart.
        name: The same for people: "train-teacher", in a loop "prune-teacher 0.3x".
        image: Its image, and the digest of its code.
        given: Value of every parameter, by the name under which the pipeline has it.
        reads: Keys of the steps whose artifacts it reads.
        keeps: Whether its result goes into the cache at all.
    """

    key: str
    name: str
    image: tuple[str, str]
    given: Values
    reads: frozenset[str]
    keeps: bool


@dataclass
class Reuse:
    """What a run takes from the cache.

    Attributes:
        cached: Names of steps whose results an earlier run has left.
        executed: Those of the others.
        reasons: Why some of these cannot come from the cache whatever they read: a sentence each.
    """

    cached: list[str] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def compare(earlier: Mapping[str, Any], before: Values, spec: Mapping[str, Any], arguments: Values) -> Reuse:
    """Compares a run with an earlier one.

    Args:
        earlier: The earlier run's pipeline.
        before: Values of its parameters; the others had their defaults.
        spec: The pipeline of the run to be.
        arguments: Values of its parameters.
    """
    there, made = {step.key: step for step in steps(earlier, before)}, Reuse()
    anew: set[str] = set()
    reasons: dict[str, list[str]] = {}
    for step in steps(spec, arguments):
        old = there.get(step.key)
        different = ["the earlier run has no such task"] if old is None else list(_differences(old, step))
        if step.keeps and not different and not step.reads & anew:
            made.cached.append(step.name)
            continue
        made.executed.append(step.name)
        anew.add(step.key)
        for reason in different if step.keeps else ():
            reasons.setdefault(reason, []).append(step.name)
    made.reasons = [f"{', '.join(names)}: {reason}." for reason, names in reasons.items()]
    return made


def steps(spec: Mapping[str, Any], arguments: Values) -> list[Step]:
    """Returns the steps of a pipeline, each after those that it reads from."""
    defined = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    values = {name: each.get("defaultValue") for name, each in defined.items()} | dict(arguments)
    return list(_steps(spec, spec["root"]["dag"]["tasks"], values, {}, ("", "")))


def _steps(
    spec: Mapping[str, Any],
    tasks: Mapping[str, Any],
    values: Values,
    outside: Mapping[str, str],
    round_: tuple[str, str],
) -> Iterator[Step]:
    """Yields the steps of a graph; `round_` is the item of the loop around it, as a key and for people."""
    for name in in_order(tasks):
        task = tasks[name]
        component = spec["components"][task["componentRef"]["name"]]
        reads = {each: _producer(source, outside, round_[0]) for each, source in _inputs(task, "artifacts")}
        given = {each: _value(source, values) for each, source in _inputs(task, "parameters")}
        if "dag" not in component:
            container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
            code = str(given.pop("code_digest", "")).partition("+")[0]
            keeps = bool(task.get("cachingOptions", {}).get("enableCache"))
            key, shown = (f"{name} {text}".strip() for text in round_)
            read = frozenset(reads.values())
            yield Step(key, shown, (container["image"], code), _named(task, given), read, keeps)
            continue
        loop = task["parameterIterator"]
        items, beside = _items(loop["items"], task, tasks, values, given)
        for item, shown in zip(items, labels(items), strict=True):
            key = item if isinstance(item, str) else json.dumps(item, sort_keys=True)
            whole = {**item, **beside} if isinstance(item, dict) else item
            yield from _steps(spec, component["dag"]["tasks"], given | {loop["itemInput"]: whole}, reads, (key, shown))


def _items(
    source: Mapping[str, Any], task: Mapping[str, Any], tasks: Mapping[str, Any], values: Values, given: Values
) -> tuple[list[Any], Values]:
    """Returns the items of a loop and what all of them also hold.

    The items of a sweep are listed in the run, by its first task, which fills in the rest of the section `distill`.
    """
    if "raw" in source:
        return json.loads(source["raw"]), {}
    name = source["inputParameter"]
    if isinstance(items := given.get(name), list):
        return items, {}
    producer = task["inputs"]["parameters"][name].get("taskOutputParameter", {}).get("producerTask")
    return points_of_sweep(tasks.get(producer), values) or [], {"distill": values.get("distill")}


def _inputs(task: Mapping[str, Any], kind: str) -> list[tuple[str, Mapping[str, Any]]]:
    return list(task.get("inputs", {}).get(kind, {}).items())


def _producer(source: Mapping[str, Any], outside: Mapping[str, str], item: str) -> str:
    """Returns the key of the step that makes an artifact; a loop's name if all of its rounds do."""
    if "taskOutputArtifact" in source:
        return f"{source['taskOutputArtifact']['producerTask']} {item}".strip()
    return outside.get(source.get("componentInputArtifact", ""), "")


def _value(source: Mapping[str, Any], values: Values) -> Any:
    """Returns the value of a parameter; None for one that is made during the run."""
    if "runtimeValue" in source:
        return source["runtimeValue"].get("constant")
    value = values.get(source.get("componentInputParameter", ""))
    if source.get("parameterExpressionSelector") and isinstance(value, Mapping):
        part = re.search(r'\["([^"]+)"\]', source["parameterExpressionSelector"])
        return value.get(part[1]) if part else value
    return value


def _named(task: Mapping[str, Any], given: Values) -> dict[str, Any]:
    """Returns values by the name that people know; numbers as floats, because Kubeflow keeps no others."""
    named = {}
    for own, value in given.items():
        name = task["inputs"]["parameters"][own].get("componentInputParameter", own).removeprefix("pipelinechannel--")
        named[own if name.endswith("-loop-item") else name] = json.loads(json.dumps(value), parse_int=float)
    return named


def _differences(old: Step, new: Step) -> Iterator[str]:
    if old.image[0] != new.image[0]:
        yield f"the image is {new.image[0]}, and was {old.image[0]}"
    if old.image[1] != new.image[1]:
        yield "the code is another"
    if old.reads != new.reads:
        yield "the inputs are others"
    for name in dict.fromkeys([*new.given, *old.given]):
        now, before = dict(leaves(new.given.get(name), name)), dict(leaves(old.given.get(name), name))
        for path in dict.fromkeys([*now, *before]):
            if now.get(path) != before.get(path):
                yield f"{path} is {_shown(now.get(path))}, and was {_shown(before.get(path))}"


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "not set"
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
