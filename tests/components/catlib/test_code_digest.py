"""The code of each stage: what belongs to it, what does not, and that what really runs is part of it."""

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.catlib import code_digest as module
from components.catlib.code_digest import (
    DATA_SUFFIXES,
    ROOT,
    STAGES,
    closure,
    code_and_library_digest,
    code_digest,
    code_digests,
    library_digest,
    library_versions,
)
from components.catlib.recipes import load_recipe

TRAINING = {"teacher", "distill", "fetch_teacher"}
EVERYTHING = set(STAGES)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the project's packages."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "components", tmp_path / "copy/components", ignore=ignored)
    return tmp_path / "copy"


def digests(root: Path) -> dict[str, str]:
    return {stage: code_digest(stage, root) for stage in STAGES}


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("catlib/reporting/report.css", {"report"}),
        ("catlib/reporting/report.html", {"report", "publish"}),
        ("catlib/reporting/glance.html", set()),
        ("catlib/reporting/page.py", {"report"}),
        ("report/stage.py", {"report"}),
        ("export/stage.py", {"export"}),
        ("evaluate/stage.py", {"evaluate"}),
        ("teacher/stage.py", {"teacher"}),
        ("teacher/component.py", set()),
        ("kubeflow.py", set()),
        ("running.py", set()),
        ("__main__.py", set()),
        ("catlib/objectives/distillers/kernel_alignment.py", {"distill"}),
        ("catlib/training/distilling.py", {"distill"}),
        ("catlib/training/loop.py", TRAINING),
        ("catlib/data/packing.py", {"dataset"}),
        ("catlib/pruning/search.py", {"prune"}),
        ("catlib/timing.py", {"evaluate", "export", "report"}),
        ("catlib/metrics/perceptual_similarity.py", {*TRAINING, "evaluate", "export"}),
        ("catlib/errors.py", EVERYTHING),
        ("catlib/__init__.py", EVERYTHING),
        ("fetch/teacher.py", {"fetch_teacher"}),
        ("fetch/stage.py", {"fetch", "fetch_teacher"}),
        ("sweep/stage.py", {"sweep"}),
    ],
)
def test_a_blank_line_changes_the_digests_of_the_stages_that_use_the_file(
    file: str, changed: set[str], copied: Path
) -> None:
    with (copied / "components" / file).open("ab") as stream:
        stream.write(b"\n")
    after = digests(copied)
    assert {stage for stage, digest in code_digests().items() if after[stage] != digest} == changed


def test_the_digest_is_the_same_everywhere(copied: Path, tmp_path: Path) -> None:
    """In a copy without git, third-party packages or compiled files, as it is installed or lies in the image."""
    program = "import json; from components.catlib.code_digest import code_digests; print(json.dumps(code_digests()))"
    done = subprocess.run(
        [sys.executable, "-S", "-B", "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(copied)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == code_digests()
    assert all(len(digest) == 12 for digest in code_digests().values())


def test_a_digest_is_found_quickly() -> None:
    program = (
        "import time; from components.catlib.code_digest import code_digest;"
        "began = time.process_time(); code_digest('teacher'); print(time.process_time() - began)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.6
    began = time.process_time()
    code_digest("teacher")
    code_digest("teacher")
    assert time.process_time() - began < 0.6


def test_the_files_that_are_installed_are_those_that_count() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(settings["tool"]["setuptools"]["package-data"]["*"]) == {f"*{suffix}" for suffix in DATA_SUFFIXES}
    files = [path for path in (ROOT / "components").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.suffix for path in files} <= {*DATA_SUFFIXES, ".py"}


# ------------------------------------------------------------------------------------------------------------- closure


def project(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"__init__.py": "", "a/__init__.py": "", "b/__init__.py": "", **files}.items():
        path = root / "components" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    "statement",
    [
        "import components.b.other",
        "import components.b.other as other",
        "from components.b import other",
        "from components.b import first, other",
        "from components.b.other import Thing",
        "from ..b import other",
        "from ..b.other import Thing",
        "def late():\n    from components.b import other",
        "class C:\n    def late(self):\n        if self:\n            import components.b.other",
        "try:\n    pass\nexcept ImportError:\n    from components.b import other",
        "try:\n    pass\nfinally:\n    from components.b import other",
        "for i in ():\n    pass\nelse:\n    from components.b import other",
        "with open('x'):\n    from components.b import other",
        "match 1:\n    case 1:\n        from components.b import other",
        "async def late():\n    from components.b import other",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    from components.b import other",
        "import importlib\nimportlib.import_module('components.b.other')",
        "from components import b\nfrom components.a.two import x",
    ],
)
def test_every_way_to_import_counts(statement: str, tmp_path: Path) -> None:
    files = {"a/one.py": statement, "a/two.py": "from components.b.other import x", "b/other.py": "", "b/rest.py": ""}
    found = closure("components.a.one", project(tmp_path, files)).modules
    assert "components.b.other" in found
    assert {"components", "components.a", "components.b"} <= found
    assert "components.b.rest" not in found


@pytest.mark.parametrize("guard", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_imports_for_the_type_checker_do_not_count(guard: str, tmp_path: Path) -> None:
    text = f"import typing\nfrom typing import TYPE_CHECKING\nif {guard}:\n    from components.b import other\n"
    root = project(tmp_path, {"a/one.py": text, "b/other.py": "import torch"})
    assert closure("components.a.one", root) == closure("components.a.one", root)
    assert "components.b.other" not in closure("components.a.one", root).modules
    assert closure("components.a.one", root).libraries == set()


def test_what_a_package_imports_counts_for_its_modules(tmp_path: Path) -> None:
    files = {"a/__init__.py": "from .two import x", "a/one.py": "", "a/two.py": "import numpy.linalg, os"}
    found = closure("components.a.one", project(tmp_path, files))
    assert "components.a.two" in found.modules
    assert found.libraries == {"numpy"}


@pytest.mark.parametrize(
    ("files", "counts"),
    [
        ({"a/one.py": "open('table.csv')", "a/table.csv": ""}, True),
        ({"a/one.py": "open('page.html')", "a/page.html": "{% include 'table.csv' %}", "a/table.csv": ""}, True),
        ({"a/one.py": "", "a/two.py": "open('table.csv')", "a/table.csv": ""}, False),
        ({"a/one.py": "open(f'{name}.csv')", "a/table.csv": ""}, True),
        ({"a/one.py": "glob('data/*.csv')", "a/data/table.csv": ""}, True),
        ({"a/one.py": "", "b/table.csv": ""}, False),
        ({"a/one.py": "from components.b import other", "b/other.py": "open('table.csv')", "b/table.csv": ""}, True),
        ({"a/one.py": "open('table.csv')", "table.csv": ""}, True),
        ({"a/one.py": "open('table.csv')", "a/sub/__init__.py": "", "a/sub/table.csv": ""}, False),
    ],
)
def test_data_files_count_for_the_code_that_may_load_them(files: dict[str, str], counts: bool, tmp_path: Path) -> None:
    names = {path.name for path in closure("components.a.one", project(tmp_path, files)).files}
    assert ("table.csv" in names) is counts


# -------------------------------------------------------------------------------------------- what really runs is in it

# Forks a process per stage, so that torch is loaded once and every stage starts without a module of the project.
RUNNER = """
import json, os, sys, traceback
from pathlib import Path
import matplotlib, onnx, onnxruntime, onnxscript, scipy.linalg, skimage.metrics, torch, torchmetrics, torchvision
import torch.utils.tensorboard

folder, sections = Path(sys.argv[1]), json.loads(sys.argv[2])
at = lambda *names: {name: folder / name for name in names}
KINDS = {
    "dataset": "DatasetConfig", "real_stats": "RealStatsConfig", "teacher": "TeacherConfig", "prune": "PruneConfig",
    "distill": "DistillConfig", "evaluate": "EvaluateConfig", "export": "ExportConfig", "report": "ReportConfig",
    "publish": "PublishConfig",
}
DATA = at("dataset", "real_stats")
GIVEN = {
    "dataset": {}, "real_stats": at("dataset"), "teacher": DATA | {"checkpoint": str(folder / "state")},
    "prune": at("teacher") | {"budget": "0.5x"},
    "distill": DATA | at("teacher") | {"student": folder / "prune"},
    "evaluate": DATA | at("teacher") | {"student": folder / "distill"},
    "export": at("dataset") | {"student": folder / "distill"},
    "report": DATA | at("teacher") | {"students": [folder / "prune"], "distilled": [folder / "distill"],
                                      "evaluations": [folder / "evaluate"], "exports": [folder / "export"]},
    "publish": at("dataset", "teacher") | {"students": [folder / "distill"], "exports": [folder / "export"],
                                           "evaluations": [folder / "evaluate"], "pruned": [folder / "prune"]},
}

def go(stage):
    if stage == "fetch":
        from components.fetch.stage import run
        run(address=str(folder / "teacher"), kind="teacher", output=folder / "fetch")
    elif stage == "fetch_teacher":
        from components.catlib.config import PruneConfig, TeacherConfig, validate
        from components.fetch.teacher import run
        run(str(folder / "teacher"), config=validate(TeacherConfig, sections["teacher"], where=stage),
            prune=validate(PruneConfig, sections["prune"], where=stage), dataset=folder / "dataset",
            output=folder / "fetch_teacher")
    elif stage == "sweep":
        from components.sweep.stage import markdown, plan
        grid = ["0.1x"], [{}], [0]
        made = plan(*grid, prune=sections["prune"], distill=sections["distill"], seconds=0)
        markdown(*grid, made)
    elif stage == "check":
        from components.check.stage import run
        run({name: sections[name] for name in ("teacher", "distill", "prune", "evaluate")}, dataset=folder / "dataset")
    else:
        import importlib
        from components.catlib import config
        section = config.validate(getattr(config, KINDS[stage]), sections[stage], where=stage)
        importlib.import_module(f"components.{stage}.stage").run(section, output=folder / stage, **GIVEN[stage])

for stage in [*GIVEN, "fetch", "fetch_teacher", "sweep", "check"]:
    if (child := os.fork()) == 0:
        try:
            go(stage)
            loaded = sorted(name for name in sys.modules if name.partition(".")[0] in ("components", "pipelines"))
            (folder / f"{stage}.json").write_text(json.dumps(loaded))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, stage
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The modules of the project that every stage loads while it makes a small run."""
    folder = tmp_path_factory.mktemp("run")
    changes = ["dataset.max_images=4", "dataset.load_size=34", "dataset.crop_size=32", "real_stats.features=random"]
    for section in ("teacher", "distill"):
        changes += [f"{section}.epochs=1", f"{section}.decay_epochs=0", f"{section}.batch_size=2"]
        changes += [f"{section}.evaluations=1", f"{section}.evaluation_images=2"]
    recipe = load_recipe("smoke", changes)
    sections = {stage: recipe.section(stage) for stage in STAGES if hasattr(recipe, stage) and stage != "sweep"}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(folder), json.dumps(sections)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {stage: json.loads((folder / f"{stage}.json").read_text()) for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_every_module_that_a_stage_loads_is_part_of_its_code(stage: str, loaded: dict[str, list[str]]) -> None:
    found = closure(STAGES[stage]).modules
    assert STAGES[stage] in loaded[stage]
    assert set(loaded[stage]) <= found


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_holds_what_only_shows_it(stage: str) -> None:
    found = closure(STAGES[stage]).modules
    assert not {name for name in found if name.endswith(".component")}
    assert not {"components.kubeflow", "components.running", "components.stages", "components.image"} & found
    assert "components.catlib.reporting.glance" not in found


# ----------------------------------------------------------------------------------------------------------- libraries


@pytest.mark.parametrize("stage", STAGES)
def test_every_library_of_a_stage_is_installed_under_a_known_name(stage: str) -> None:
    missing = {name for name, version in library_versions(stage).items() if not version}
    assert missing <= {"openvino", "coremltools", "ai-edge-litert"}, "extras, which need not be installed"


def test_the_libraries_of_a_stage_are_those_that_compute() -> None:
    assert {"torch", "torchvision", "numpy", "scipy", "pillow", "scikit-image"} <= library_versions("teacher").keys()
    assert {"onnx", "onnxruntime", "onnxscript", "torch"} <= library_versions("export").keys()
    assert {"torchmetrics", "torch_fidelity"} <= library_versions("evaluate").keys()
    # torch: copies shared by processes
    assert library_versions("dataset").keys() == {"numpy", "pillow", "tifffile", "torch"}
    assert library_versions("sweep") == {}


@pytest.mark.parametrize(
    ("library", "stages"),
    [
        ("torch", EVERYTHING - {"sweep"}),
        ("onnxscript", {"export", "publish"}),
        ("pillow", EVERYTHING - {"prune", "fetch", "sweep"}),
        ("minio", set()),
    ],
)
def test_another_version_of_a_library_changes_the_stages_that_compute_with_it(
    library: str, stages: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {stage: library_digest(stage) for stage in STAGES}
    installed: Callable[[str], Any] = module._version
    monkeypatch.setattr(module, "_version", lambda name: "0.0" if name == library else installed(name))
    assert {stage for stage in STAGES if library_digest(stage) != before[stage]} == stages


def test_a_local_key_holds_code_and_libraries() -> None:
    assert code_and_library_digest("real-stats") == f"{code_digest('real_stats')}+{library_digest('real_stats')}"
