"""The example notebook: every cell runs, against a server that speaks Kubeflow's API and a real object store."""

import json
from pathlib import Path

import pytest

from components.catlib.artifacts import writing
from components.catlib.config import ReportConfig
from components.catlib.storage import Storage
from tests.object_stores import seaweed_server
from tests.pipelines.kubeflow_server import RUN_ID, KubeflowServer, kubeflow

NOTEBOOK = Path(__file__).parents[2] / "pipelines" / "examples" / "kubeflow.ipynb"


@pytest.mark.parametrize(("root", "interface"), [("cat/artifacts", True), ("mlpipeline/v2/artifacts", False)])
def test_every_cell_of_the_notebook_runs(
    root: str, interface: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if cell["cell_type"] == "code")
    with writing(tmp_path / "report", kind="report", config=ReportConfig()) as writer:
        writer.write_json("report.html", {})
        (writer.folder / "students" / "0.1x").mkdir(parents=True)
        writer.write_json("students/0.1x/metrics.json", {"student": {"paper_macs": 1234567, "l1": 0.25}})
    history = [("SUCCEEDED", {"train-teacher": "Succeeded", "write-report": "Succeeded"})]
    logs = {"train-teacher": "[teacher] step 1/2\n"}
    monkeypatch.chdir(tmp_path)
    with (
        seaweed_server(tmp_path / "store") as store,
        kubeflow(KubeflowServer(history=history, logs=logs, root=f"minio://{root}", interface=interface)) as server,
    ):
        for name, value in {**store.environment, "KUBEFLOW_HOST": server.host}.items():
            monkeypatch.setenv(name, value)
        Storage().make_bucket(f"s3://{root.partition('/')[0]}")
        Storage().publish(tmp_path / "report", f"s3://{root}/compress/{RUN_ID}/write-report/1/report")
        namespace: dict[str, object] = {}
        for number, cell in enumerate(cells):
            exec(compile(cell, f"cell {number}", "exec"), namespace)
    said = capsys.readouterr().out
    assert (f"{server.host}/#/runs/details/{RUN_ID}" in said) is interface
    assert f"/#/runs/details/{RUN_ID}" in said, "or how to get a page"
    assert ", train-teacher: succeeded\n" in said
    assert "write-report: succeeded\nSUCCEEDED\n" in said
    assert "[teacher] step 1/2" in said
    assert "0.1x              1,234,567 MACs   L1 0.250" in said
