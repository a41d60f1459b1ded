"""First contact: a wrong address ends a command soon, a task waits for a server that may be starting."""

import contextlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.__main__ import main
from components.catlib.code_digest import code_digest
from components.catlib.errors import UserError
from components.catlib.storage import Storage, connecting
from components.catlib.storage.retrying import Unreachable
from components.catlib.storage.settings import WAIT_VARIABLE, waiting_for_servers, waits_for_servers
from components.kubeflow import stage_process
from tests.object_stores import COMPLETE, SeaweedServer, seaweed_server
from tests.proxies import proxy
from tests.web_servers import web_server

LIMIT_SECONDS = 10


@contextlib.contextmanager
def nobody() -> Iterator[str]:
    """A port where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}"


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def hung() -> Iterator[str]:
    """A server that takes no more connections and refuses none, as behind a firewall."""
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def resetting() -> Iterator[str]:
    """A server that closes every connection, as a port-forward to a pod that is gone."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listening.accept()[0].close()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def unknown() -> Iterator[str]:
    yield "http://nowhere.invalid:9000"


MAKE_BUCKET = ["make-bucket", "s3://cat"]
PRUNE = ["prune", "--teacher", "s3://cat/teacher", "--budget", "0.5x", "--output", "s3://cat/pruned"]


@pytest.mark.parametrize(
    ("server", "arguments"),
    [(nobody, PRUNE), (silent, PRUNE), (hung, MAKE_BUCKET), (resetting, MAKE_BUCKET), (unknown, MAKE_BUCKET)],
)
def test_a_command_with_a_wrong_endpoint_ends_soon_and_names_the_setting(
    server, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with server() as endpoint:
        for name, value in {**COMPLETE, "S3_ENDPOINT": endpoint}.items():
            monkeypatch.setenv(name, value)
        began = time.monotonic()
        assert main(arguments) == 2
        assert time.monotonic() - began < LIMIT_SECONDS - 1, "and Python takes a second to start"
    said = capsys.readouterr().err
    (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "check S3_ENDPOINT" in sentence
    assert endpoint.removeprefix("http://") in sentence
    assert "Traceback" not in said


@pytest.mark.parametrize("server", [nobody, silent, hung, resetting, unknown])
def test_a_wrong_web_address_ends_soon_and_is_named(server, tmp_path: Path) -> None:
    with server() as endpoint:
        store = Storage({}, cache=tmp_path)
        began = time.monotonic()
        with pytest.raises(UserError, match=r"check the address|is this machine online") as caught:
            store.fingerprint(f"{endpoint}/a.zip")
            store.cached(f"{endpoint}/a.zip")
        assert time.monotonic() - began < LIMIT_SECONDS - 1
    assert caught.value.exit_code == 2
    assert endpoint.removeprefix("http://").partition(":")[0] in str(caught.value)


@pytest.mark.parametrize("server", [nobody, silent])
def test_a_task_waits_for_a_server_that_never_answered_and_ends_as_unavailable(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "USUAL_TIMES", connecting.urllib3.Timeout(connect=1, read=1))
    with server() as endpoint:
        store = Storage({**COMPLETE, "S3_ENDPOINT": endpoint, WAIT_VARIABLE: "1"}, patience=5, cache=tmp_path)
        for ask in (lambda: store.manifest("s3://cat/any"), lambda: store.cached(f"{endpoint}/a.zip")):
            began = time.monotonic()
            with pytest.raises(Unreachable, match="is it up"):
                ask()
            assert 4 < time.monotonic() - began < 9


def test_a_task_reaches_a_store_that_starts_later(tmp_path: Path) -> None:
    with seaweed_server(tmp_path / "data") as server:
        server.stop()
        starting = threading.Timer(connecting.CONNECT_SECONDS + 3, server.start)
        starting.start()
        store = Storage({**server.environment, WAIT_VARIABLE: "1"}, patience=60)
        assert store.make_bucket("s3://cat") is True
        starting.join()


def test_a_store_that_was_reached_and_is_lost_is_waited_for(object_store: SeaweedServer, tmp_path: Path) -> None:
    with proxy(object_store.port) as between:
        environment = {**object_store.environment, "S3_ENDPOINT": between.endpoint}
        assert not Storage(environment).is_file("s3://cat/none")
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"did not answer for \d s .*is it up") as caught:
        Storage(environment, patience=5).is_file("s3://cat/none")
    assert caught.value.exit_code == 75
    assert time.monotonic() - began > 4, "another connection of this process knows it, too"


def test_a_web_server_that_was_reached_and_is_lost_is_waited_for(tmp_path: Path) -> None:
    with web_server() as server:
        server.files["/a"], url = b"1", server.url("/a")
        Storage({}, cache=tmp_path).cached(url)
    began = time.monotonic()
    with pytest.raises(Unreachable):
        Storage({}, patience=4, cache=tmp_path / "other").cached(url)
    assert time.monotonic() - began > 3.5


@pytest.mark.parametrize("status", [403, 404, 503])
def test_any_answer_is_a_contact(status: int) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        assert not connecting.has_answered(endpoint)
        with pytest.raises(UserError):
            Storage({**COMPLETE, "S3_ENDPOINT": endpoint}, patience=0).manifest("s3://cat/any")
        assert connecting.has_answered(endpoint)
        server.shutdown()


def test_a_service_stands_for_all_its_hosts() -> None:
    """As at Amazon's, where every bucket has a host of its own."""
    with web_server() as server:
        server.files["/a"] = b"1"
        pool = connecting.connections(None, waits=False, service="https://s3.example.org")
        pool.request("GET", server.url("/a"), retries=False)
    assert connecting.has_answered("https://s3.example.org")


@pytest.mark.parametrize(("set_to", "waits"), [(None, False), ("", False), ("0", False), ("1", True), ("yes", True)])
def test_the_environment_tells_a_task_from_a_command(set_to: str | None, waits: bool) -> None:
    assert waits_for_servers({} if set_to is None else {WAIT_VARIABLE: set_to}) is waits


def test_a_kubeflow_component_is_a_task_and_so_are_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WAIT_VARIABLE, raising=False)
    program = "from components.catlib.storage.settings import waits_for_servers; print(waits_for_servers())"
    with stage_process("teacher", code_digest("teacher")):
        assert waits_for_servers()
        assert subprocess.check_output([sys.executable, "-c", program], text=True) == "True\n"
    assert not waits_for_servers()
    monkeypatch.setenv(WAIT_VARIABLE, "0")  # as local runs do
    with stage_process("teacher", code_digest("teacher")), waiting_for_servers():
        assert not waits_for_servers()
    assert os.environ[WAIT_VARIABLE] == "0"
