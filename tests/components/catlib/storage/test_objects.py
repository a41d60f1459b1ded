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
from components.catlib.storage import Location, Storage, Store, StoreSettings, retrying
from components.catlib.storage.objects import Objects, S3Store
from components.catlib.storage.retrying import Unreachable
from components.catlib.storage.settings import WAIT_VARIABLE
from tests.components.catlib.storage.conftest import make_artifact
from tests.object_stores import COMPLETE, SECRET_KEY, SeaweedServer, seaweed_server
from tests.proxies import proxy


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
    store = Storage({**COMPLETE, "S3_ENDPOINT": "http://127.0.0.1:1", WAIT_VARIABLE: "1"}, patience=1)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 did not answer for \d s .*is it up") as caught:
        store.manifest("s3://cat/any")
    assert SECRET_KEY not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["http://store:99999", "http://store:port", "http://sto re:9000", "http://-:1"])
def test_an_endpoint_that_is_no_address_is_said(endpoint: str) -> None:
    with pytest.raises(UserError, match="S3_ENDPOINT"):
        Storage({**COMPLETE, "S3_ENDPOINT": endpoint}).manifest("s3://cat/any")


@contextlib.contextmanager
def scripted_server(answers: list[Callable[[http.server.BaseHTTPRequestHandler], None]]) -> Iterator[str]:
    """A server that gives one answer after the other, whatever it is asked, and the last one for ever."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.pop(0)(self) if len(answers) > 1 else answers[0](self)

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

        do_PUT = do_POST = do_HEAD = do_GET

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def answer(
    status: int,
    body: bytes,
    *,
    cut: int = 0,
    media_type: str = "application/xml",
    pause: str | None = None,
    given: str | None = None,
) -> Callable:
    def give(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        handler.send_response(status)
        if pause is not None:
            handler.send_header("Retry-After", pause)
        if given is not None:
            handler.send_header("Content-Range", given)
        handler.send_header("Content-Type", media_type)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body[: len(body) - cut])

    return give


def error(code: str, message: str = "") -> bytes:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


def test_server_errors_and_cut_answers_are_repeated(tmp_path: Path) -> None:
    manifest = (make_artifact(tmp_path / "artifact", {"a": b"0123456789"}) / "manifest.json").read_bytes()
    answers = [
        answer(503, error("SlowDown", "later")),
        answer(500, b""),
        answer(502, b"<html>proxy", media_type="text/html"),
        answer(200, manifest, cut=20),
        answer(200, manifest),
        answer(200, manifest),  # it is read twice
        answer(206, b"0123456789", cut=3),
        answer(206, b"0123456789"),
    ]
    with scripted_server(answers) as endpoint:
        fetched = Storage({**COMPLETE, "S3_ENDPOINT": endpoint}).fetch("s3://cat/a", tmp_path / "fetched")
    assert (fetched / "a").read_bytes() == b"0123456789"


@pytest.mark.parametrize(
    "busy",
    [
        answer(429, b"<html>slow down", media_type="text/html"),
        answer(429, b"", media_type="text/plain"),
        answer(429, error("TooManyRequests")),
        answer(429, error("SomethingNew")),
        answer(503, error("SlowDownWrite")),
        answer(503, error("XMinioServerNotInitialized")),
        answer(500, error("InternalError")),
        answer(504, b"upstream request timeout", media_type="text/plain"),
        answer(502, b"\xff\xfe", media_type="text/html"),
        answer(509, error("BandwidthLimitExceeded")),
        answer(408, b""),
        answer(400, error("RequestTimeout")),
        answer(403, error("RequestTimeTooSkewed")),
        answer(400, error("IncompleteBody")),
        answer(409, error("OperationAborted")),
    ],
)
def test_what_passes_is_repeated_whatever_is_asked(busy: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_PAUSE_SECONDS", 0.01)
    with scripted_server([busy, busy, answer(200, b"content")]) as endpoint:
        assert scripted(endpoint).read("a") == b"content"
    with scripted_server([busy, answer(200, b"")]) as endpoint:
        scripted(endpoint).write("a", b"content")
    with scripted_server([busy, answer(200, b"")]) as endpoint:
        assert scripted(endpoint).create("a", b"content")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_lookup_is_repeated_too_though_its_answers_have_no_body(status: int) -> None:
    with scripted_server([answer(status, b""), answer(200, b"content")]) as endpoint:
        found = scripted(endpoint).entry("a")
    assert found is not None
    assert found.bytes == 7


@pytest.mark.parametrize("body", [error("SlowDown"), b"later"])
def test_the_store_says_when_to_come_back(body: bytes) -> None:
    media_type = "application/xml" if body.startswith(b"<") else "text/plain"
    busy = answer(503, body, media_type=media_type, pause="1")
    with scripted_server([busy, busy, answer(200, b"content")]) as endpoint:
        began = time.monotonic()
        assert scripted(endpoint).read("a") == b"content"
    assert 2 <= time.monotonic() - began < 5


def test_a_store_that_stays_busy_is_unavailable() -> None:
    busy = answer(503, error("SlowDown", "Please reduce your request rate."))
    with (
        scripted_server([busy]) as endpoint,
        pytest.raises(Unreachable, match=r"could not serve a request for 1 s .*SlowDown: Please reduce") as caught,
    ):
        scripted(endpoint, patience=1).read("a")
    assert caught.value.exit_code == 75


@pytest.mark.parametrize(
    "full",
    [
        answer(507, error("XMinioStorageFull", "Storage backend has reached its minimum free drive threshold.")),
        answer(400, error("XMinioAdminBucketQuotaExceeded", "Bucket quota exceeded")),
        answer(403, error("QuotaExceeded")),
        answer(500, error("InternalError", "write /data/x: no space left on device")),
        answer(507, b"<html>Insufficient Storage", media_type="text/html"),
        answer(507, b"", media_type="text/plain"),
    ],
)
def test_a_full_store_is_named_at_once(full: Callable, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    with scripted_server([full]) as endpoint:
        began = time.monotonic()
        for write in (lambda: scripted(endpoint).write("a", b"1"), lambda: scripted(endpoint).create("a", b"1")):
            with pytest.raises(UserError, match=r"^The object store at 127\.0\.0\.1:\d+ is full") as caught:
                write()
            assert caught.value.exit_code == 2
            assert "\n" not in str(caught.value)
        assert time.monotonic() - began < 2


def test_a_busy_store_that_speaks_of_quotas_is_not_full() -> None:
    busy = answer(503, error("SlowDown", "request quota of this second is used up"))
    with scripted_server([busy, answer(200, b"content")]) as endpoint:
        assert scripted(endpoint).read("a") == b"content"


@pytest.mark.parametrize("status", [400, 404, 409, 501, 505, 511])
def test_what_stays_is_not_repeated(status: int) -> None:
    answers = [answer(status, error("NotImplemented", "no")), answer(200, b"asked again")]
    with scripted_server(answers) as endpoint, pytest.raises(UserError, match=r"refused .*NotImplemented: no"):
        scripted(endpoint).read("a")


def test_clocks_that_differ_are_named() -> None:
    skewed = answer(403, error("RequestTimeTooSkewed"))
    with scripted_server([skewed]) as endpoint, pytest.raises(UserError, match="disagree on the time"):
        scripted(endpoint, patience=0.5).read("a")


@pytest.mark.parametrize("body", [b"<html><p>login", b"\xff\xfe", b""])
def test_an_answer_that_is_no_xml_is_a_sentence(body: bytes) -> None:
    sentence = r"not in XML .* check that S3_ENDPOINT is an S3 server"
    with scripted_server([answer(200, body)]) as endpoint, pytest.raises(UserError, match=sentence):
        scripted(endpoint).entries()


def test_a_part_is_not_taken_from_an_answer_with_the_whole_object(tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(bytes(10))
    with scripted_server([answer(200, b"0123456789")]) as endpoint:
        with pytest.raises(UserError, match="whole objects instead of parts"):
            scripted(endpoint).read_part("a", tmp_path / "copy", 5, 5)
        scripted(endpoint).read_part("a", tmp_path / "copy", 0, 5)
    assert (tmp_path / "copy").read_bytes() == b"01234" + bytes(5)


def test_a_part_that_is_not_the_one_asked_for_is_not_taken(tmp_path: Path) -> None:
    def part(content: bytes, given: str | None, cut: int = 0) -> Callable:
        return answer(206, content, cut=cut, given=given)

    (tmp_path / "copy").write_bytes(bytes(10))
    answers = [
        part(b"01234", "bytes 0-4/10"),
        part(b"56789", "bytes 5-9/10", cut=2),
        part(b"56789", None),
        part(b"5678", "bytes 5-8/10", cut=1),
        part(b"89", "bytes 8-9/10"),
    ]
    with scripted_server(answers) as endpoint:
        scripted(endpoint).read_part("a", tmp_path / "copy", 5, 5)
    assert (tmp_path / "copy").read_bytes() == bytes(5) + b"56789"


def test_a_local_file_that_cannot_be_written_is_not_the_stores_fault(tmp_path: Path) -> None:
    with scripted_server([answer(206, b"01234")]) as endpoint, pytest.raises(FileNotFoundError):
        scripted(endpoint).read_part("a", tmp_path / "none", 0, 5)


def test_one_object_is_asked_for_and_no_prefix_is_listed(object_store: SeaweedServer, tmp_path: Path) -> None:
    with proxy(object_store.port) as between:
        store = Storage({**object_store.environment, "S3_ENDPOINT": between.endpoint}, cache=tmp_path / "cache")
        (tmp_path / "a").write_bytes(b"1")
        for name in ("file", "file/below", "file2"):
            store.upload_file(tmp_path / "a", f"s3://cat/lookup/{name}")
        between.first_lines.clear()
        assert store.is_file("s3://cat/lookup/file")
        assert store.fingerprint("s3://cat/lookup/file")[0][1] == 1
        assert store.fetch_files("s3://cat/lookup/file", tmp_path / "fetched").read_bytes() == b"1"
        assert store.cached("s3://cat/lookup/file").read_bytes() == b"1"
        assert not store.is_file("s3://cat/lookup")
    asked = {line.split(" ")[0] + " " + line.split(" ")[1] for line in between.first_lines}
    # Above a file there may be the manifest of an artifact that it is part of.
    manifests = {"GET /cat/manifest.json", "GET /cat/lookup/manifest.json"}
    assert asked - manifests == {"HEAD /cat/lookup/file", "GET /cat/lookup/file", "HEAD /cat/lookup"}


def test_another_kind_of_server_is_not_asked_again() -> None:
    with scripted_server([answer(404, b"<html>", media_type="text/html")]) as endpoint:
        began = time.monotonic()
        with pytest.raises(UserError, match="refused"):
            Storage({**COMPLETE, "S3_ENDPOINT": endpoint}).manifest("s3://cat/a")
        assert time.monotonic() - began < 2


def scripted(endpoint: str, *, patience: float = 20) -> Store:
    settings = StoreSettings.from_environment({**COMPLETE, "S3_ENDPOINT": endpoint})
    return S3Store(Objects(settings, patience=patience), Location("cat", "a"))


def test_a_file_whose_creation_was_not_acknowledged_is_ours() -> None:
    exists = b"<Error><Code>PreconditionFailed</Code><Message>there is one</Message></Error>"
    with scripted_server([answer(500, b""), answer(412, exists), answer(200, b"mine")]) as endpoint:
        assert scripted(endpoint).create("lease", b"mine")
    with scripted_server([answer(412, exists), answer(200, b"yours")]) as endpoint:
        assert not scripted(endpoint).create("lease", b"mine")
