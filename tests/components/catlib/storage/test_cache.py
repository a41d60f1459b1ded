"""Files of others are downloaded once: from the web, and from a real object store."""

import hashlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.catlib import storage
from components.catlib.errors import UserError
from components.catlib.storage import Storage, parallel, transfer
from components.catlib.storage.objects import S3Store
from components.catlib.storage.retrying import Unreachable
from tests.object_stores import SeaweedServer
from tests.web_servers import WebServer, web_server

CONTENT = os.urandom(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as running:
        running.files["/a.zip"], running.etags["/a.zip"] = CONTENT, '"one"'
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Storage:
    return Storage({}, patience=2, cache=tmp_path / "cache")


def bodies(server: WebServer) -> list[str | None]:
    """The Range headers of all downloads."""
    return [asked for method, _, asked in server.requests if method == "GET"]


def test_a_file_is_downloaded_once_and_kept_by_its_content(server: WebServer, store: Storage, tmp_path: Path) -> None:
    kept = store.cached(server.url("/a.zip"))
    assert (kept.name, kept.read_bytes()) == (DIGEST, CONTENT)
    assert kept.is_relative_to(tmp_path / "cache")
    assert store.cached(server.url("/a.zip")) == kept
    server.files["/elsewhere"] = b"unread"
    assert store.cached(server.url("/elsewhere"), DIGEST) == kept
    assert len(bodies(server)) == 1


def test_another_version_is_downloaded_and_the_first_one_kept(server: WebServer, store: Storage) -> None:
    first = store.cached(server.url("/a.zip"))
    server.files["/a.zip"], server.etags["/a.zip"] = b"new", '"two"'
    assert store.cached(server.url("/a.zip")).read_bytes() == b"new"
    assert first.read_bytes() == CONTENT


def test_a_kept_file_is_used_when_the_server_is_gone(
    server: WebServer, store: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    kept = store.cached(server.url("/a.zip"))
    server.errors = [404]
    assert store.cached(server.url("/a.zip")) == kept
    assert "Using the copy" in caplog.text


@pytest.mark.parametrize("digest", [DIGEST, None], ids=["digest", "no digest"])
def test_a_damaged_copy_is_downloaded_anew(server: WebServer, store: Storage, digest: str | None) -> None:
    kept = store.cached(server.url("/a.zip"), digest)
    kept.write_bytes(b"damaged")
    assert store.cached(server.url("/a.zip"), digest).read_bytes() == CONTENT


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_a_damaged_note_on_an_address_counts_as_none(
    server: WebServer, store: Storage, tmp_path: Path, content: str
) -> None:
    store.cached(server.url("/a.zip"))
    (note,) = (tmp_path / "cache/addresses").iterdir()
    note.write_text(content)
    assert store.cached(server.url("/a.zip")).read_bytes() == CONTENT


def test_the_state_of_a_file_of_the_web_is_its_version(server: WebServer, store: Storage) -> None:
    first = store.fingerprint(server.url("/a.zip?token=secret"))
    assert first == [[server.url("/a.zip"), '"one"']]
    assert bodies(server) == []
    store.cached(server.url("/a.zip"))
    server.etags["/a.zip"] = '"two"'
    assert store.fingerprint(server.url("/a.zip")) != first
    server.errors = [503]
    assert store.fingerprint(server.url("/a.zip")) == first, "as it was when it was downloaded"


def test_processes_that_want_the_same_file_wait_for_each_other(server: WebServer, store: Storage) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(store.cached, [server.url("/a.zip")] * 4))
    assert len(set(found)) == 1
    assert len(bodies(server)) == 1


def test_the_digest_is_logged_and_plain_http_is_warned_of(
    server: WebServer, store: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        store.cached(server.url("/a.zip"))
    assert f"the SHA-256 of {server.url('/a.zip')} is {DIGEST}" in caplog.text
    assert "neither TLS nor a digest protects" in caplog.text


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, server: WebServer) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
        Storage({}, cache=tmp_path / "file").cached(server.url("/a.zip"))


@pytest.mark.parametrize("url", ["https://", "http://127.0.0.1:99999/a.zip", "http://[::1/a.zip"])
def test_what_is_no_web_address_is_said(store: Storage, url: str) -> None:
    with pytest.raises(UserError, match="is not a web address"):
        store.cached(url)


def test_weights_may_come_from_the_web(server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert storage.local_copy(server.url("/a.zip")).read_bytes() == CONTENT


def test_an_object_is_fetched_once_too(object_store: SeaweedServer, tmp_path: Path) -> None:
    store = Storage(object_store.environment, patience=5, cache=tmp_path / "cache")
    (tmp_path / "a.zip").write_bytes(CONTENT)
    store.upload_file(tmp_path / "a.zip", "s3://cat/downloads/a.zip")
    kept = store.cached("minio://cat/downloads/a.zip")
    assert (kept.name, kept.read_bytes()) == (DIGEST, CONTENT)
    modified = kept.stat().st_mtime_ns
    assert store.cached("minio://cat/downloads/a.zip").stat().st_mtime_ns == modified
    assert store.is_file("s3://cat/downloads/a.zip")
    assert not store.is_file("s3://cat/downloads")
    with pytest.raises(UserError, match=rf"/a\.zip has the SHA-256 {DIGEST}, expected 0000"):
        store.cached("s3://cat/downloads/a.zip", "0" * 64)
    assert not list((tmp_path / "cache").rglob("file*"))
    (tmp_path / "a.zip").write_bytes(b"new")
    store.upload_file(tmp_path / "a.zip", "s3://cat/downloads/a.zip")
    assert store.cached("minio://cat/downloads/a.zip").read_bytes() == b"new"


def test_an_object_goes_on_with_the_parts_that_are_missing(
    object_store: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.zip").write_bytes(CONTENT)
    Storage(object_store.environment).upload_file(tmp_path / "a.zip", "s3://cat/parts/a.zip")
    fetch, asked = S3Store.read_part, []

    def breaking(self: S3Store, name: str, path: Path, start: int, length: int) -> None:
        asked.append(start)
        if breaks and start > 0:
            raise Unreachable("gone")
        fetch(self, name, path, start, length)

    monkeypatch.setattr(transfer, "PART_BYTES", 1_000_000)
    one_by_one = ThreadPoolExecutor(1)
    monkeypatch.setattr(parallel, "_movers", lambda process: one_by_one)
    monkeypatch.setattr(S3Store, "read_part", breaking)
    breaks = True
    with pytest.raises(Unreachable, match="gone"):
        Storage(object_store.environment, cache=tmp_path / "cache").cached("s3://cat/parts/a.zip")
    assert asked[:2] == [0, 1_000_000]
    breaks = False
    asked.clear()
    found = Storage(object_store.environment, cache=tmp_path / "cache").cached("s3://cat/parts/a.zip", DIGEST)
    assert found.read_bytes() == CONTENT
    assert asked == [1_000_000, 2_000_000]


def test_parts_of_another_version_are_not_put_together(object_store: SeaweedServer, tmp_path: Path) -> None:
    store = Storage(object_store.environment, cache=tmp_path / "cache")
    (tmp_path / "a.zip").write_bytes(CONTENT)
    store.upload_file(tmp_path / "a.zip", "s3://cat/versions/a.zip")
    key = hashlib.sha256(b"s3://cat/versions/a.zip").hexdigest()[:32]
    partial = tmp_path / "cache/partial" / key
    partial.mkdir(parents=True)
    (partial / "file.partial").write_bytes(bytes(len(CONTENT)))
    (partial / "file.partial.version").write_text(f"another {len(CONTENT)}\n0\n")
    assert store.cached("s3://cat/versions/a.zip").read_bytes() == CONTENT


def test_it_lies_where_the_user_keeps_such_files(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert Storage().cached(server.url("/a.zip")) == tmp_path / "user/cat-pipeline/content" / DIGEST
