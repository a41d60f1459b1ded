"""The trial of a cluster against the project's own Kubeflow server and a real S3 server, as far as these can show."""

import contextlib
import io
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.catlib.artifacts import writing
from components.catlib.config import ReportConfig
from components.catlib.storage import Storage
from pipelines.__main__ import main
from tests.cluster import smoke
from tests.object_stores import SeaweedServer, seaweed_server
from tests.pipelines.kubeflow_server import KubeflowServer, kubeflow, recording

FIRST = "first-run"
"""Id of the run whose report the store holds."""

ONCE = ("prepare-dataset", "check-images", "measure-real-images", "train-teacher")
PER_BUDGET = ("prune-teacher", "distill-student", "evaluate-student", "export-student")
ALL = [*ONCE, *(f"{stage}{after}" for after in ("", " 1", " 2") for stage in PER_BUDGET)]


@dataclass
class PlayedCluster(KubeflowServer):
    """Answers to the trial as a Kubeflow 2.17.0 answers to such runs, some of them with a recording of one.

    Attributes:
        broken: What this cluster does not do: "reuse" results, "cancel" a run, "kill" a stage, write "logs".
        deleted: What was deleted.
    """

    broken: frozenset[str] = frozenset()
    deleted: list[str] = field(default_factory=list)

    def _routes(self) -> dict[str, Any]:
        return super()._routes() | {
            "POST /apis/v2beta1/runs/([^/:]+):terminate": self._terminate,
            "DELETE /apis/v2beta1/runs/([^/]+)": self._delete,
            "DELETE /apis/v2beta1/experiments/([^/]+)": self._delete,
        }

    def _create_run(self, *, body: bytes, **named: Any) -> tuple[int, Any]:
        status, made = super()._create_run(body=body, **named)
        run = self.runs[-1]
        run |= {"run_id": FIRST if len(self.runs) == 1 else uuid.uuid4().hex, **self._play(body.decode())}
        if "recording" in run:
            run["run_id"] = recording(run["recording"])["v2beta1"]["run_id"]
        return status, made | {"run_id": self.runs[-1]["run_id"]}

    def _play(self, asked: str) -> dict[str, Any]:
        """What becomes of a run."""
        if "no-pictures-here" in asked:
            return {"recording": "usererror"}
        if "7001" in asked and "kill" not in self.broken:
            return {"recording": "oom"}
        if "7002" in asked:
            return {"played": ("RUNNING", {"prepare-dataset": "Running"})}
        done = "Cached" if len(self.runs) > 1 and "reuse" not in self.broken else "Succeeded"
        return {"played": ("SUCCEEDED", dict.fromkeys(ALL, done) | {"write-report": "Succeeded"})}

    def _get_run(self, run_id: str, **named: Any) -> tuple[int, Any]:
        run = self._run(run_id) or {}
        self.history = [run.get("played", ("SUCCEEDED", {}))]
        status, answer = super()._get_run(run_id, **named)
        return status, {key: value for key, value in answer.items() if key != "played"}

    def _terminate(self, run_id: str, **_: Any) -> tuple[int, Any]:
        run = self._run(run_id)
        assert run is not None
        if "cancel" not in self.broken:
            run["recording"] = "terminated"
        return 200, {}

    def _delete(self, name: str, **_: Any) -> tuple[int, Any]:
        self.deleted.append(name)
        return 200, {}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SeaweedServer]:
    """A store that holds the report of the recorded run where that run says."""
    with seaweed_server(tmp_path / "store") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with writing(tmp_path / "report", kind="report", config=ReportConfig(name="smoke")) as writer:
            (writer.folder / "report.html").write_text("<html>" + 2000 * "x")
            for budget in smoke.BUDGETS:
                (writer.folder / budget).mkdir()
                (writer.folder / budget / "model.onnx").write_bytes(b"onnx")
        Storage().make_bucket("s3://cat")
        Storage().publish(tmp_path / "report", f"s3://cat/artifacts/compress/{FIRST}/write-report/1/report")
        yield server


def run_here(self: smoke.Smoke, words: list[str], seconds: float) -> tuple[int, str]:
    """Runs a command in this process, which saves its start."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(words)
    return code, said.getvalue()


def trial(broken: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[int, str, PlayedCluster]:
    """Runs the trial without kubectl; returns exit code, what it says, and the server."""
    monkeypatch.setattr(smoke, "STEP_SECONDS", 5)
    monkeypatch.setattr(smoke, "BUILD", tmp_path / "build")
    monkeypatch.setattr(smoke.Smoke, "run", run_here)
    logs = {
        "train-teacher": "[teacher] step 10/1800\n",
        "prepare-dataset": "[dataset] ERROR: There are no images in s3://cat/no-pictures-here.\n",
    }
    played = PlayedCluster(
        root="minio://cat/artifacts",
        broken=frozenset(broken),
        logs=dict.fromkeys(logs, "\n") if "logs" in broken else logs,
    )
    said = io.StringIO()
    with kubeflow(played) as server, contextlib.redirect_stderr(said):
        code = smoke.main(["--without-kubectl", "--host", server.host, "--image", "cat-pipeline:trial"])
    return code, said.getvalue(), played


def test_every_promise_that_the_servers_can_show_holds(
    store: SeaweedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, said, played = trial(set(), monkeypatch, tmp_path)
    assert code == 0, said
    assert f"{len(smoke.STEPS)} of {len(smoke.STEPS)} steps as promised" in said
    for step in smoke.STEPS:
        assert f"{step.__name__}: as promised" in said
    assert [line for line in said.splitlines() if line.startswith("not shown")] == [
        "not shown: the manifests install and make the bucket (needs kubectl)",
        "not shown: the namespace is left as it was (needs kubectl)",
        "not shown: a deleted training pod comes back and resumes (needs kubectl)",
        "not shown: logs outlive the pods (needs kubectl)",
    ]
    submitted = {run["run_id"] for run in played.runs if run.get("recording") != "usererror"}
    assert {*played.deleted} >= {*submitted, "e-1"}, "what the trial made in Kubeflow is deleted"


def test_a_cluster_that_breaks_its_promises_fails_step_by_step(
    store: SeaweedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, said, played = trial({"reuse", "cancel", "kill", "logs"}, monkeypatch, tmp_path)
    assert code == 1
    failed = {line.split()[1].rstrip(":") for line in said.splitlines() if line.startswith("FAILED")}
    assert failed == {"second_run", "out_of_memory", "logs_without_pods", "cancelled_run"}
    assert "refused_source" in said, "a source that is not there is refused before the cluster is asked"
    assert "Traceback" not in said
    assert "e-1" in played.deleted, "cleaned up all the same"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--without-kubectl", "--host", "http://127.0.0.1:9"], "Name the registry"),
        (["--without-kubectl", "--host", "http://127.0.0.1:9", "--registry", "r"], "127.0.0.1:9"),
    ],
)
def test_what_cannot_begin_is_one_sentence(
    words: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(smoke, "BUILD", tmp_path)
    assert smoke.main(words) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.strip().splitlines()) == 1
