"""Runs kept in MLflow: against a real server."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from components.catlib.config import ReportConfig, TrackingConfig
from components.catlib.errors import UserError
from components.report.stage import run as write_report
from tests.components.report.small_run import SmallRun, write_small_run


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    files = ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--artifacts-destination", str(folder / "files")]
    process = subprocess.Popen(
        [*command, *files],
        cwd=folder,
        # What it would start beside itself for language models, and what it would tell its makers.
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def wait_for(address: str) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.3)
    raise AssertionError(f"{address} did not answer")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return write_small_run(tmp_path_factory.mktemp("run"), budgets=("0.5x", "0.2x"))


def report(run: SmallRun, folder: Path, uri: str, *, experiment: str = "relief") -> None:
    tracking = TrackingConfig(uri=uri, experiment=experiment)
    write_report(ReportConfig(name="smoke", tracking=tracking), output=folder / "report", **run.inputs())


def test_every_student_is_kept_with_settings_figures_and_model(server: str, run: SmallRun, tmp_path: Path) -> None:
    report(run, tmp_path, server)
    client = mlflow.MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("relief")
    kept = client.search_runs([experiment.experiment_id], order_by=["metrics.paper_macs"])
    assert [each.info.status for each in kept] == ["FINISHED", "FINISHED"]
    smallest = kept[0]
    assert smallest.info.run_name == "Student 0.2×"
    assert smallest.data.params["teacher.family"] == "pix2pix"
    assert smallest.data.params["distill.distiller.weight"] == "1.0"
    assert len(smallest.data.params["teacher.artifact"]) == 64
    assert smallest.data.metrics["paper_macs"] < kept[1].data.metrics["paper_macs"]
    assert {file.path for file in client.list_artifacts(smallest.info.run_id)} == {"model", "report.html"}
    fetched = client.download_artifacts(smallest.info.run_id, "model/model.onnx", str(tmp_path))
    originals = [(folder / "model.onnx").read_bytes() for folder in run.exports]
    assert Path(fetched).read_bytes() in originals


def test_an_experiment_that_is_there_is_joined(server: str, run: SmallRun, tmp_path: Path) -> None:
    client = mlflow.MlflowClient(tracking_uri=server)
    experiment = client.create_experiment("satellite")
    report(run, tmp_path, server, experiment="satellite")
    assert len(client.search_runs([experiment])) == 2


def test_several_students_are_nested_in_the_run_that_kubeflows_plugin_has_opened(
    server: str, run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient(tracking_uri=server)
    experiment = client.create_experiment("of the plugin")
    opened = client.create_run(experiment, run_name="write-report").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    report(run, tmp_path, server, experiment="unused")
    assert client.get_experiment_by_name("unused") is None
    students = [each for each in client.search_runs([experiment]) if each.info.run_id != opened]
    assert {each.data.tags["mlflow.parentRunId"] for each in students} == {opened}
    assert {each.info.run_name for each in students} == {"Student 0.2×", "Student 0.5×"}
    assert client.get_run(opened).info.status == "RUNNING", "who has opened it closes it"


def test_a_single_student_is_recorded_in_that_run_itself(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient(tracking_uri=server)
    experiment = client.create_experiment("of the plugin, too")
    opened = client.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    single = write_small_run(tmp_path, budgets=("0.5x",))
    for attempt in ("first", "again"):  # a task may be tried again
        report(single, tmp_path / attempt, server)
    (only,) = client.search_runs([experiment])
    assert (only.info.run_id, only.info.status) == (opened, "RUNNING")
    assert only.data.params["teacher.family"] == "pix2pix"
    assert {file.path for file in client.list_artifacts(opened)} == {"model", "report.html"}


def test_a_run_that_another_server_has_is_not_joined(
    server: str, run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", 32 * "0")
    report(run, tmp_path, server, experiment="own")
    client = mlflow.MlflowClient(tracking_uri=server)
    kept = client.search_runs([client.get_experiment_by_name("own").experiment_id])
    assert len(kept) == 2
    assert not any("mlflow.parentRunId" in each.data.tags for each in kept)


def test_a_server_that_is_not_there_is_named(run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9 did not record the run"):
        report(run, tmp_path, "http://127.0.0.1:9")
    assert (tmp_path / "report" / "report.html").is_file()
