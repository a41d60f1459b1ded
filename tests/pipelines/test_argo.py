"""Workflows that tests make have the nodes of recorded ones."""

import json
from typing import Any

import pytest

from tests.pipelines.argo import Stage, Stages, Workflow, nodes_of
from tests.pipelines.kubeflow_server import recording

BEFORE_LOOP = ("prepare-dataset", "measure-real-images", "train-teacher")
STUDENT = ("prune-teacher", "distill-student", "evaluate-student", "export-student")
DONE = dict.fromkeys((*BEFORE_LOOP, *STUDENT, "write-report"), "Succeeded")
KILLED = "main: OOMKilled (exit code 1)"

CASES: dict[str, Stages] = {
    "minio": DONE,
    "smoke": DONE,
    "second": dict.fromkeys(DONE, "Cached") | {"write-report": "Succeeded"},
    "three": {
        **dict.fromkeys((*BEFORE_LOOP, *STUDENT), "Cached"),
        **{f"{stage} {number}": "Succeeded" for stage in STUDENT for number in (1, 2)},
        "write-report": "Succeeded",
    },
    "usererror": {"prepare-dataset": Stage("Failed", "main: Error (exit code 1)")},
    "oom": {"prepare-dataset": "Cached", "measure-real-images": "Cached", "train-teacher": Stage("Failed", KILLED)},
    "oom2": {
        **dict.fromkeys(BEFORE_LOOP, "Succeeded"),
        "train-teacher": Stage("Failed", KILLED, earlier=(KILLED, KILLED), retry="No more retries left"),
    },
    "del5": {
        "prepare-dataset": "Cached",
        "measure-real-images": "Cached",
        "train-teacher": Stage("Error", "pod deleted"),
    },
    "podkill": {
        **DONE,
        **dict.fromkeys(BEFORE_LOOP, "Cached"),
        "train-teacher": Stage("Succeeded", earlier=("pod deleted",)),
    },
    "lost": {
        **dict.fromkeys(BEFORE_LOOP, "Cached"),
        "prune-teacher": Stage(
            "Running", earlier=("main: Error (exit code 1)",) * 2, retry="Backoff for 2 minutes 0 seconds"
        ),
    },
}


@pytest.mark.parametrize("name", CASES)
def test_made_workflows_have_the_nodes_of_recorded_ones(name: str) -> None:
    manifest = json.loads(recording(name)["v1beta1"]["pipeline_runtime"]["workflow_manifest"])
    arguments = {each["name"]: each["value"] for each in manifest["spec"]["arguments"]["parameters"]}
    (driver,) = [task for task in manifest["spec"]["templates"][0]["dag"]["tasks"] if task["name"] == "root-driver"]
    given = {each["name"]: each["value"] for each in driver["arguments"]["parameters"]}
    made = Workflow(
        {key.removeprefix("components-"): json.loads(value) for key, value in arguments.items()},
        json.loads(given["runtime-config"])["parameterValues"],
        CASES[name],
        manifest["metadata"]["labels"]["pipeline/runid"],
        over=manifest["status"]["phase"] != "Running",
        name=manifest["metadata"]["name"],
        wrapped="templateDefaults" in manifest["spec"],
    )
    made.manifest()
    assert compared(made.nodes) == compared(nodes_of(manifest))


def compared(nodes: dict[str, Any]) -> dict[str, list[Any]]:
    """What readers of workflows rely on."""
    names = ("name", "displayName", "type", "templateName", "phase", "message", "boundaryID")
    return {
        key: [*(node.get(name) for name in names), node.get("children", []) if node["type"] == "Retry" else []]
        for key, node in nodes.items()
    }
