"""Workflows as Argo writes them while a pipeline runs, for states that no recording holds.

`test_argo` holds what is made here against the recorded workflows, node by node.
"""

import base64
import gzip
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

OMITTED = "omitted: depends condition not met"
CACHED = "when 'true != true' evaluated false"
ENDED = ("Succeeded", "Failed", "Error")


@dataclass(frozen=True)
class Stage:
    """What happened to a stage.

    Attributes:
        phase: Of its last pod: Pending, Running, Succeeded, Failed, Error; Cached: there is none; Omitted: not even a
            driver; Driver: its driver has the phase `driver` and nothing follows.
        message: Argo's message on the last pod.
        earlier: Messages of earlier attempts, which failed.
        retry: Argo's message on the node that holds the attempts; None: that of the last pod.
        driver: Phase of its driver.
    """

    phase: str
    message: str = ""
    earlier: tuple[str, ...] = ()
    retry: str | None = None
    driver: str = "Succeeded"


Stages = Mapping[str, Stage | str]
"""Stage, with the number of the loop's round where it is in one ("prune-teacher 1"), -> what happened to it."""


def waiting(*earlier: str, pause: str = "1 minute 0 seconds") -> Stage:
    """A stage whose attempts have failed, before its next one."""
    return Stage("Running", earlier=earlier, retry=f"Backoff for {pause}")


@dataclass
class Workflow:
    """Makes the manifest of a workflow.

    Attributes:
        graphs: "root" and every component that is a graph -> its part of the pipeline.
        values: Values of the pipeline's parameters.
        stages: What happened so far.
        run_id: Kubeflow's id of the run.
        over: Whether the run has ended; what has not begun is left out then.
        name: Of the workflow.
        wrapped: Whether the cluster lets everything be tried again, as Kubeflow's own manifests do.
        root: Address below which the run writes.
        pipeline: Name of the pipeline.
        namespace: Namespace of the pods.
    """

    graphs: Mapping[str, Any]
    values: Mapping[str, Any]
    stages: Stages
    run_id: str
    over: bool
    name: str = "compress-abcde"
    wrapped: bool = True
    root: str = "minio://mlpipeline/v2/artifacts"
    pipeline: str = "compress"
    namespace: str = "kubeflow"
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def manifest(self, *, message: str = "", compressed: bool = False) -> dict[str, Any]:
        """Returns the manifest.

        Args:
            message: Argo's message on the whole workflow.
            compressed: Whether it has grown so large that Argo has compressed its nodes.
        """
        self.nodes.clear()
        phase = self._entrypoint()
        nodes: dict[str, Any] = {"nodes": self.nodes}
        if compressed:
            nodes = {"compressedNodes": base64.b64encode(gzip.compress(json.dumps(self.nodes).encode())).decode()}
        given = {"name": "runtime-config", "value": json.dumps({"parameterValues": dict(self.values)})}
        driver = {"name": "root-driver", "template": "system-dag-driver", "arguments": {"parameters": [given]}}
        return {
            "metadata": {
                "name": self.name,
                "generateName": f"{self.pipeline}-",
                "namespace": self.namespace,
                "labels": {"pipeline/runid": self.run_id},
                "annotations": {"workflows.argoproj.io/pod-name-format": "v2"},
            },
            "spec": {
                "arguments": {
                    "parameters": [
                        {"name": f"components-{name}", "value": json.dumps(graph)}
                        for name, graph in self.graphs.items()
                    ]
                },
                "templates": [{"name": "entrypoint", "dag": {"tasks": [driver]}}],
            },
            "status": {"phase": phase, **({"message": message} if message else {}), **nodes},
        }

    # ----------------------------------------------------------------------------------------------------------- nodes

    def _node(self, name: str, kind: str, template: str, phase: str, message: str = "", **more: Any) -> None:
        around = name.rpartition(".")[0]
        if around:
            more["boundaryID"] = self._id(around)
        if phase in ENDED:
            more["finishedAt"] = "2026-01-01T00:01:00Z"
        self.nodes[self._id(name)] = {
            "id": self._id(name),
            "name": name,
            "displayName": name.rpartition(".")[2],
            "type": kind,
            "templateName": template,
            "phase": phase,
            **({"message": message} if message else {}),
            "startedAt": "2026-01-01T00:00:00Z",
            **more,
        }

    def _id(self, name: str) -> str:
        return self.name if name == self.name else f"{self.name}-{_hash(name)}"

    def _wrap(self, name: str, kind: str, template: str, phase: str, message: str = "", **more: Any) -> None:
        if self.wrapped:
            self._node(name, "Retry", template, phase, message, **more, children=[self._id(f"{name}(0)")])
        self._node(f"{name}(0)" if self.wrapped else name, kind, template, phase, message, **more)

    def _below(self, name: str) -> str:
        return f"{name}(0)" if self.wrapped else name

    def _entrypoint(self) -> str:
        if not self.stages:
            return "Running"
        top = f"{self._below(self.name)}"
        self._driver(f"{top}.root-driver", count="0")
        phase = _together(self._graph(self._below(f"{top}.root"), "root", self.values, ""), over=self.over)
        self._wrap(f"{top}.root", "DAG", "root", phase)
        self._wrap(self.name, "DAG", "entrypoint", phase)
        return phase

    def _driver(self, name: str, *, count: str, phase: str = "Succeeded", message: str = "") -> None:
        outputs = {"parameters": [{"name": "iteration-count", "value": count}]} if phase == "Succeeded" else {}
        self._wrap(name, "Pod", "system-dag-driver", phase, message, outputs=outputs)

    def _graph(self, prefix: str, graph: str, values: Mapping[str, Any], number: str) -> Iterator[str]:
        """Makes the nodes of a graph's tasks, and yields the phase of each."""
        for name, task in self.graphs[graph]["dag"]["tasks"].items():
            component = task["componentRef"]["name"]
            if component in self.graphs:
                yield self._loop(f"{prefix}.{name}", component, task, values)
            else:
                yield self._stage(f"{prefix}.{name}", name, self.graphs, number)

    def _loop(self, name: str, component: str, task: Mapping[str, Any], values: Mapping[str, Any]) -> str:
        template = f"{component}-{name.rpartition('.')[2]}-iterator"
        inside = self.graphs[component]["dag"]["tasks"]
        source = task["inputs"]["parameters"][task["parameterIterator"]["items"]["inputParameter"]]
        items = values.get(source.get("componentInputParameter", ""), values.get("items", []))
        begun = [number for number in range(len(items)) if any(_key(each, number) in self.stages for each in inside)]
        if not begun:
            if self.over:
                self._node(name, "Skipped", template, "Omitted", OMITTED)
                return "Omitted"
            return ""
        below = self._below(name)
        self._driver(f"{below}.iteration-driver", count=str(len(items)))
        phases = []
        for number in begun:
            turn = f"{below}.iteration-iterations({number}:{number})"
            self._driver(f"{self._below(turn)}.iteration-item-driver", count="0")
            item = f"{self._below(turn)}.iteration-item"
            phase = _together(self._graph(self._below(item), component, {}, str(number)), over=self.over)
            self._wrap(item, "DAG", component, phase)
            self._wrap(turn, "DAG", f"{component}-iteration", phase)
            phases.append(phase)
        phase = _together(iter(phases), over=self.over)
        self._node(f"{below}.iteration-iterations", "TaskGroup", f"{component}-iteration", phase)
        self._wrap(name, "DAG", template, phase)
        return phase

    def _stage(self, name: str, task: str, graphs: Mapping[str, Any], number: str) -> str:
        given = self.stages.get(_key(task, number), "Omitted" if self.over else None)
        if given is None:
            return ""
        stage = given if isinstance(given, Stage) else Stage(given)
        driver, executor = "system-container-driver", "retry-system-container-executor"
        if stage.phase == "Omitted":
            self._node(f"{name}-driver", "Skipped", driver, "Omitted", OMITTED)
            self._node(name, "Skipped", executor, "Omitted", OMITTED)
            return "Omitted"
        cached = stage.phase == "Cached"
        outputs = {
            "pod-spec-patch": "" if cached else self._pod_spec(task, number),
            "cached-decision": str(cached).lower(),
            "condition": "nil",
        }
        values = {"parameters": [{"name": key, "value": value} for key, value in outputs.items()]}
        if stage.phase == "Driver":
            self._wrap(f"{name}-driver", "Pod", driver, stage.driver, stage.message)
            if stage.driver in ("Failed", "Error"):
                self._node(name, "Skipped", executor, "Omitted", OMITTED)
            return stage.driver
        self._wrap(f"{name}-driver", "Pod", driver, "Succeeded", outputs=values)
        below = f"{self._below(name)}.executor"
        if cached:
            self._node(below, "Skipped", "retry-system-container-impl", "Skipped", CACHED)
            self._wrap(name, "DAG", executor, "Succeeded")
            return "Succeeded"
        pods = [("Error" if message == "pod deleted" else "Failed", message) for message in stage.earlier]
        if stage.retry is None or not stage.retry.startswith("Backoff"):
            pods.append((stage.phase, stage.message))
        for index, (phase, message) in enumerate(pods):
            self._node(f"{below}({index})", "Pod", "retry-system-container-impl", phase, message)
        whole = stage.phase if stage.phase in ENDED else "Running"
        message = (stage.message if whole in ("Failed", "Error") else "") if stage.retry is None else stage.retry
        children = [self._id(f"{below}({index})") for index in range(len(pods))]
        self._node(below, "Retry", "retry-system-container-impl", whole, message, children=children)
        self._wrap(name, "DAG", executor, whole)
        return whole

    def _pod_spec(self, task: str, number: str) -> str:
        folder = uuid.uuid5(uuid.NAMESPACE_URL, f"{self.run_id} {_key(task, number)}")
        outputs = ["executor-logs", *(["report"] if task == "write-report" else [])]
        address = f"{self.root}/{self.pipeline}/{self.run_id}/{task}/{folder}"
        made = {name: {"artifacts": [{"uri": f"{address}/{name}"}]} for name in outputs}
        words = json.dumps({"inputs": {}, "outputs": {"artifacts": made}})
        command = ["/kfp-launcher/launch", "--pipeline_name", self.pipeline, "--executor_input", words]
        return json.dumps({"containers": [{"name": "main", "image": "cat-pipeline:0.1.0", "command": command}]})


def _key(task: str, number: int | str) -> str:
    """Returns by which name a test calls a stage: the first round of a loop needs no number."""
    return f"{task} {number}" if str(number) not in ("", "0") else task


def _together(phases: Iterator[str], *, over: bool) -> str:
    """Returns the phase of a node from the phases of those below it, "" for those that have not begun."""
    found = list(phases)
    for phase in ("Error", "Failed"):
        if phase in found and (over or "Running" not in found):
            return phase
    return "Running" if {"", "Running", "Pending"} & set(found) else "Succeeded"


def _hash(text: str) -> int:
    """Returns the hash by which Argo names nodes: FNV-1a of 32 bits."""
    found = 2166136261
    for byte in text.encode():
        found = ((found ^ byte) * 16777619) & 0xFFFFFFFF
    return found


def nodes_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the nodes of a workflow's manifest."""
    status = manifest["status"]
    if packed := status.get("compressedNodes"):
        return json.loads(gzip.decompress(base64.b64decode(packed)))
    return status["nodes"]


def log_places(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Returns of every pod of a stage, and of its node, which log it has: "train-teacher", "prune-teacher 1#2"."""
    workflow, places = manifest["metadata"]["name"], {}
    for node in nodes_of(manifest).values():
        if node["templateName"] == "retry-system-container-impl" and node["type"] == "Pod":
            *_, stage, executor = node["name"].split(".")
            attempt = int(executor.removeprefix("executor(")[:-1])
            found = re.search(r"iteration-iterations\((\d+):", node["name"])
            place = _key(re.sub(r"\(\d+\)$", "", stage), found[1] if found else "")
            place += f"#{attempt + 1}" if attempt else ""
            pod = f"{workflow}-{node['templateName']}-{node['id'].removeprefix(f'{workflow}-')}"
            places |= {node["id"]: place, pod: place}
    return places


def graphs_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the graphs in a compiled pipeline: its root, and its loops."""
    parts = {name: part for name, part in spec.get("components", {}).items() if "dag" in part}
    return {"root": spec["root"], **parts}


def values_of(spec: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of a pipeline's parameters, as the API server completes them."""
    defined = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    return {name: each.get("defaultValue") for name, each in defined.items()} | dict(given)
