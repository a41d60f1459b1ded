"""Log lines of stages: from pods while they run, from the store after, through the API server and the interface."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.catlib.storage import Storage
from components.catlib.storage.objects import S3Store
from pipelines import submit
from pipelines.__main__ import main
from pipelines.cluster import Cluster
from pipelines.connection import Connection
from tests.object_stores import SeaweedServer, seaweed_server
from tests.pipelines.argo import Stage
from tests.pipelines.kubeflow_server import RUN_ID, KubeflowServer, kubeflow

LAUNCHER = (
    "I1126 13:37:30.100000      16 launcher_v2.go:206] publish success.",
    'time=2026-11-26T13:37:41.663Z level=INFO msg="sub-process exited" argo=true error="exit status 1"',
    "[KFP Executor 2026-11-26 13:37:40,755 INFO]: Got executor_input",
    "F1126 13:37:40.761519      16 main.go:59] failed to execute component: exit status 2",
    "Error: exit status 1",
)
TRACE = ("Traceback (most recent call last):", '  File "stage.py", line 3, in stage', "ValueError: no")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    with seaweed_server(tmp_path_factory.mktemp("store") / "data") as server:
        for bucket in ("cat", "mlpipeline"):
            Storage(server.environment).make_bucket(f"s3://{bucket}")
        yield server


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.logs.POLL_SECONDS", 0.01)
    monkeypatch.setattr("components.catlib.storage.retrying.FIRST_CONTACT_SECONDS", 0.2)
    for name in ("S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def with_store(store: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(params=["interface", "API server"])
def server(request: pytest.FixtureRequest) -> Iterator[KubeflowServer]:
    with kubeflow(KubeflowServer(interface=request.param == "interface")) as server:
        yield server


@pytest.fixture
def leave(server: KubeflowServer, with_store: None, tmp_path: Path) -> Callable[..., None]:
    """Leaves a log in the store as Kubeflow's launcher does when an attempt ends."""

    def leave(run_id: str, task: str, attempt: int, *lines: str) -> None:
        run = Cluster(Connection(host=server.host)).run(run_id)
        (address,) = [each.outputs["executor-logs"] for each in run.tasks if each.name == task]
        (tmp_path / "log").write_text("".join(f"{line}\n" for line in lines))
        Storage().upload_file(tmp_path / "log", f"{address}-{attempt}")

    return leave


def logs(
    server: KubeflowServer, capsys: pytest.CaptureFixture[str], *arguments: str, run: str = RUN_ID, code: int = 0
) -> list[str]:
    capsys.readouterr()
    assert main(["logs", run, "--host", server.host, *arguments]) == code
    captured = capsys.readouterr()
    return (captured.out if code == 0 else captured.err).splitlines()


@pytest.fixture
def running(server: KubeflowServer) -> KubeflowServer:
    """A run whose teacher is trained a second time."""
    submit("smoke", connection=Connection(host=server.host))
    again = Stage("Running", earlier=("pod deleted",))
    server.history = [("RUNNING", {"prepare-dataset": "Succeeded", "train-teacher": again})]
    server.logs = {
        "prepare-dataset": "[dataset] packed\n",
        "train-teacher#2": "\n".join(["[teacher] step 1", *LAUNCHER, *TRACE, "[teacher] step 2", ""]),
    }
    return server


def test_logs_of_running_pods_name_the_attempt_and_leave_the_launcher_out(
    running: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    gone, *lines = logs(running, capsys, "--task", "train-teacher")
    assert gone.startswith("train-teacher, attempt 1: (its log cannot be read: the attempt ended with pod deleted; ")
    shown = ["[teacher] step 1", *TRACE, "[teacher] step 2"]
    assert lines == [f"train-teacher, attempt 2: {line}" for line in shown]
    assert "prepare-dataset: [dataset] packed" in logs(running, capsys)


def test_the_launchers_lines_come_when_they_are_asked_for(
    running: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = logs(running, capsys, "--task", "train-teacher", "--launcher")
    assert [line for line in LAUNCHER if f"train-teacher, attempt 2: {line}" in lines] == list(LAUNCHER)


def test_an_unknown_task_names_those_that_there_are(
    running: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    (error,) = logs(running, capsys, "--task", "train", code=2)
    assert "it has prepare-dataset, check-images, measure-real-images, train-teacher, prune-teacher 0.3x" in error


def test_a_task_without_a_pod_says_why(running: KubeflowServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert logs(running, capsys, "--task", "write-report") == ["(no pod has run: pending)"]
    running.history = [("SUCCEEDED", {"train-teacher": "Cached"})]
    assert logs(running, capsys, "--task", "train-teacher") == ["(no pod has run: cached)"]


def test_a_loops_task_is_named_by_its_budget_or_for_all_rounds(
    server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    submit("smoke", connection=Connection(host=server.host), budgets=["0.4x", "0.2x"])
    server.history = [("RUNNING", {"distill-student": "Running", "distill-student 1": "Running"})]
    server.logs = {"distill-student": "[distill] large\n", "distill-student 1": "[distill] small\n"}
    assert logs(server, capsys, "--task", "distill-student 0.2x") == ["[distill] small"]
    assert logs(server, capsys, "--task", "distill-student") == [
        "distill-student 0.4x: [distill] large",
        "distill-student 0.2x: [distill] small",
    ]


@pytest.mark.parametrize("name", ["podkill", "three"])
def test_after_pods_are_gone_logs_come_from_the_store(
    name: str, server: KubeflowServer, leave: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = server.replay(name)
    task, attempt, said = {
        "podkill": ("train-teacher", 1, "train-teacher, attempt 2: [teacher] resumed"),
        "three": ("distill-student 0.2x", 0, "[teacher] resumed"),
    }[name]
    leave(run_id, task, attempt, "[teacher] resumed", *LAUNCHER)
    lines = logs(server, capsys, "--task", task, run=run_id)
    assert lines[-1] == said
    assert logs(server, capsys, "--task", task, "--launcher", run=run_id)[-1].endswith(LAUNCHER[-1])
    assert logs(server, capsys, run=run_id)[-1] != "", "the logs of all tasks, of which some cannot be read"


def test_a_log_that_is_nowhere_is_no_success(server: KubeflowServer, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = server.replay("usererror")
    error = logs(server, capsys, "--task", "prepare-dataset", run=run_id, code=2)[-1]
    assert error.startswith(f"error: No log of run {run_id} can be read; prepare-dataset: ")
    assert "S3_ENDPOINT" in error or "AWS_ACCESS_KEY_ID" in error, "how to reach the store"
    assert "does not exist" in error, "what Kubeflow says"


def test_a_store_that_is_away_is_asked_once_and_the_pods_log_is_taken(
    server: KubeflowServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"S3_ENDPOINT": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    opened: list[str] = []
    read = S3Store.read

    def counting(self: S3Store, name: str) -> bytes:
        opened.append(name)
        return read(self, name)

    monkeypatch.setattr(S3Store, "read", counting)
    run_id = server.replay("smoke")
    server.logs = {"train-teacher": "[teacher] trained\n", "prepare-dataset": "[dataset] packed\n"}
    lines = logs(server, capsys, run=run_id)
    assert "train-teacher: [teacher] trained" in lines
    assert "prepare-dataset: [dataset] packed" in lines
    assert len(opened) == 1


def test_following_shows_every_line_once_and_ends_with_the_run(
    server: KubeflowServer, leave: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    submit("smoke", connection=Connection(host=server.host))
    first, second = {"prepare-dataset": "Running"}, {"prepare-dataset": "Succeeded", "train-teacher": "Running"}
    over = {"prepare-dataset": "Succeeded", "train-teacher": Stage("Failed", "main: Error (exit code 1)")}
    server.history = [("FAILED", over)]
    leave(RUN_ID, "train-teacher", 0, "[teacher] step 1", "[teacher] step 2", "[teacher] ERROR: no")
    grown = iter(["[dataset] one\n", "[dataset] one\n[dataset] two\n"])
    server.history = [
        ("RUNNING", first),
        ("RUNNING", first),
        ("RUNNING", second),
        ("RUNNING", second),
        ("FAILED", over),
    ]
    found = server._found_log

    def growing(run_id: str, place: str) -> str | None:
        stages = server._now[1]
        if stages == first:
            return next(grown)
        if stages == second:
            server.logs = {
                "prepare-dataset": "[dataset] one\n[dataset] two\n[dataset] three\n",
                "train-teacher": f"[teacher] step 1\n{LAUNCHER[0]}\n",
            }
        else:
            server.pods_gone = True
        return found(run_id, place)

    server._found_log = growing
    assert logs(server, capsys, "--follow") == [
        "prepare-dataset: [dataset] one",
        "prepare-dataset: [dataset] two",
        "prepare-dataset: [dataset] three",
        "train-teacher: [teacher] step 1",
        "train-teacher: [teacher] step 2",
        "train-teacher: [teacher] ERROR: no",
    ]


def test_json_holds_every_line(running: KubeflowServer, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = logs(running, capsys, "--task", "prepare-dataset", "--json")
    assert json.loads(line) == {"lines": [{"task": "prepare-dataset", "line": "[dataset] packed"}]}


def test_a_profiles_pods_are_looked_for_in_its_namespace(capsys: pytest.CaptureFixture[str]) -> None:
    with kubeflow(KubeflowServer(multi_user=True)) as server:
        connection = Connection(host=server.host, namespace="alice")
        submit("smoke", connection=connection)
        server.history = [("RUNNING", {"train-teacher": "Running"})]
        server.logs = {"train-teacher": "[teacher] step 1\n"}
        assert logs(server, capsys, "--namespace", "alice") == ["train-teacher: [teacher] step 1"]
