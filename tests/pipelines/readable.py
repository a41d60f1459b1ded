"""Compiled pipelines and recipes in a form that a person reads.

Nothing is left out: each function takes apart what it is given and refuses what it does not know.
"""

import copy
import re
import typing
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from components.catlib.config import Recipe

CHANNEL = "pipelinechannel--"


def nothing_left(rest: dict[str, Any]) -> None:
    assert rest == {}, f"unknown in a compiled pipeline: {rest}"


# ----------------------------------------------------------------------------------------------------------- structure


def structure(spec: dict[str, Any], *, name: str, description: str) -> dict[str, Any]:
    """Returns what a pipeline does, whatever the recipe.

    Args:
        spec: The compiled pipeline.
        name: The recipe's, which becomes "{name}".
        description: The recipe's, which becomes "{description}".
    """
    spec = copy.deepcopy(spec)
    assert spec.pop("schemaVersion") == "2.1.0"
    assert spec.pop("sdkVersion").startswith("kfp-2.17.")
    spec.pop("deploymentSpec")
    info, components, root = (spec.pop(key) for key in ("pipelineInfo", "components", "root"))
    nothing_left(spec)
    title = info.pop("displayName").replace(name, "{name}")
    said = info.pop("description").replace(description, "{description}")
    parameters = root.pop("inputDefinitions").pop("parameters")
    defined = root.pop("outputDefinitions").pop("artifacts")
    assert list(defined) == ["Output"]
    (selector,) = root["dag"].pop("outputs")["artifacts"]["Output"].pop("artifactSelectors")
    read = {
        "name": info.pop("name"),
        "title": title,
        "description": said,
        "parameters": {key: _definition(value, defaults=True) for key, value in sorted(parameters.items())},
        "tasks": _tasks(root.pop("dag").pop("tasks"), components, outside={}),
        "output": f"{selector['producerSubtask']}.{selector['outputArtifactKey']}, {_definition(defined['Output'])}",
    }
    nothing_left(info)
    nothing_left(root)
    return read


def interfaces(spec: dict[str, Any]) -> dict[str, Any]:
    """Returns what every component takes and gives; the same component twice in a pipeline is one."""
    found: dict[str, Any] = {}
    for name, component in copy.deepcopy(spec["components"]).items():
        if "dag" in component:
            continue
        label = component.pop("executorLabel")
        assert label == name.replace("comp-", "exec-", 1)
        interface = {
            side: {
                key: _definition(value)
                for kind in ("artifacts", "parameters")
                for key, value in sorted(definitions.pop(kind, {}).items())
            }
            for side, definitions in (
                ("inputs", component.pop("inputDefinitions")),
                ("outputs", component.pop("outputDefinitions")),
            )
        }
        nothing_left(component)
        assert found.setdefault(component_name(name), interface) == interface
    return found


def component_name(label: str) -> str:
    """Returns the name of a component without Kubeflow's prefix and number."""
    return re.sub(r"^(comp|exec)-|-\d+$", "", label)


def _definition(value: dict[str, Any], *, defaults: bool = False) -> str:
    """Returns type and description of a parameter or an artifact as one line."""
    if "artifactType" in value:
        artifact = value.pop("artifactType")
        assert artifact.pop("schemaVersion") == "0.0.1"
        words = [artifact.pop("schemaTitle")]
        nothing_left(artifact)
    else:
        words = [value.pop("parameterType")]
    if value.pop("isArtifactList", False):
        words[0] = f"list of {words[0]}"
    optional = value.pop("isOptional", False)
    if defaults:
        words += [] if optional else ["required"]
        assert ("defaultValue" in value) == optional
        value.pop("defaultValue", None)
    elif optional:
        words.append("optional" if value.get("defaultValue") is None else f"default {value['defaultValue']!r}")
        value.pop("defaultValue", None)
    description = value.pop("description", "")
    nothing_left(value)
    return ", ".join(words) + (f": {description}" if description else "")


def _tasks(tasks: dict[str, Any], components: dict[str, Any], outside: dict[str, str]) -> dict[str, Any]:
    """Returns the tasks of a graph or of a loop.

    Args:
        tasks: As compiled.
        components: All components of the pipeline.
        outside: What a loop's inputs are, by their names.
    """
    loops = {name: task["taskInfo"]["name"] for name, task in tasks.items() if "parameterIterator" in task}
    outputs = {
        (name, key): f"{loops[name]}[*].{selector['producerSubtask']}.{selector['outputArtifactKey']}"
        for name in loops
        for key, value in components[tasks[name]["componentRef"]["name"]]["dag"]["outputs"]["artifacts"].items()
        for selector in value["artifactSelectors"]
    }
    return {loops.get(name, name): _task(name, task, components, outputs, outside) for name, task in tasks.items()}


def _task(
    name: str,
    task: dict[str, Any],
    components: dict[str, Any],
    outputs: dict[tuple[str, str], str],
    outside: dict[str, str],
) -> dict[str, Any]:
    producers: set[str] = set()
    given = task.pop("inputs")
    inputs = {
        key: _source(value, producers, outputs, outside)
        for kind in ("artifacts", "parameters")
        for key, value in sorted(given.pop(kind, {}).items())
    }
    nothing_left(given)
    waits_for = set(task.pop("dependentTasks", []))
    assert producers <= waits_for, f"{name} does not wait for what it reads"
    after = sorted(waits_for - producers)
    task.pop("retryPolicy", None)  # belongs to the placement
    label = task.pop("taskInfo").pop("name")
    component = task.pop("componentRef").pop("name")
    if "parameterIterator" in task:
        iterator = task.pop("parameterIterator")
        item = iterator.pop("itemInput")
        values = inputs[iterator.pop("items").pop("inputParameter")]
        nothing_left(iterator)
        read: dict[str, Any] = {"for each item of": values}
        if parallel := task.pop("iteratorPolicy", None):
            read["at a time"] = parallel["parallelismLimit"]
        inside = components[component]["dag"]["tasks"]
        read["tasks"] = _tasks(inside, components, inputs | {item: "item"})
    else:
        assert label == name
        read = {} if component == f"comp-{name}" else {"component": component_name(component)}
        read |= {"cached": task.pop("cachingOptions").pop("enableCache", False), "inputs": inputs}
        read |= {"after": after} if after else {}
    nothing_left(task)
    return read


def _source(
    value: dict[str, Any], producers: set[str], outputs: dict[tuple[str, str], str], outside: dict[str, str]
) -> str:
    """Returns where an input comes from, and notes the task that makes it."""
    part = value.pop("parameterExpressionSelector", "")
    field = re.fullmatch(r'parseJson\(string_value\)\["(\w+)"\]', part)
    assert bool(field) == bool(part)
    ((kind, source),) = value.items()
    match kind:
        case "componentInputParameter" | "componentInputArtifact":
            where = outside[source] if source.startswith(CHANNEL) else f"parameter {source}"
        case "taskOutputParameter" | "taskOutputArtifact":
            task, key = source["producerTask"], source[kind.replace("task", "").replace("O", "o", 1) + "Key"]
            producers.add(task)
            where = outputs.get((task, key), f"{task}.{key}")
        case "runtimeValue":
            where = repr(source["constant"])
        case _:
            raise AssertionError(kind)
    return f"{where}.{field.group(1)}" if field else where


# ----------------------------------------------------------------------------------------------------------- placement


def placement(spec: dict[str, Any], platform: dict[str, Any]) -> dict[str, Any]:
    """Returns what every component gets on a cluster, and the limits of a run."""
    spec, platform = copy.deepcopy(spec), copy.deepcopy(platform)
    kubernetes = platform.pop("platforms").pop("kubernetes")
    nothing_left(platform)
    given = kubernetes.pop("deploymentSpec").pop("executors")
    retries = {
        task["componentRef"]["name"].replace("comp-", "exec-", 1): task.get("retryPolicy")
        for graph in [spec["root"], *spec["components"].values()]
        for task in graph.get("dag", {}).get("tasks", {}).values()
    }
    read: dict[str, Any] = {}
    for label, executor in spec["deploymentSpec"]["executors"].items():
        container = executor["container"]
        found = {
            **_quantities(container.pop("resources")),
            "retries": retries[label],
            "environment": {each["name"]: each["value"] for each in container.get("env", [])},
            **_kubernetes(given.pop(label)),
        }
        assert read.setdefault(component_name(label), found) == found
    nothing_left(given)
    limits = kubernetes.pop("pipelineConfig")
    nothing_left(kubernetes)
    return {"run": limits, "tasks": read}


def _quantities(resources: dict[str, Any]) -> dict[str, Any]:
    read = {"cpu": resources.pop("resourceCpuRequest"), "memory": resources.pop("resourceMemoryLimit")}
    assert resources.pop("resourceMemoryRequest") == read["memory"]
    assert resources.pop("cpuRequest") == float(read["cpu"])
    gib = int(read["memory"].removesuffix("Gi"))
    assert resources.pop("memoryRequest") == resources.pop("memoryLimit") == gib * 2**30 / 1e9
    if accelerator := resources.pop("accelerator", None):
        count, kind = accelerator.pop("count"), accelerator.pop("type")
        assert accelerator == {"resourceCount": count, "resourceType": kind}
        read["accelerators"] = f"{count} × {kind}"
    nothing_left(resources)
    return read


def _kubernetes(given: dict[str, Any]) -> dict[str, Any]:
    read = {"seconds": given.pop("activeDeadlineSeconds")}
    for secret in given.pop("secretAsEnv"):
        variables = [pair["envVar"] for pair in secret.pop("keyToEnv") if pair["envVar"] == pair["secretKey"]]
        name, optional = secret.pop("secretName"), secret.pop("optional")
        assert secret == {"secretNameParameter": {"runtimeValue": {"constant": name}}}
        read[f"secret {name}{', optional' if optional else ''}"] = " ".join(variables)
    for key in ("securityContext", "emptyDirMounts", "tolerations", "nodeSelector"):
        if key in given:
            read[key] = given.pop(key)
    nothing_left(given)
    return read


# ------------------------------------------------------------------------------------------------------------- recipes


def defaults(recipe: Recipe) -> dict[str, Any]:
    """Returns every default: those of a recipe without settings, and those of models that it does not contain."""
    sections = recipe.model_dump(mode="json")
    used = {type(model) for model in _models_in(recipe)}
    further = {
        model.__name__: {
            name: _plain(field.get_default(call_default_factory=True))
            for name, field in sorted(model.model_fields.items())
            if not field.is_required()
        }
        for model in _models_of(Recipe)
        if model not in used
    }
    return {"sections": sections, "further": dict(sorted(further.items()))}


def _models_in(model: BaseModel) -> list[BaseModel]:
    values = [getattr(model, name) for name in type(model).model_fields]
    listed = [item for value in values for item in (value if isinstance(value, tuple) else [value])]
    return [model, *(each for value in listed if isinstance(value, BaseModel) for each in _models_in(value))]


def _models_of(annotation: Any) -> list[type[BaseModel]]:
    """Returns the models that an annotation admits, and those that these contain, each once."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        inner = [each for field in annotation.model_fields.values() for each in _models_of(field.annotation)]
        return list(dict.fromkeys([annotation, *inner]))
    return list(dict.fromkeys(each for argument in typing.get_args(annotation) for each in _models_of(argument)))


def differences(model: BaseModel, default: BaseModel | None = None) -> dict[str, Any]:
    """Returns the settings of a model that differ from the defaults.

    Args:
        model: A recipe, or a part of one.
        default: What the model would be without the recipe; None: the model's own defaults.
    """
    found: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        usual = _default(field) if default is None else getattr(default, name)
        if not isinstance(value, BaseModel):
            if value != usual:
                found[name] = _plain(value)
        elif type(value) is type(usual):
            if inner := differences(value, usual):
                found[name] = inner
        else:
            choices = [each for each in typing.get_args(field.annotation) if each is not type(None)]
            kind = {"model": type(value).__name__} if len(choices) > 1 else {}
            found[name] = kind | differences(value)
    return found


def _default(field: FieldInfo) -> Any:
    return PydanticUndefined if field.is_required() else field.get_default(call_default_factory=True)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
