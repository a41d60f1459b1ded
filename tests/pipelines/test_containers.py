"""The Docker runner's complaints; that it works is shown in tests/docker."""

import subprocess
import sys
from pathlib import Path


def test_without_an_engine_the_docker_runner_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "run", "--recipe", "smoke", "--runner", "docker"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "DOCKER_HOST": "tcp://127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "No Docker engine answers" in done.stderr
    assert "Traceback" not in done.stderr
