"""The runtime comes from npm once, and only with the recorded digest."""

import base64
import hashlib
from pathlib import Path

import pytest

from components.catlib.errors import Unavailable, UserError
from components.catlib.try_page import runtime
from components.catlib.try_page.runtime import FILE, fetch

CONTENT = b"the package"


@pytest.fixture(autouse=True)
def _recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = base64.b64encode(hashlib.sha512(CONTENT).digest()).decode()
    monkeypatch.setattr(runtime, "INTEGRITY", f"sha512-{digest}")


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called npm; the test writes what it does."""
    path = tmp_path / "bin" / "npm"
    path.parent.mkdir()
    monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
    return path


def does(npm: Path, script: str) -> None:
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)


def test_the_package_is_fetched_once_and_again_when_it_is_damaged(npm: Path, tmp_path: Path) -> None:
    does(npm, f'echo "$@" >> {tmp_path}/calls; printf "{CONTENT.decode()}" > {FILE}')
    for _ in range(2):
        assert fetch(tmp_path / "kept").read_bytes() == CONTENT
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[:2] for call in calls] == [["pack", f"onnxruntime-web@{runtime.VERSION}"]]
    (tmp_path / "kept" / FILE).write_bytes(b"damaged")
    assert fetch(tmp_path / "kept").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [FILE]


def test_another_content_is_never_used(npm: Path, tmp_path: Path) -> None:
    does(npm, f"printf other > {FILE}")
    with pytest.raises(UserError, match=r"another onnxruntime-web .* digest this project records") as raised:
        fetch(tmp_path / "kept")
    assert raised.value.exit_code == 2
    assert not (tmp_path / "kept").exists()


def test_a_registry_that_is_away_can_be_asked_again(npm: Path, tmp_path: Path) -> None:
    does(npm, "echo 'npm error code ENOTFOUND' >&2; echo 'npm error network request failed' >&2; exit 1")
    with pytest.raises(Unavailable, match=r"\(code ENOTFOUND, network request failed\); run this again"):
        fetch(tmp_path / "kept")


def test_without_npm_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"npm is not installed.*install Node.js with npm"):
        fetch(tmp_path / "kept")
