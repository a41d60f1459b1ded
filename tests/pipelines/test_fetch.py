"""Fetching a run's results: a real S3 server that holds what a run leaves there."""

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.catlib.artifacts import read_manifest, writing
from components.catlib.config import ReportConfig
from components.catlib.errors import UserError
from components.catlib.storage import Storage
from components.catlib.storage.objects import S3Store
from pipelines.__main__ import main
from pipelines.cluster import Cluster
from pipelines.connection import Connection
from tests.object_stores import SeaweedServer, seaweed_server
from tests.pipelines.argo import Stage
from tests.pipelines.kubeflow_server import RUN_ID, KubeflowServer, kubeflow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    with seaweed_server(tmp_path_factory.mktemp("store") / "data") as server:
        for bucket in ("cat", "mlpipeline"):
            Storage(server.environment).make_bucket(f"s3://{bucket}")
        yield server


@pytest.fixture
def server(store: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeflowServer]:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    with kubeflow(KubeflowServer()) as server:
        yield server


def leave_report(store: SeaweedServer, folder: Path, address: str) -> None:
    """Uploads a report as Kubeflow's launcher does, to a place that a driver names."""
    publish_report(store, folder, f"{address}/compress/{RUN_ID}/write-report/9c1e/report")


def publish_report(store: SeaweedServer, folder: Path, address: str) -> None:
    with writing(folder / "report", kind="report", config=ReportConfig(name="smoke")) as writer:
        (writer.folder / "report.html").write_text("<html></html>")
        (writer.folder / "students").mkdir()
        (writer.folder / "students" / "model.onnx").write_bytes(b"onnx")
        writer.summary["metrics"] = {}
    Storage(store.environment).publish(folder / "report", address)


def test_the_report_of_a_run_comes_whole(
    server: KubeflowServer, store: SeaweedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_report(store, tmp_path, "s3://cat/runs")
    assert main(["submit", "--recipe", "smoke", "--host", server.host, "--root", "minio://cat/runs"]) == 0
    capsys.readouterr()
    output = tmp_path / "fetched"
    assert main(["fetch", RUN_ID, "--host", server.host, "--output", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(output / "report.html")
    assert read_manifest(output, "report").kind == "report"
    assert (output / "students" / "model.onnx").read_bytes() == b"onnx"


@pytest.mark.parametrize(
    ("root", "interface"),
    [("minio://mlpipeline/v2/artifacts", True), ("minio://cat/artifacts", False), ("s3://cat/deep/er", True)],
)
def test_the_run_says_where_the_cluster_keeps_artifacts(
    root: str,
    interface: bool,
    server: KubeflowServer,
    store: SeaweedServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.root, server.interface = root, interface
    assert main(["submit", "--recipe", "smoke", "--host", server.host]) == 0
    fetch = ["fetch", RUN_ID, "--host", server.host, "--output", str(tmp_path / "fetched")]
    server.history = [("RUNNING", {})]
    assert main(fetch) == 2
    assert f"Run {RUN_ID} is running, and no task of it has written anything yet" in capsys.readouterr().err
    server.history = [("FAILED", {"prepare-dataset": "Succeeded", "train-teacher": Stage("Error", "pod deleted")})]
    assert main(fetch) == 2
    error = capsys.readouterr().err
    assert f"no report below {root}/compress/{RUN_ID}/write-report; the run is failed, its task write-report" in error
    assert "write-report not run" in error
    server.history = [("SUCCEEDED", {"prepare-dataset": "Succeeded", "write-report": "Succeeded"})]
    leave_report(store, tmp_path, root)
    assert main(fetch) == 0
    assert main(fetch) == 2
    assert "exists; choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["smoke", "second", "three", "sweep"])
def test_the_report_of_a_recorded_run_is_found(
    name: str, server: KubeflowServer, store: SeaweedServer, tmp_path: Path
) -> None:
    run_id = server.replay(name)
    run = Cluster(Connection(host=server.host)).run(run_id)
    (report,) = [task.outputs["report"] for task in run.tasks if task.name == "write-report"]
    publish_report(store, tmp_path, report)
    assert main(["fetch", run_id, "--host", server.host, "--output", str(tmp_path / "fetched")]) == 0
    assert read_manifest(tmp_path / "fetched", "report").kind == "report"


@pytest.mark.parametrize(("failure", "code"), [(KeyboardInterrupt, 75), (UserError, 2), (OSError, 2)])
def test_a_download_that_broke_off_is_repeated(
    server: KubeflowServer,
    store: SeaweedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: type[BaseException],
    code: int,
) -> None:
    leave_report(store, tmp_path / "made", "s3://cat/again")
    assert main(["submit", "--recipe", "smoke", "--host", server.host, "--root", "s3://cat/again"]) == 0
    output = tmp_path / "fetched"
    fetch = ["fetch", RUN_ID, "--host", server.host, "--output", str(output)]
    read_part, calls = S3Store.read_part, itertools.count()

    def break_off(self: S3Store, name: str, path: Path, start: int, length: int) -> None:
        if next(calls):
            raise failure("broken off")
        read_part(self, name, path, start, length)

    with monkeypatch.context() as patch, contextlib.suppress(OSError):
        patch.setattr(S3Store, "read_part", break_off)
        assert main(fetch) == code
    assert [path.name for path in tmp_path.iterdir()] == ["made"], "neither the folder nor a half-written one"
    assert main(fetch) == 0
    assert read_manifest(output, "report").kind == "report"


def test_without_credentials_the_missing_variable_is_named(
    server: KubeflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "--recipe", "smoke", "--host", server.host, "--root", "s3://cat/runs"]) == 0
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert main(["fetch", RUN_ID, "--host", server.host, "--output", str(tmp_path / "fetched")]) == 2
    assert "AWS_SECRET_ACCESS_KEY" in capsys.readouterr().err
