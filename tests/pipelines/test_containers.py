"""The Docker runner's complaints; that it works is shown in tests/docker."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.catlib.code_digest import code_digests
from components.catlib.errors import UserError
from pipelines.containers import check_image_code


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


def image_with(digests: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts an engine in place whose image has the code of these digests; it runs what the check asks for here."""

    def run(image: str, command: list[str], **_: object) -> bytes:
        done = subprocess.run([sys.executable, *command[1:]], capture_output=True, check=True)
        return json.dumps(json.loads(done.stdout) | digests).encode()

    @contextlib.contextmanager
    def engine() -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(images=SimpleNamespace(get=str), containers=SimpleNamespace(run=run))

    monkeypatch.setattr("pipelines.containers.docker_engine", engine)


@pytest.mark.parametrize("stage", code_digests())
def test_an_image_with_other_code_of_any_stage_is_refused(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image_with({stage: "0123456789ab"}, monkeypatch)
    with pytest.raises(UserError, match=rf"image cat:1 holds other code than this folder, for {stage}; make it again"):
        check_image_code("cat:1")


def test_an_image_with_the_same_code_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    image_with({}, monkeypatch)
    check_image_code("cat:1")
