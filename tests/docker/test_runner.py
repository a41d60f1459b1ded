"""The pipeline's own runner with a container for every task."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.docker.conftest import IMAGE, Engine

pytestmark = pytest.mark.docker


def command(workspace: Path) -> list[str]:
    arguments = ["run", "--recipe", "smoke", "--runner", "docker", "--image", IMAGE, "--json"]
    return [sys.executable, "-m", "pipelines", *arguments, "--workspace", str(workspace)]


def running(engine: Engine) -> set[str]:
    return set(engine.docker("ps", "--quiet", "--filter", "label=cat-pipeline.run").stdout.split())


def test_the_same_pipeline_runs_in_containers(engine: Engine, tmp_path: Path) -> None:
    earlier = running(engine)
    with subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            output, errors = process.communicate(timeout=900)
        except BaseException:
            process.send_signal(signal.SIGINT)  # so that it stops its containers
            raise
    assert process.returncode == 0, errors
    answer = json.loads(output)
    assert len(answer["executed"]) == 8
    report = Path(answer["report"])
    assert "smoke" in report.read_text(encoding="utf-8")
    assert report.stat().st_uid == os.getuid()
    assert running(engine) <= earlier


def test_ctrl_c_leaves_no_container(engine: Engine, tmp_path: Path) -> None:
    earlier = running(engine)
    process = subprocess.Popen(command(tmp_path), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while running(engine) <= earlier:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 75
    assert "interrupted" in errors
    assert running(engine) <= earlier
