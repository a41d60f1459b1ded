"""Runs as they are read from workflows, in states that nobody has recorded."""

import copy
import json
from types import SimpleNamespace
from typing import Any

import kfp_server_api
import pytest

from pipelines.runs import Run, failure, read_run, waiting
from pipelines.stage_plan import labels
from pipelines.workflows import Workflow
from tests.pipelines.argo import nodes_of
from tests.pipelines.kubeflow_server import recording


def manifest_of(name: str) -> dict[str, Any]:
    return copy.deepcopy(json.loads(recording(name)["v1beta1"]["pipeline_runtime"]["workflow_manifest"]))


def read(name: str, manifest: dict[str, Any], **changes: Any) -> Run:
    answer = SimpleNamespace(data=json.dumps(recording(name)["v2beta1"] | changes))
    return read_run(kfp_server_api.ApiClient().deserialize(answer, "V2beta1Run"), Workflow(manifest))


def without(manifest: dict[str, Any], *beginnings: str) -> None:
    """Takes the nodes away whose name, after the workflow's, begins so."""
    nodes = nodes_of(manifest)
    for key, node in list(nodes.items()):
        if node["name"].partition(".")[2].startswith(beginnings):
            del nodes[key]


@pytest.mark.parametrize(
    "driver", ["root.for-loop-1.iteration-driver", "root.for-loop-1.iteration-iterations(0:0).iteration-item-driver"]
)
def test_a_loops_driver_that_fails_is_kubeflows_failure(driver: str) -> None:
    manifest = manifest_of("minio")
    for node in nodes_of(manifest).values():
        if node["name"].endswith(driver):
            node["phase"], node["message"] = "Error", "wait: Error (exit code 64)"
    without(manifest, "root.for-loop-1.iteration-iterations(0:0).iteration-item.", "root.write-report")
    run = read("minio", manifest, state="FAILED")
    assert run.failed == ()
    assert run.own_failures == (f"{driver.rpartition('.')[2]}: exit code 64 in Kubeflow's container 'wait'",)
    assert [task.state for task in run.tasks[3:]] == ["NOT_RUN"] * 5


def test_only_the_newest_attempt_of_a_graph_counts() -> None:
    manifest = manifest_of("always")
    assert len([node for node in nodes_of(manifest).values() if node["displayName"].startswith("executor(")]) == 17
    run = read("always", manifest)
    assert len(run.tasks[0].attempts) == 2
    assert {task.state for task in run.tasks[1:]} == {"PENDING"}, "the graph is tried again: they may still run"


def test_a_loop_is_counted_once_its_driver_has_done_so() -> None:
    manifest = manifest_of("minio")
    for each in manifest["spec"]["arguments"]["parameters"]:
        if each["name"] == "components-root":
            made = '{"taskOutputParameter":{"outputParameterKey":"Output","producerTask":"prepare-dataset"}}'
            each["value"] = each["value"].replace('{"componentInputParameter":"budgets"}', made)
            assert made in each["value"]
    assert [task.name for task in read("minio", manifest).tasks[3:]] == [
        *(f"{stage} #1" for stage in ("prune-teacher", "distill-student", "evaluate-student", "export-student")),
        "write-report",
    ]
    without(manifest, "root.for-loop-1")
    run = read("minio", manifest, state="RUNNING")
    assert len(run.tasks) == 4
    assert not run.complete


def test_a_run_without_a_workflow_has_no_tasks() -> None:
    run = read("minio", {}, state="PENDING")
    assert (run.state, run.tasks, run.root, run.pipeline) == ("PENDING", (), "", "compress")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("main: OOMKilled (exit code 137)", "OOMKilled"),
        ("OOMKilled (exit code 137)", "OOMKilled"),
        ("main: Error (exit code 2)", "exit code 2"),
        ("init: Error (exit code 1)", "exit code 1 in Kubeflow's container 'init'"),
        ("The node was low on resource: memory.", "The node was low on resource: memory."),
        ("Step exceeded its deadline", "deadline exceeded: Step exceeded its deadline"),
        ("", "no reason given"),
    ],
)
def test_failures_are_said_shortly(message: str, said: str) -> None:
    assert failure(message) == said


def test_reasons_of_waiting_are_said_shortly() -> None:
    assert waiting("Unschedulable: 0/2 nodes are available: 1 Insufficient cpu, 2 Insufficient memory.") == (
        "insufficient cpu and insufficient memory"
    )
    assert waiting("PodInitializing") == "PodInitializing"


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["0.3x", "0.2x"], ["0.3x", "0.2x"]),
        (["0.3x", "0.3x"], ["0.3x #1", "0.3x #2"]),
        ([], []),
        (
            [{"budget": "0.1x", "distiller": {"weight": 0.0}, "seed": 1.0}, {"budget": "0.1x", "seed": 2.0}],
            ["0.1x distiller.weight=0 seed=1", "0.1x seed=2"],
        ),
    ],
)
def test_rounds_of_a_loop_are_called_by_what_they_differ_in(items: list[Any], said: list[str]) -> None:
    assert labels(items) == said
