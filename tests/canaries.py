"""Secrets that are easy to find again: put into every variable, then looked for in everything that a command leaves."""

import base64
import contextlib
import json
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.object_stores import SECRET_KEY

CANARIES = {
    "AWS_SECRET_ACCESS_KEY": "c4nary-secret-access-key",
    "AWS_SESSION_TOKEN": "c4nary-session-token",
    "CAT_WEB_TOKEN": "c4nary-web-token",
    "CAT_WEB_PASSWORD": "c4nary-web-password",
    "MLFLOW_TRACKING_PASSWORD": "c4nary-mlflow-password",
    "NETRC": "c4nary-netrc-password",
    "KUBEFLOW": "c4nary-kubeflow-token",
}
USER = "tester"


def written_forms() -> list[bytes]:
    """Every canary as it is, and as it stands in a header of basic authentication."""
    secrets = [*CANARIES.values(), SECRET_KEY]
    basic = [base64.b64encode(f"{USER}:{secret}".encode()) for secret in secrets]
    return [secret.encode() for secret in secrets] + basic


def found_in(content: Any) -> list[str]:
    """The canaries in a text, in bytes, in JSON values, or in the files below a folder."""
    if isinstance(content, Path):
        files = [path for path in content.rglob("*") if path.is_file()]
        assert files, f"{content} is empty: nothing was searched"
        return [f"{path}: {form}" for path in files for form in found_in(path.read_bytes() + path.name.encode())]
    if isinstance(content, str):
        content = content.encode()
    if not isinstance(content, bytes):
        content = json.dumps(content, default=str).encode()
    return [form.decode() for form in written_forms() if form in content]


@contextlib.contextmanager
def watched_processes() -> Iterator[set[str]]:
    """Collects the command lines of all processes of this machine while the context lasts."""
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            seen.update(_command_lines(Path("/proc").glob("[0-9]*/cmdline")))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def _command_lines(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        with contextlib.suppress(OSError):
            yield file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
