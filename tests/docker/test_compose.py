"""The pipeline in containers that share nothing but an object store, with accidents."""

import json
import os
import re
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.docker.conftest import IMAGE, ROOT, Engine

pytestmark = pytest.mark.docker

STAGES = ("dataset", "real-stats", "teacher", "prune", "distill", "evaluate", "export", "report")
THERE_ALREADY = "exists and was made from"


def report_address(output: str) -> str:
    found = re.search(r"^http://localhost\S+$", output, re.MULTILINE)
    assert found, output
    return found.group()


def stages_that_ran(output: str) -> list[str]:
    return [stage for stage in STAGES if f"[{stage}] published" in output]


class BackgroundRun:
    """`make compose-run` under way, with its output in a file."""

    def __init__(self, engine: Engine, environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                engine.make_command("compose-run", "RECIPE=smoke"),
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def wait_for(self, text: str, *, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.output:
            assert self.process.poll() is None and time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def finish(self, *, seconds: float = 400) -> int:
        return self.process.wait(timeout=seconds)

    @property
    def output(self) -> str:
        return self._log.read_text()


def test_a_killed_stage_and_a_silent_store_cost_only_time(
    engine: Engine, project: dict[str, str], tmp_path: Path
) -> None:
    killed = BackgroundRun(engine, project, tmp_path / "killed.log")
    killed.wait_for("[teacher] fetched")
    engine.docker("kill", "cat-test-teacher-1")
    assert killed.finish() != 0
    assert "Stage teacher failed with exit code 137" in killed.output

    resumed = BackgroundRun(engine, project, tmp_path / "resumed.log")
    resumed.wait_for("[teacher] fetched")
    engine.docker("stop", "--time", "1", "cat-test-store-1")
    silent = time.monotonic()
    resumed.wait_for("trying again")
    time.sleep(max(0.0, silent + 20 - time.monotonic()))
    engine.docker("start", "cat-test-store-1")
    assert resumed.finish() == 0, resumed.output
    assert stages_that_ran(resumed.output) == list(STAGES[2:])
    assert resumed.output.count(THERE_ALREADY) == 2

    began = time.monotonic()
    again = BackgroundRun(engine, project, tmp_path / "again.log")
    assert again.finish() == 0
    assert stages_that_ran(again.output) == []
    assert time.monotonic() - began < 120
    with urllib.request.urlopen(report_address(again.output)) as answer:
        page = answer.read()
    assert answer.headers["Content-Type"] == "text/html"
    assert b"smoke" in page

    secret = dict(line.split("=") for line in (ROOT / "docker/compose.env").read_text().split())["STORE_SECRET_KEY"]
    assert secret not in killed.output + resumed.output + again.output
    container = json.loads(engine.docker("inspect", "cat-test-teacher-1").stdout)[0]
    assert container["Config"]["User"] == "54321:54321"
    assert container["Config"]["Image"] == IMAGE
    assert container["HostConfig"]["ReadonlyRootfs"] is True
    assert container["HostConfig"]["CapDrop"] == ["ALL"]


def test_the_exit_code_is_that_of_the_stage(engine: Engine, project: dict[str, str]) -> None:
    done = engine.make("compose-run", "RECIPE=no-such-recipe", environment=project)
    assert done.returncode != 0
    assert "Stage dataset failed with exit code 2" in done.stderr
    assert "There is no recipe 'no-such-recipe'" in done.stdout + done.stderr
