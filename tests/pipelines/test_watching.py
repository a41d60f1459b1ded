"""Watching runs: states, reasons, progress and exit codes, through the API server and through the interface."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.catlib.errors import Interrupted, UserError
from pipelines import submit
from pipelines.__main__ import main
from pipelines.cluster import Cluster
from pipelines.connection import Connection
from pipelines.failure import RunFailed, RunLost
from pipelines.resubmitting import watch_and_explain
from tests.object_stores import seaweed_server
from tests.pipelines.argo import Stage, waiting
from tests.pipelines.kubeflow_server import RUN_ID, KubeflowServer, kubeflow

STEP = "[teacher] step 30/60  epoch 0  12.5 images/s  ETA 0:05:10  learning rate 0.0002  gan 0.5"
PREPARED = dict.fromkeys(("prepare-dataset", "check-images", "measure-real-images"), "Succeeded")
TRAINED = {**PREPARED, "train-teacher": "Succeeded"}
STUDENT = ("prune-teacher", "distill-student", "evaluate-student", "export-student")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.watching.POLL_SECONDS", 0.01)
    monkeypatch.setattr("components.catlib.storage.retrying.FIRST_PAUSE_SECONDS", 0.001)
    for name in ("S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["interface", "API server"])
def server(request: pytest.FixtureRequest) -> Iterator[KubeflowServer]:
    with kubeflow(KubeflowServer(interface=request.param == "interface")) as server:
        yield server


@pytest.fixture
def interface() -> Iterator[KubeflowServer]:
    with kubeflow(KubeflowServer()) as server:
        yield server


def watched(server: KubeflowServer, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[str]:
    """Submits and waits; returns what was said after the run's address."""
    capsys.readouterr()
    given = ["submit", "--recipe", "smoke", "--host", server.host, "--wait", *arguments]
    assert main(given) == code
    said = capsys.readouterr().err.splitlines()
    begin = next(number for number, line in enumerate(said) if line.startswith(f"Run {RUN_ID}: "))
    return said[begin + 1 :]


def tasks_of(server: KubeflowServer, capsys: pytest.CaptureFixture[str], run_id: str = RUN_ID) -> dict[str, Any]:
    """What `status` says of every task: its state, with the reason."""
    capsys.readouterr()
    assert main(["status", run_id, "--host", server.host, "--json"]) == 0
    tasks = json.loads(capsys.readouterr().out)["tasks"]
    return {task["name"]: task["state"] + (f" {task['reason']}" if task["reason"] else "") for task in tasks}


# -------------------------------------------------------------------------------------------------------------- changes


def test_waiting_tells_of_every_change_once_with_the_place_of_the_stage(
    server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.history = [
        ("PENDING", {}),
        ("RUNNING", {"prepare-dataset": Stage("Driver", driver="Running")}),
        ("RUNNING", {"prepare-dataset": "Running"}),
        ("RUNNING", {**TRAINED, "prune-teacher": "Running", "prune-teacher 1": "Cached"}),
        ("RUNNING", {**TRAINED, "prune-teacher": "Running", "prune-teacher 1": "Cached"}),
        (
            "SUCCEEDED",
            dict.fromkeys([*TRAINED, *STUDENT, *(f"{each} 1" for each in STUDENT), "write-report"], "Cached"),
        ),
    ]
    said = watched(server, capsys, "--budget", "0.4x", "0.2x")
    assert said[:7] == [
        "stage 1 of 13, prepare-dataset: running",
        "stage 1 of 13, prepare-dataset: succeeded",
        "stage 2 of 13, check-images: succeeded",
        "stage 3 of 13, measure-real-images: succeeded",
        "stage 4 of 13, train-teacher: succeeded",
        "stage 5 of 13, prune-teacher 0.4x: running",
        "stage 9 of 13, prune-teacher 0.2x: cached",
    ]
    assert said[-1] == "stage 13 of 13, write-report: cached"


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_tasks_carry_their_budgets_whatever_the_clusters_settings(
    wrapped: bool, compressed: bool, server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.wrapped, server.compressed = wrapped, compressed
    budgets = [f"0.{number}x" for number in range(9, 0, -1)]
    submit("smoke", connection=Connection(host=server.host), budgets=budgets)
    rounds = {f"prune-teacher {number}" if number else "prune-teacher": "Succeeded" for number in range(9)}
    server.history = [("RUNNING", {**TRAINED, **rounds, "distill-student 7": "Running"})]
    tasks = tasks_of(server, capsys)
    assert len(tasks) == 4 + 4 * 9 + 1
    assert [tasks[f"prune-teacher {budget}"] for budget in budgets] == ["SUCCEEDED"] * 9
    assert tasks["distill-student 0.2x"] == "RUNNING"
    assert tasks["distill-student 0.3x"] == "PENDING"


def test_a_run_from_the_form_has_its_tasks(interface: KubeflowServer, capsys: pytest.CaptureFixture[str]) -> None:
    submit("smoke", connection=Connection(host=interface.host))
    (run,) = interface.runs
    interface.uploaded = run.pop("pipeline_spec")
    run["runtime_config"] = {"parameters": {"budgets": ["0.5x", "0.25x"]}}
    run["pipeline_version_reference"] = {"pipeline_id": "p", "pipeline_version_id": "v"}
    interface.history = [("RUNNING", {**TRAINED, "prune-teacher": "Succeeded", "prune-teacher 1": "Running"})]
    tasks = tasks_of(interface, capsys)
    assert (tasks["prune-teacher 0.5x"], tasks["prune-teacher 0.25x"]) == ("SUCCEEDED", "RUNNING")


def test_a_sweeps_tasks_carry_what_they_differ_in(
    interface: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"seeds": [0, 1], "budgets": ["0.3x"], "variations": [{}, {"learning_rate": 0.001}]}
    submit("smoke", pipeline="sweep", connection=Connection(host=interface.host), arguments=arguments)
    interface.history = [("RUNNING", {**PREPARED, "plan-sweep": "Succeeded"})]
    assert [name for name in tasks_of(interface, capsys) if name.startswith("distill-student")] == [
        "distill-student 0.3x seed=0",
        "distill-student 0.3x seed=1",
        "distill-student 0.3x learning_rate=0.001 seed=0",
        "distill-student 0.3x learning_rate=0.001 seed=1",
    ]


# ------------------------------------------------------------------------------------------------------------- progress


def test_the_newest_training_line_and_the_time_left_are_shown(
    server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    running = {**PREPARED, "train-teacher": "Running"}
    server.history = [("RUNNING", running), ("RUNNING", running), ("SUCCEEDED", TRAINED)]
    older = STEP.replace("30/60", "20/60")
    server.logs = {"train-teacher": f"[teacher] reading images\n{older}\n{STEP}\n[teacher] saved a checkpoint\n"}
    said = watched(server, capsys)
    shown = [line for line in said if "step" in line]
    assert shown == [f"stage 4 of 9, train-teacher, 0:05:10 left: {STEP.removeprefix('[teacher] ')}"]


def test_a_log_that_cannot_be_read_leaves_the_watch_alone(
    server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.history = [("RUNNING", {**PREPARED, "train-teacher": "Running"}), ("SUCCEEDED", TRAINED)]
    said = watched(server, capsys)
    assert "stage 4 of 9, train-teacher: running" in said
    assert not any("left" in line for line in said)


# -------------------------------------------------------------------------------------------------------------- waiting


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        (
            Stage("Pending", "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are"),
            "insufficient cpu",
        ),
        (
            Stage("Pending", "Unschedulable: 0/3 nodes: 2 Insufficient memory, 3 Insufficient nvidia.com/gpu."),
            "insufficient memory and insufficient nvidia.com/gpu",
        ),
        (Stage("Pending", "ImagePullBackOff: Back-off pulling image"), "ImagePullBackOff: Back-off pulling image"),
        (waiting("pod deleted"), "attempt 1 failed (pod deleted), the next one begins after 1 minute"),
        (Stage("Running", earlier=("pod deleted",)), ""),
        (
            Stage("Driver", "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu.", driver="Pending"),
            "insufficient cpu",
        ),
    ],
)
def test_what_waits_says_why(
    stage: Stage, reason: str, server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    submit("smoke", connection=Connection(host=server.host))
    server.history = [("RUNNING", {**PREPARED, "train-teacher": stage})]
    assert tasks_of(server, capsys)["train-teacher"] == (f"PENDING {reason}" if reason else "RUNNING")


# ------------------------------------------------------------------------------------------------------------- failures

KILLED = Stage("Failed", "main: OOMKilled (exit code 1)")


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        (Stage("Failed", "main: Error (exit code 1)"), "exit code 1"),
        (KILLED, "OOMKilled"),
        (Stage("Failed", KILLED.message, (KILLED.message,) * 2, "No more retries left"), "OOMKilled (3 attempts)"),
        (Stage("Error", "pod deleted"), "pod deleted"),
        (
            Stage("Failed", "Pod was active on the node longer than the specified deadline"),
            "deadline exceeded: Pod was active on the node longer than the specified deadline",
        ),
        (Stage("Error", "wait: Error (exit code 64)"), "exit code 64 in Kubeflow's container 'wait'"),
    ],
)
def test_a_failed_run_names_its_task_and_reason_and_exits_with_1(
    stage: Stage, reason: str, server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.pods_gone = True
    server.history = [("FAILED", {**PREPARED, "train-teacher": stage})]
    said = watched(server, capsys, code=1)
    assert said[-1].startswith("failed: Run compress smoke ")
    assert said[-1].endswith(
        f" failed in train-teacher ({reason}); see: python -m pipelines logs {RUN_ID} --task train-teacher --host "
        f"{server.host}"
    )
    assert main(["status", RUN_ID, "--host", server.host, "--wait"]) == 1
    assert f"failed in train-teacher ({reason})" in capsys.readouterr().err
    assert main(["status", RUN_ID, "--host", server.host]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["train-teacher", f"failed: {reason}"] in lines
    assert ["write-report", "not run"] in lines


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("[prune] ERROR: Budget 1 cannot be reached.", 2, "error: prune-teacher 0.2x: Budget 1 cannot be reached."),
        ("[prune] UNAVAILABLE: The store is away.", 75, "error: prune-teacher 0.2x: The store is away."),
        ("Traceback (most recent call last):", 1, "failed: Run compress smoke "),
    ],
)
def test_a_stages_own_sentence_and_its_exit_code_come_through(
    line: str, code: int, said: str, server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = Stage("Failed", "main: Error (exit code 1)", earlier=("pod deleted",))
    server.history = [("FAILED", {**TRAINED, "prune-teacher": "Cached", "prune-teacher 1": failed})]
    launcher = "F1126 13:37:40.761519      16 main.go:59] failed to execute component: exit status 2"
    server.logs = {
        "prune-teacher 1#2": f"[prune] looking\n{line}\n{launcher}\n",
        "prune-teacher 1": "[prune] ERROR: No.",
    }
    last = watched(server, capsys, "--budget", "0.4x", "0.2x", code=code)[-1]
    assert last.startswith(said)
    assert main(["status", RUN_ID, "--host", server.host, "--wait"]) == code


def test_a_driver_that_failed_is_told_apart_from_a_stage(
    server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = Stage("Driver", "wait: Error (exit code 64): failed to put file", driver="Error")
    server.history = [("FAILED", {**PREPARED, "train-teacher": lost})]
    last = watched(server, capsys, code=1)[-1]
    assert "failed in train-teacher (Kubeflow's own pod that prepares it ended: exit code 64" in last
    assert [task.own for task in Cluster(Connection(host=server.host)).run(RUN_ID).failed] == [True]
    server.history = [("FAILED", {**PREPARED, "train-teacher": KILLED})]
    assert [task.own for task in Cluster(Connection(host=server.host)).run(RUN_ID).failed] == [False]


UPLOAD = (
    'failed to upload output artifact "teacher" to remote storage URI "minio://cat/a": dial tcp: connection refused'
)


@pytest.mark.parametrize(
    ("end", "lost"),
    [
        (f"failed to execute component: {UPLOAD}", True),
        ("failed to execute component: failed to pre-publish Pod info to ML Metadata: rpc error: Unavailable", True),
        ("failed to create component launcher v2: dial tcp: i/o timeout", True),
        ("failed to execute component: exit status 1", False),
        ("failed to execute component: signal: killed", False),
        ("failed to publish execution with error Unavailable after execution failed: exit status 2", False),
    ],
)
def test_a_launcher_that_could_not_do_its_part_has_lost_the_run(
    end: str, lost: bool, server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = server.replay("usererror")
    server.logs = {"prepare-dataset": f"[dataset] packed\nF1126 13:37:40.761519      16 main.go:59] {end}\nError: x\n"}
    assert main(["status", run, "--host", server.host, "--wait"]) == 1
    said = capsys.readouterr().err.splitlines()
    if lost:
        assert said[-2].startswith("Submit the run again, as `submit --wait --resubmit N` does by itself")
        assert "prepare-dataset: Kubeflow's launcher could not do its own part (failed to " in said[-1]
        assert "no stage failed" in said[-1]
    else:
        assert said[-1].startswith("failed: Run compress smoke e06193 failed in prepare-dataset (exit code 1); see: ")
    with pytest.raises(RunLost if lost else RunFailed) as caught:
        watch_and_explain(Cluster(Connection(host=server.host)), run, say=lambda line: None)
    assert isinstance(caught.value, RunLost) is lost


def test_a_stage_that_refuses_beside_a_launcher_that_fails_is_what_counts(server: KubeflowServer) -> None:
    server.history = [("FAILED", {**TRAINED, "prune-teacher": "Failed", "prune-teacher 1": "Failed"})]
    submit("smoke", budgets=["0.2x", "0.3x"], connection=Connection(host=server.host))
    launcher = "F1126 13:37:40.761519      16 main.go:59] failed to execute component: "
    server.logs = {"prune-teacher": f"{launcher}no bucket\n", "prune-teacher 1": f"{launcher}exit status 1\n"}
    with pytest.raises(RunFailed) as caught:
        Cluster(Connection(host=server.host)).wait(RUN_ID, say=lambda line: None)
    assert not isinstance(caught.value, RunLost)


def test_status_shows_what_a_failed_stage_said(server: KubeflowServer, capsys: pytest.CaptureFixture[str]) -> None:
    run = server.replay("usererror")
    server.logs = {"prepare-dataset": "[dataset] ERROR: There are no images in s3://cat/none.\n"}
    assert main(["status", run, "--host", server.host]) == 0
    assert (
        "failed: exit code 1\n                         There are no images in s3://cat/none.\n"
        in capsys.readouterr().out
    )
    assert main(["status", run, "--host", server.host, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["tasks"][:2]
    assert first["error"] == "There are no images in s3://cat/none."
    assert "error" not in second
    server.logs = {
        "prepare-dataset": "F1126 13:37:40.761519      16 main.go:59] failed to execute component: no bucket\n"
    }
    assert main(["status", run, "--host", server.host]) == 0
    assert "Kubeflow's launcher could not do its own part: no bucket\n" in capsys.readouterr().out


def test_a_run_that_a_person_ended_is_canceled_and_no_failure_of_its_stage(
    server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.terminated, server.message = True, "retry exceeded workflow deadline 2026-11-26 13:43:47 +0000 UTC"
    server.history = [("FAILED", {**PREPARED, "train-teacher": Stage("Failed", "Step exceeded its deadline")})]
    last = watched(server, capsys, code=1)[-1]
    assert last.endswith(f" canceled; see: python -m pipelines logs {RUN_ID} --host {server.host}")
    assert tasks_of(server, capsys)["train-teacher"] == "CANCELED"


def test_a_run_that_exceeds_its_deadline_says_so(server: KubeflowServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.message = "Max duration limit exceeded: deadline"
    server.history = [("FAILED", {**PREPARED, "train-teacher": Stage("Failed", "Step exceeded its deadline")})]
    last = watched(server, capsys, code=1)[-1]
    assert "failed in train-teacher (deadline exceeded: Step exceeded its deadline)" in last


def test_the_stages_sentence_comes_from_the_store_once_pods_are_gone(
    server: KubeflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from components.catlib.storage import Storage

    server.pods_gone = True
    server.history = [("FAILED", {"prepare-dataset": Stage("Failed", "main: Error (exit code 1)")})]
    with seaweed_server(tmp_path / "store") as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        submitted = submit("smoke", connection=Connection(host=server.host), say=lambda line: None)
        (task,) = submitted.status().failed
        (tmp_path / "log").write_text("[dataset] ERROR: There are no images.\n")
        Storage().make_bucket("s3://mlpipeline")
        Storage().upload_file(tmp_path / "log", f"{task.outputs['executor-logs']}-0")
        with pytest.raises(UserError, match=r"^prepare-dataset: There are no images\.$"):
            submitted.wait(say=lambda line: None)


def test_a_run_that_was_ended_is_no_success(interface: KubeflowServer) -> None:
    submitted = submit("smoke", connection=Connection(host=interface.host))
    interface.history = [("CANCELING", {}), ("CANCELED", {})]
    with pytest.raises(RunFailed, match="canceled"):
        submitted.wait(say=lambda line: None)


def test_watching_gives_up_when_the_api_stays_away(interface: KubeflowServer) -> None:
    submitted = submit("smoke", connection=Connection(host=interface.host))
    interface.faults = {"GET .*/runs/": [500] * 1000}
    impatient = Cluster(Connection(host=interface.host), patience=0.4)
    with pytest.raises(UserError, match=f"reading run {RUN_ID}"):
        impatient.wait(submitted.run_id, say=lambda line: None)


def test_a_workflow_that_cannot_be_read_for_a_while_is_asked_for_again(interface: KubeflowServer) -> None:
    submitted = submit("smoke", connection=Connection(host=interface.host))
    interface.faults = {"GET /apis/v1beta1/runs/": [500, 503]}
    assert submitted.wait(say=lambda line: None).state == "SUCCEEDED"


def test_an_interrupted_watch_leaves_the_run_alone(interface: KubeflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted = submit("smoke", connection=Connection(host=interface.host))
    interface.history = [("RUNNING", {})]

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.watching.time.sleep", interrupt)
    with pytest.raises(Interrupted, match=f"status {RUN_ID} --wait"):
        submitted.wait(say=lambda line: None)
    assert not [request for request in interface.requests if "terminate" in request]


def test_status_lists_runs(interface: KubeflowServer, capsys: pytest.CaptureFixture[str]) -> None:
    submit("smoke", connection=Connection(host=interface.host))
    interface.history = [("RUNNING", {})]
    assert main(["status", "--host", interface.host]) == 0
    assert capsys.readouterr().out.startswith(f"{RUN_ID}  running    compress smoke ")
    assert main(["status", "nosuch", "--host", interface.host]) == 2
    assert "Run nosuch not found" in capsys.readouterr().err
