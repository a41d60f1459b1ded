"""What `make` says and checks before it builds images, and what it pushes, with a docker client that notes calls."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docker.conftest import ROOT

CLIENT = """#!/bin/sh
echo "$@" >> {folder}/calls
case "$*" in
version*) {version} ;;
"buildx version") {buildx} ;;
pull*) {pull} ;;
*RepoDigests*) echo python@sha256:0123 ;;
esac
"""
MEGABYTES = "3.2 GB of CUDA libraries"


@dataclass
class Checkout:
    """A copy of what `make` needs, with a docker client that answers as it is told to."""

    folder: Path

    def make(self, *words: str, version: str = "echo 29.0.1", buildx: str = "true", pull: str = "true") -> "Done":
        client = self.folder / "client"
        client.write_text(CLIENT.format(folder=self.folder, version=version, buildx=buildx, pull=pull))
        client.chmod(0o755)
        (self.folder / "calls").unlink(missing_ok=True)
        command = ["make", f"DOCKER={client}", *words]
        environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")}
        done = subprocess.run(
            command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        calls = (self.folder / "calls").read_text().splitlines() if (self.folder / "calls").exists() else []
        return Done(done.returncode, done.stdout, calls)


@dataclass
class Done:
    code: int
    said: str
    calls: list[str]

    @property
    def built(self) -> list[str]:
        return [call for call in self.calls if call.startswith("build ")]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    for name in ("Makefile", "requirements-torch.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "docker", tmp_path / "docker", ignore=shutil.ignore_patterns("base.digest", "compose.env"))
    (tmp_path / "components").mkdir()
    for name in ("__init__.py", "image.py"):
        shutil.copy(ROOT / "components" / name, tmp_path / "components")
    return Checkout(tmp_path)


@pytest.mark.parametrize("target", ["docker-image", "docker-store", "docker-push"])
@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        ({"buildx": "exit 1"}, "lacks the plugin buildx"),
        ({"version": "exit 1"}, "No Docker engine answers"),
    ],
)
def test_what_cannot_build_is_one_sentence(
    target: str, faults: dict[str, str], sentence: str, checkout: Checkout
) -> None:
    done = checkout.make(target, "IMAGE=cat:1", "REGISTRY=r", **faults)
    assert done.code == 2
    assert done.said.count(sentence) == 1
    assert not done.built
    assert not (checkout.folder / "build").exists(), "nothing was begun"
    assert len([line for line in done.said.splitlines() if not line.startswith("make")]) == 1


def test_an_old_client_builds_without_the_plugin(checkout: Checkout) -> None:
    done = checkout.make("docker-image", "IMAGE=cat:1", version="echo 20.10.24+dfsg1", buildx="exit 1")
    assert done.code == 0, done.said
    assert done.built


@pytest.mark.parametrize(
    ("words", "warned"),
    [
        ([], True),
        (["FLAVOUR=cpu"], True),
        (["TORCH_INDEX=https://wheels.example.com/cpu"], False),
        (["FLAVOUR=cuda"], False),
    ],
)
def test_the_size_of_a_cpu_image_is_told_before_it_is_built(words: list[str], warned: bool, checkout: Checkout) -> None:
    done = checkout.make("docker-image", "IMAGE=cat:1", *words)
    assert done.code == 0, done.said
    assert (MEGABYTES in done.said) is warned
    assert ("TORCH_INDEX=URL" in done.said) is warned
    if warned:
        assert done.said.index(MEGABYTES) < done.said.index("--file docker/Dockerfile")


def test_an_unknown_flavour_is_refused_before_the_build(checkout: Checkout) -> None:
    done = checkout.make("docker-image", "IMAGE=cat:1", "FLAVOUR=gpu")
    assert done.code == 2
    assert "FLAVOUR must be cpu or cuda, not 'gpu'" in done.said
    assert not done.built


def test_the_digest_of_the_base_is_recorded_and_used(checkout: Checkout) -> None:
    assert "BASE_IMAGE=python:3.11-slim-bookworm" in checkout.make("docker-image", "IMAGE=cat:1").built[0]
    assert checkout.make("pin-base").code == 0
    assert (checkout.folder / "docker/base.digest").read_text() == "python@sha256:0123\n"
    for target in ("docker-image", "docker-store"):
        assert "BASE_IMAGE=python@sha256:0123 " in checkout.make(target, "IMAGE=cat:1").built[0]
    assert "BASE_IMAGE=own:1" in checkout.make("docker-image", "IMAGE=cat:1", "BASE_IMAGE=own:1").built[0]


def test_a_base_that_was_made_here_serves_every_later_build(checkout: Checkout) -> None:
    (checkout.folder / "docker/base.sh").write_text("#!/bin/sh\n")
    made = checkout.make("docker-base", "docker-store")  # in one call, as the Makefile's head says
    assert made.code == 0, made.said
    assert "BASE_IMAGE=cat-base:bookworm " in made.built[0]
    assert "BASE_IMAGE=cat-base:bookworm " in checkout.make("docker-image", "IMAGE=cat:1").built[0]
    pushed = checkout.make("docker-push", "IMAGE=cat:1", "REGISTRY=r").calls
    assert [call for call in pushed if call.startswith("push")][-1] == "push r/cat-store:4.48", "STORE is seaweedfs"
    assert "BASE_IMAGE=own:1 " in checkout.make("docker-image", "IMAGE=cat:1", "BASE_IMAGE=own:1").built[0]


def test_without_a_registry_no_digest_is_recorded(checkout: Checkout) -> None:
    done = checkout.make("pin-base", pull="exit 1")
    assert done.code == 2
    assert "No registry answers for python:3.11-slim-bookworm" in done.said
    assert not (checkout.folder / "docker/base.digest").exists()
    checkout.make("pin-base")
    checkout.make("pin-base", pull="exit 1")
    assert (checkout.folder / "docker/base.digest").read_text() == "python@sha256:0123\n", "the earlier one stays"


@pytest.mark.parametrize(("store", "images"), [("minio", ["cat:1"]), ("seaweedfs", ["cat:1", "cat-store:4.48"])])
def test_what_a_cluster_needs_is_pushed(store: str, images: list[str], checkout: Checkout) -> None:
    done = checkout.make("docker-push", "IMAGE=cat:1", "REGISTRY=registry.example.com/me", f"STORE={store}")
    assert done.code == 0, done.said
    pushed = [call.split()[-1] for call in done.calls if call.startswith("push")]
    assert pushed == [f"registry.example.com/me/{image}" for image in images]
    assert "--image registry.example.com/me/cat:1" in done.said


def test_pushing_needs_a_registry_before_anything_is_built(checkout: Checkout) -> None:
    done = checkout.make("docker-push", "IMAGE=cat:1")
    assert done.code == 2
    assert "REGISTRY=registry.example.com/me" in done.said
    assert not done.built
