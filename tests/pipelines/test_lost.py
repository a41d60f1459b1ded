"""Results that Kubeflow's cache still knows and the store has lost; stages that are made anew."""

import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.catlib.code_digest import STAGES, code_digest
from components.catlib.storage import Storage
from pipelines.__main__ import main
from pipelines.local import _placement
from pipelines.lost import read_artifacts
from pipelines.tasks import STAGE_OF_TASK
from tests.object_stores import SeaweedServer, seaweed_server
from tests.pipelines.kubeflow_server import KubeflowServer, kubeflow

WORKFLOW = json.loads((Path(__file__).parent / "recorded_lost.json").read_text())
"""The workflow of a run whose teacher came from the cache, trimmed: nodes that name addresses."""
TEACHER = (
    "minio://cat/artifacts/compress/ff800cd8-ee02-42bc-a2d0-4d5b39052a1b/train-teacher/"
    "ee8d6546-e515-47cb-9cfc-d37fee4b5483/teacher"
)
IMAGE = "registry.example/cat:1"


def test_the_artifacts_that_a_run_reads_are_found_in_plain_and_in_compressed_workflows() -> None:
    nodes = gzip.compress(json.dumps(WORKFLOW["status"]["nodes"]).encode())
    compressed = {"status": {"nodes": None, "compressedNodes": base64.b64encode(nodes).decode()}}
    assert read_artifacts(WORKFLOW) == read_artifacts(compressed) == [("train-teacher", TEACHER)]
    assert read_artifacts({}) == read_artifacts({"status": {}}) == []


@pytest.fixture(scope="module")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    with seaweed_server(tmp_path_factory.mktemp("store") / "data") as server:
        Storage(server.environment).make_bucket("s3://cat")
        yield server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeflowServer]:
    """A Kubeflow whose runs all have the recorded workflow."""
    with kubeflow(KubeflowServer()) as server:
        routes = server._routes()

        def manifest(run_id: str, **_: Any) -> tuple[int, Any]:
            return 200, {"pipeline_runtime": {"workflow_manifest": json.dumps(WORKFLOW)}}

        monkeypatch.setattr(server, "_routes", lambda: routes | {"GET /apis/v1beta1/runs/([^/]+)": manifest})
        yield server


def submitted(server: KubeflowServer, *more: str) -> dict[str, str]:
    """Submits a run; returns the digest of the code by task."""
    assert main(["submit", "--recipe", "smoke", "--host", server.host, "--image", IMAGE, *more]) == 0
    spec = server.runs[-1]["pipeline_spec"]["pipeline_spec"]
    graphs = [spec["root"]["dag"], *(each["dag"] for each in spec["components"].values() if "dag" in each)]
    return {
        name: task["inputs"]["parameters"]["code_digest"]["runtimeValue"]["constant"]
        for graph in graphs
        for name, task in graph["tasks"].items()
        if "code_digest" in task.get("inputs", {}).get("parameters", {})
    }


def test_a_lost_result_is_told_at_submit(
    server: KubeflowServer,
    object_store: SeaweedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def said(*more: str) -> list[str]:
        submitted(server, *more)
        return capsys.readouterr().err.splitlines()[:-1]

    assert said() == said() == [], "the store cannot be asked"
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    (line,) = said()
    assert line.startswith("warning: The result of train-teacher in run compress smoke ")
    assert f"({TEACHER}) is gone from the store" in line
    assert "add --no-cache train-teacher" in line
    assert said("--no-cache", "train-teacher") == []
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{}")
    Storage(object_store.environment).upload_file(manifest, f"{TEACHER}/manifest.json")
    assert said() == []
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of another store")
    assert said() == []


def test_a_stage_that_was_made_anew_is_what_the_cache_answers_with_from_then_on(server: KubeflowServer) -> None:
    plain = submitted(server)
    assert plain["train-teacher"] == code_digest("teacher")
    anew = submitted(server, "--no-cache", "teacher", "real-stats")
    changed = {task for task in plain if anew[task] != plain[task]}
    assert changed == {"train-teacher", "measure-real-images"}
    assert anew["train-teacher"].startswith(f"{code_digest('teacher')}+")
    assert submitted(server) == anew
    again = submitted(server, "--no-cache", "train-teacher")
    assert {task for task in plain if again[task] != anew[task]} == {"train-teacher"}


def test_other_code_needs_no_mark(server: KubeflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(server, "--no-cache", "teacher")
    monkeypatch.setattr("pipelines.anew.code_digest", lambda stage: "0123456789ab")
    assert submitted(server)["train-teacher"] == code_digest("teacher")


@pytest.mark.parametrize("command", ["submit", "run"])
def test_an_unknown_stage_is_refused_before_anything_is_sent(
    command: str, server: KubeflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--host", server.host] if command == "submit" else ["--workspace", str(tmp_path / "w")]
    assert main([command, "--recipe", "smoke", *place, "--image", IMAGE, "--no-cache", "train"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: --no-cache train names no task of this pipeline; it has prepare-dataset, ")
    assert "fetch-model" not in last
    assert server.requests == []


def test_every_stage_has_a_task() -> None:
    assert set(STAGE_OF_TASK.values()) == set(STAGES)


def test_local_runs_make_stages_anew_too() -> None:
    usual, anew = _placement(None, {}), _placement(None, {"teacher": "0123abcd"})
    assert anew.code_digest("teacher") == f"{usual.code_digest('teacher')}+0123abcd"
    assert anew.code_digest("prune") == usual.code_digest("prune")
    assert _placement("cat:1", {"prune": "m"}).code_digest("prune") == f"{code_digest('prune')}+m"
