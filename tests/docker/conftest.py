"""A real Docker engine with the project's images, or a reason why there is none."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PUBLIC_BASE = "python:3.11-slim-bookworm"
OWN_BASE = "cat-base:bookworm"
IMAGE = "cat-pipeline:test"


@dataclass(frozen=True)
class Engine:
    """A Docker engine, reached through a command that can build with BuildKit."""

    command: str
    base_image: str

    def docker(self, *arguments: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([self.command, *arguments], capture_output=True, text=True, timeout=timeout)
        assert not check or done.returncode == 0, done.stderr
        return done

    def make(
        self, *arguments: str, folder: Path = ROOT, environment: dict[str, str] | None = None, timeout: float = 1800
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.make_command(*arguments),
            cwd=folder,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def make_command(self, *arguments: str) -> list[str]:
        variables = [f"DOCKER={self.command}", f"BASE_IMAGE={self.base_image}", f"IMAGE={IMAGE}", "STORE=seaweedfs"]
        return ["make", *variables, *arguments]  # of two values make takes the last


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The engine, with the images of the stages (flavour cpu) and of the store built from this checkout."""
    command = _docker_command()
    found = Engine(command, _base_image(command))
    for target in ("docker-store", "docker-image"):
        made = found.make(target)
        assert made.returncode == 0, made.stderr[-4000:]
    return found


def _docker_command() -> str:
    """Finds a docker command that reaches an engine and builds with BuildKit; skips the tests without one."""
    candidates = [os.environ.get("DOCKER", ""), "docker", "/usr/bin/docker"]
    reason = "no docker command is installed"
    for command in filter(None, map(shutil.which, filter(None, candidates))):
        reason = f"no Docker engine answers to {command}"
        version = _output(command, "version", "--format", "{{.Client.Version}} {{.Server.Version}}")
        if not version:
            continue
        reason = f"{command} cannot build with BuildKit, it lacks the plugin buildx"
        if _output(command, "buildx", "version") or int(version.split(".")[0]) < 23:
            return command
    pytest.skip(reason)


def _base_image(docker: str) -> str:
    """Chooses a base image: the public one where a registry is in reach, else one made from Debian's packages."""
    for image in (PUBLIC_BASE, OWN_BASE):
        if _output(docker, "image", "inspect", image):
            return image
    if _output(docker, "pull", "--quiet", PUBLIC_BASE):
        return PUBLIC_BASE
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        pytest.skip(f"no registry is in reach for {PUBLIC_BASE}, and making a base image needs root and debootstrap")
    made = subprocess.run(["make", "docker-base", f"DOCKER={docker}"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return OWN_BASE


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@pytest.fixture
def project(engine: Engine) -> Iterator[dict[str, str]]:
    """Environment of a compose project of its own, with an empty store; its containers run as a random user."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    environment = {"COMPOSE_PROJECT_NAME": "cat-test", "STORE_PORT": str(port), "CAT_USER": "54321:54321"}
    engine.make("compose-down", "ERASE=1", environment=environment)
    yield environment
    done = engine.make("compose-down", "ERASE=1", environment=environment)
    assert done.returncode == 0, done.stderr
