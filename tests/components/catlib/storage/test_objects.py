"""An object store that fails: a real S3 server and, for faults that it does not have, a scripted one."""

import contextlib
import http.server
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.catlib.errors import UserError
from components.catlib.storage import Location, Storage, Store, StoreSettings
from components.catlib.storage.objects import Objects, S3Store
from components.catlib.storage.retrying import Unreachable
from tests.components.catlib.storage.conftest import make_artifact
from tests.object_stores import COMPLETE, SECRET_KEY, SeaweedServer, seaweed_server


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, "refuses the credentials"),
        ({"AWS_ACCESS_KEY_ID": "wrong-key"}, "refuses the credentials"),
    ],
)
def test_wrong_credentials_are_refused_at_once_and_not_repeated(
    object_store: SeaweedServer, change: dict[str, str], complaint: str
) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=complaint) as caught:
        Storage({**object_store.environment, **change}).manifest("s3://cat/any")
    assert time.monotonic() - began < 2
    assert f"127.0.0.1:{object_store.port}" in str(caught.value)
    assert not any(value in str(caught.value) for value in [*change.values(), SECRET_KEY])


def test_a_bucket_that_is_missing_is_named(store: Storage) -> None:
    with pytest.raises(UserError, match="has no bucket 'missing'"):
        store.manifest("s3://missing/any")


def test_a_store_that_comes_back_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_artifact(tmp_path / "artifact", {"a": os.urandom(10**6), "b": os.urandom(10**6)})
    with seaweed_server(tmp_path / "data") as server:
        store = Storage(server.environment)
        store.make_bucket("s3://cat")
        server.stop()
        restart = threading.Timer(2, server.start)
        restart.start()
        store.publish(folder, "s3://cat/a")
        restart.join()
        assert store.fetch("s3://cat/a", tmp_path / "fetched").is_dir()
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert any("trying again" in message for message in warnings)
    assert SECRET_KEY not in caplog.text


def test_a_store_that_stays_away_ends_in_one_sentence() -> None:
    store = Storage({**COMPLETE, "S3_ENDPOINT": "http://127.0.0.1:1"}, patience=1)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 did not answer for \d s .*is it up") as caught:
        store.manifest("s3://cat/any")
    assert SECRET_KEY not in str(caught.value)


@contextlib.contextmanager
def scripted_server(answers: list[Callable[[http.server.BaseHTTPRequestHandler], None]]) -> Iterator[str]:
    """A server that gives one answer after the other, whatever it is asked, and the last one for ever."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.pop(0)(self) if len(answers) > 1 else answers[0](self)

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

        do_PUT = do_GET

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def answer(status: int, body: bytes, *, cut: int = 0, media_type: str = "application/xml") -> Callable:
    def give(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", media_type)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) - cut])

    return give


def test_server_errors_and_cut_answers_are_repeated(tmp_path: Path) -> None:
    manifest = (make_artifact(tmp_path / "artifact", {"a": b"0123456789"}) / "manifest.json").read_bytes()
    busy = b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"
    answers = [
        answer(503, busy),
        answer(500, b""),
        answer(502, b"<html>proxy", media_type="text/html"),
        answer(200, manifest, cut=20),
        answer(200, manifest),
        answer(206, b"0123456789", cut=3),
        answer(206, b"0123456789"),
    ]
    with scripted_server(answers) as endpoint:
        fetched = Storage({**COMPLETE, "S3_ENDPOINT": endpoint}).fetch("s3://cat/a", tmp_path / "fetched")
    assert (fetched / "a").read_bytes() == b"0123456789"


def test_another_kind_of_server_is_not_asked_again() -> None:
    with scripted_server([answer(404, b"<html>", media_type="text/html")]) as endpoint:
        began = time.monotonic()
        with pytest.raises(UserError, match="refused"):
            Storage({**COMPLETE, "S3_ENDPOINT": endpoint}).manifest("s3://cat/a")
        assert time.monotonic() - began < 2


def scripted(endpoint: str) -> Store:
    settings = StoreSettings.from_environment({**COMPLETE, "S3_ENDPOINT": endpoint})
    return S3Store(Objects(settings), Location("cat", "a"))


def test_a_file_whose_creation_was_not_acknowledged_is_ours() -> None:
    exists = b"<Error><Code>PreconditionFailed</Code><Message>there is one</Message></Error>"
    with scripted_server([answer(500, b""), answer(412, exists), answer(200, b"mine")]) as endpoint:
        assert scripted(endpoint).create("lease", b"mine")
    with scripted_server([answer(412, exists), answer(200, b"yours")]) as endpoint:
        assert not scripted(endpoint).create("lease", b"mine")
