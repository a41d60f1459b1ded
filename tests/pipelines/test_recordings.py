"""What is made of the answers of a real Kubeflow, through its API server and through its interface."""

import json
from collections.abc import Iterator

import pytest

from pipelines.__main__ import main
from pipelines.cluster import Cluster
from pipelines.connection import Connection
from tests.pipelines.kubeflow_server import RECORDINGS, KubeflowServer, kubeflow, recording

PREPARE = ("prepare-dataset", "measure-real-images")
STUDENT = ("prune-teacher", "distill-student", "evaluate-student", "export-student")


def student(budget: str, *states: str) -> dict[str, str]:
    """States of the four stages that make a student; one stands for all."""
    return dict(zip((f"{stage} {budget}" for stage in STUDENT), states * (4 // len(states)), strict=True))


ALL = (*PREPARE, "train-teacher")
DONE = {**dict.fromkeys(ALL, "succeeded"), **student("0.3x", "succeeded"), "write-report": "succeeded"}
RESUMED = DONE | dict.fromkeys(PREPARE, "cached")
NOTHING_MORE = {**student("0.3x", "not run"), "write-report": "not run"}
AGAIN = "pending: attempt 2 failed (exit code 1), the next one begins after 2 minutes"

EXPECTED: dict[str, tuple[str, dict[str, str]]] = {
    "smoke": ("succeeded", DONE),
    "minio": ("succeeded", DONE),
    "second": ("succeeded", dict.fromkeys(DONE, "cached") | {"write-report": "succeeded"}),
    "three": (
        "succeeded",
        {
            **dict.fromkeys(ALL, "cached"),
            **student("0.3x", "cached"),
            **student("0.2x", "succeeded"),
            **student("0.1x", "succeeded"),
            "write-report": "succeeded",
        },
    ),
    "sweep": (
        "succeeded",
        {
            **dict.fromkeys(("plan-sweep", *ALL), "succeeded"),
            **student("0.3x lambda_distill=0 seed=0", "succeeded"),
            **student("0.3x lambda_distill=0 seed=1", "succeeded"),
            **student("0.3x seed=0", "succeeded"),
            **student("0.3x seed=1", "succeeded"),
            "write-report": "succeeded",
        },
    ),
    "distillonly": (
        "succeeded",
        {
            **dict.fromkeys(("prepare-dataset", "fetch-teacher", "measure-real-images"), "succeeded"),
            **student("0.3x", "succeeded"),
            "write-report": "succeeded",
        },
    ),
    "usererror": (
        "failed",
        {
            "prepare-dataset": "failed: exit code 1",
            **dict.fromkeys(("measure-real-images", "train-teacher"), "not run"),
            **NOTHING_MORE,
        },
    ),
    "always": (
        "running",
        {
            "prepare-dataset": AGAIN,
            **dict.fromkeys(("measure-real-images", "train-teacher"), "pending"),
            **student("0.3x", "pending"),
            "write-report": "pending",
        },
    ),
    "oom": (
        "failed",
        {**dict.fromkeys(PREPARE, "cached"), "train-teacher": "failed: OOMKilled", **NOTHING_MORE},
    ),
    "oom2": (
        "failed",
        {
            **dict.fromkeys(PREPARE, "succeeded"),
            "train-teacher": "failed: OOMKilled (3 attempts)",
            **NOTHING_MORE,
        },
    ),
    "podkill": ("succeeded", RESUMED),
    "terminated": ("canceled", {**dict.fromkeys(PREPARE, "succeeded"), "train-teacher": "canceled", **NOTHING_MORE}),
    "del5": (
        "failed",
        {**dict.fromkeys(PREPARE, "cached"), "train-teacher": "failed: pod deleted", **NOTHING_MORE},
    ),
    "del6": ("succeeded", RESUMED),
    "out6": ("succeeded", DONE),
    "lost": (
        "running",
        {
            **dict.fromkeys(ALL, "cached"),
            **student("0.25x", AGAIN, "pending", "pending", "pending"),
            "write-report": "pending",
        },
    ),
}

ATTEMPTS = {"podkill": 2, "del6": 2, "oom2": 3}
"""How many pods trained the teacher, where it was not one or none."""


@pytest.fixture(autouse=True)
def no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["interface", "API server"])
def server(request: pytest.FixtureRequest) -> Iterator[KubeflowServer]:
    with kubeflow(KubeflowServer(interface=request.param == "interface")) as server:
        yield server


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_recorded_run_shows_its_tasks(
    name: str, server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = server.replay(name)
    assert main(["status", run_id, "--host", server.host]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    state, tasks = EXPECTED[name]
    assert title.split(": ", 1)[0] == recording(name)["v2beta1"]["display_name"]
    assert title.split(": ", 1)[1].startswith(state)
    shown = dict(line.strip().split("  ", 1) for line in lines if line.startswith("  "))
    assert {task: said.strip() for task, said in shown.items()} == tasks
    assert lines[-1].startswith(f"{server.host}/#/runs/details/") is server.interface

    run = Cluster(Connection(host=server.host)).run(run_id)
    assert [task.name for task in run.tasks] == list(tasks), "in the order in which they run"
    assert run.root == "minio://cat/artifacts", "the drivers name it, the run does not"
    trainings = [len(task.attempts) for task in run.tasks if task.name == "train-teacher"]
    if "cached" not in tasks.get("train-teacher", "") and name not in ("usererror", "always", "distillonly"):
        assert trainings == [ATTEMPTS.get(name, 1)]
    assert not any(task.own for task in run.failed)


ENDS = {
    "usererror": (1, "in prepare-dataset (exit code 1)"),
    "oom": (1, "in train-teacher (OOMKilled)"),
    "oom2": (1, "in train-teacher (OOMKilled (3 attempts))"),
    "del5": (1, "in train-teacher (pod deleted)"),
    "terminated": (1, "canceled; see"),
}


@pytest.mark.parametrize("name", sorted(name for name in EXPECTED if EXPECTED[name][0] != "running"))
def test_watching_a_recorded_run_ends_with_its_exit_code_and_reason(
    name: str, server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = ENDS.get(name, (0, ""))
    run_id = server.replay(name)
    assert main(["status", run_id, "--host", server.host, "--wait"]) == code
    captured = capsys.readouterr()
    assert said in captured.err.splitlines()[-1]
    total = len(EXPECTED[name][1])
    assert captured.err.startswith(f"stage 1 of {total}, ")


@pytest.mark.parametrize("name", ["usererror", "oom2"])
def test_a_recorded_stages_own_sentence_ends_the_watch_with_its_code(
    name: str, server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = server.replay(name)
    sentence = "dataset.source holds no images; give a folder with images."
    server.logs = {
        "prepare-dataset": f"[dataset] ERROR: {sentence}\n",
        "train-teacher#3": f"[teacher] ERROR: {sentence}\n",
    }
    assert main(["status", run_id, "--host", server.host, "--wait"]) == 2
    task = {"usererror": "prepare-dataset", "oom2": "train-teacher"}[name]
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {task}: {sentence}"


def test_pods_have_the_names_that_the_interface_wants(capsys: pytest.CaptureFixture[str]) -> None:
    with kubeflow(KubeflowServer()) as server:
        run_id = server.replay("smoke")
        assert main(["status", run_id, "--host", server.host, "--json"]) == 0
    tasks = {task["name"]: task["pods"] for task in json.loads(capsys.readouterr().out)["tasks"]}
    assert tasks["train-teacher"] == ["compress-xwvm2-retry-system-container-impl-2868564152"]


def test_every_recording_has_its_expectation() -> None:
    assert sorted(EXPECTED) == RECORDINGS
