"""What runs anew because image or code changed since an earlier run: Kubeflow's cache keys hold both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


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
    graphs = [spec["root"]["dag"], *(each["dag"] for each in components.values() if "dag" in each)]
    for name, task in (item for graph in graphs for item in graph["tasks"].items()):
        label = components[task["componentRef"]["name"]].get("executorLabel")
        if label and task.get("cachingOptions", {}).get("enableCache"):
            code = task.get("inputs", {}).get("parameters", {}).get("code_digest", {})
            yield name, (executors[label]["container"]["image"], code.get("runtimeValue", {}).get("constant"))
