"""The compiled pipeline: what Kubeflow gets for each recipe, compared with a golden copy."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, components

from components.catlib.config import load_recipe, recipe_names
from pipelines.compress import compress_pipeline

GOLDEN = Path(__file__).parent / "golden"


def compiled(name: str, folder: Path) -> dict[str, Any]:
    path = folder / f"{name}.yaml"
    compiler.Compiler().compile(compress_pipeline(load_recipe(name), image="cat-pipeline:golden"), str(path))
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("name", recipe_names())
def test_the_compiled_pipeline_is_the_golden_one(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    spec = compiled(name, tmp_path)
    del spec["sdkVersion"]
    golden = GOLDEN / f"compress-{name}.yaml"
    if request.config.getoption("--update-golden"):
        golden.write_text(yaml.safe_dump(spec, width=120))
    assert golden.is_file(), "no golden copy: run pytest with --update-golden and read what it wrote"
    assert spec == yaml.safe_load(golden.read_text())


def test_kubeflow_loads_the_compiled_file(tmp_path: Path) -> None:
    compiled("smoke", tmp_path)
    loaded = components.load_component_from_file(str(tmp_path / "smoke.yaml"))
    assert loaded.name == "compress"
    assert set(loaded.component_spec.inputs) >= {"budgets", "dataset", "teacher", "prune", "distill", "code_digest"}


def test_every_task_uses_the_image_and_knows_only_its_own_section(tmp_path: Path) -> None:
    spec = compiled("smoke", tmp_path)
    executors = spec["deploymentSpec"]["executors"]
    assert {executor["container"]["image"] for executor in executors.values()} == {"cat-pipeline:golden"}
    tasks = dict(spec["root"]["dag"]["tasks"])
    loop = next(name for name in tasks if "for-loop" in name)
    tasks |= spec["components"][tasks.pop(loop)["componentRef"]["name"]]["dag"]["tasks"]
    sections = {
        name: task["inputs"]["parameters"]["config"]["componentInputParameter"].removeprefix("pipelinechannel--")
        for name, task in tasks.items()
    }
    assert sections == {
        "prepare-dataset": "dataset",
        "measure-real-images": "real_stats",
        "train-teacher": "teacher",
        "prune-teacher": "prune",
        "distill-student": "distill",
        "evaluate-student": "evaluate",
        "export-student": "export",
        "write-report": "report",
    }
    assert all("code_digest" in task["inputs"]["parameters"] for task in tasks.values())


def test_building_the_pipeline_loads_no_heavy_library() -> None:
    script = "import sys, pipelines.compress; print([m for m in ('torch', 'numpy', 'onnx', 'matplotlib') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
