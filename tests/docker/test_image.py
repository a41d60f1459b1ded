"""The image: what is in it, what is not, and under which restrictions it runs."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.docker.conftest import IMAGE, ROOT, Engine

pytestmark = pytest.mark.docker

HARDENED = ("run", "--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "54321")


def inside(engine: Engine, program: str) -> str:
    """Runs a Python program in a hardened container and returns what it prints."""
    return engine.docker(*HARDENED, "--entrypoint", "python", IMAGE, "-c", program).stdout.strip()


def test_it_is_labelled_and_does_not_run_as_root(engine: Engine) -> None:
    config = json.loads(engine.docker("image", "inspect", IMAGE).stdout)[0]["Config"]
    assert config["User"].split(":")[0].isdigit()
    assert config["User"].split(":")[0] != "0"
    assert config["Labels"]["org.opencontainers.image.version"] in (ROOT / "components" / "__init__.py").read_text()
    assert config["Labels"]["org.opencontainers.image.revision"] not in ("", "unknown")
    assert config["Entrypoint"] == ["python", "-m", "components"]


def test_it_runs_as_any_user_with_a_read_only_root(engine: Engine) -> None:
    shown = engine.docker(*HARDENED, IMAGE, "prune", "--help").stdout
    assert "--teacher URI" in shown
    written = inside(
        engine, "import os, pathlib as p; f = p.Path.home() / 'f'; f.write_text('1'); print(os.getuid(), f)"
    )
    assert written == "54321 /tmp/f"


def test_it_holds_what_stages_and_lightweight_components_need(engine: Engine) -> None:
    program = (
        "import kfp, torch, torchvision, onnxruntime, minio, shutil;"
        "print(kfp.__version__, float(torch.nn.Conv2d(1, 1, 1)(torch.ones(1, 1, 1, 1)).detach()) != 0,"
        " bool(shutil.which('sh')), bool(shutil.which('mktemp')))"
    )
    version, *rest = inside(engine, program).split()
    assert f"kfp=={version}" in (ROOT / "requirements.lock").read_text()
    assert rest == ["True", "True", "True"]


def test_it_holds_no_compiler_no_cache_no_tests_no_secrets(engine: Engine) -> None:
    program = """
import pathlib, shutil
print([name for name in ("gcc", "cc", "g++", "clang", "make", "git") if shutil.which(name)])
print([str(p) for p in (pathlib.Path("/root/.cache"), pathlib.Path("/opt/cat/tests")) if p.exists()])
print([str(p) for p in pathlib.Path("/opt").rglob("tests") if p.is_dir()])
secrets = pathlib.Path("/etc/pip.conf"), pathlib.Path("/run/secrets/ca")
print([str(p) for p in secrets if p.exists() and p.read_text()])
"""
    engine_user = ("run", "--rm", "--user", "0", "--entrypoint", "python")
    assert engine.docker(*engine_user, IMAGE, "-c", program).stdout.split() == ["[]"] * 4


def test_it_says_what_is_in_it(engine: Engine) -> None:
    bill = json.loads((ROOT / "build/docker/cpu-sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    versions = {item["name"]: item["version"] for item in bill["components"]}
    texts = [(ROOT / name).read_text() for name in ("requirements-torch.lock", "requirements.lock")]
    lock = dict(re.findall(r"^([\w.-]+)==(\S+)", "".join(texts), re.MULTILINE))
    for package in ("torch", "numpy", "kfp", "minio"):
        assert versions[package].split("+")[0] == lock[package]
    assert "pytest" not in versions
    licences = (ROOT / "build/docker/cpu-licences.csv").read_text()
    assert '"minio"' in licences
    assert "Apache" in licences


def test_a_change_of_the_code_builds_in_seconds(engine: Engine, tmp_path: Path) -> None:
    for name in ("components", "pipelines", "docker"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (
        *ROOT.glob("requirements*.lock"),
        *(ROOT / name for name in ("pyproject.toml", "Makefile", ".dockerignore")),
    ):
        shutil.copy(path, tmp_path)
    stage = tmp_path / "components/prune/stage.py"
    stage.write_text(stage.read_text() + "\n# changed\n")
    began = time.monotonic()
    made = engine.make("docker-image", "IMAGE=cat-pipeline:changed", folder=tmp_path)
    seconds = time.monotonic() - began
    engine.docker("image", "rm", "cat-pipeline:changed", check=False)
    assert made.returncode == 0, made.stderr
    assert seconds < 60
