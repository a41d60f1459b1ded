"""Files of others: from a web server that breaks off, changes its mind or is gone, and from a real object store."""

import hashlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.catlib import storage
from components.catlib.errors import UserError
from components.catlib.storage import Storage
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
    return Storage({"XDG_CACHE_HOME": str(tmp_path / "cache")}, patience=2)


def bodies(server: WebServer) -> list[str | None]:
    """The Range headers of all downloads."""
    return [asked for method, _, asked in server.requests if method == "GET"]


def test_a_file_is_downloaded_whole(server: WebServer, store: Storage, tmp_path: Path) -> None:
    assert store.download(server.url("/a.zip"), tmp_path / "new" / "a.zip", DIGEST) == '"one"'
    assert (tmp_path / "new/a.zip").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.zip"]


def test_a_download_that_breaks_off_goes_on_where_it_was(
    server: WebServer, store: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.breaks = [1_200_000, 0, 700_000]
    store.download(server.url("/a.zip"), tmp_path / "a.zip", DIGEST)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert bodies(server) == [None, "bytes=1200000-", "bytes=1200000-", "bytes=1900000-"]
    assert "broke off after 1.2 MB" in caplog.text


def test_another_process_goes_on_too(server: WebServer, store: Storage, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from components.catlib.storage import Storage; "
        "Storage({}, patience=0).download(sys.argv[1], Path(sys.argv[2]))"
    )
    breaking = [sys.executable, "-c", code, server.url("/a.zip"), str(tmp_path / "a.zip")]
    server.breaks = [2_000_000, 0, 0, 0]
    assert subprocess.run(breaking, capture_output=True, check=False).returncode == 1
    assert not (tmp_path / "a.zip").exists()
    server.breaks = []
    store.download(server.url("/a.zip"), tmp_path / "a.zip", DIGEST)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert bodies(server)[-1] == "bytes=2000000-"


def test_a_file_that_was_complete_but_not_yet_named_is_not_downloaded_again(
    server: WebServer, store: Storage, tmp_path: Path
) -> None:
    (tmp_path / "a.zip.partial").write_bytes(CONTENT)
    (tmp_path / "a.zip.partial.version").write_text('"one"')
    store.download(server.url("/a.zip"), tmp_path / "a.zip", DIGEST)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert bodies(server) == ["bytes=3000000-"]


@pytest.mark.parametrize("length", [1_000_000, 4_000_000])
def test_halves_of_different_versions_are_not_put_together(
    server: WebServer, store: Storage, tmp_path: Path, length: int
) -> None:
    (tmp_path / "a.zip.partial").write_bytes(os.urandom(length))
    (tmp_path / "a.zip.partial.version").write_text('"zero"')
    store.download(server.url("/a.zip"), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_server_without_ranges_or_versions_begins_again(server: WebServer, store: Storage, tmp_path: Path) -> None:
    server.etags, server.ranges, server.breaks = {}, False, [1_000_000, 500_000]
    store.download(server.url("/a.zip"), tmp_path / "a.zip", DIGEST)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert bodies(server) == [None] * 3


def test_a_server_that_never_gets_further_is_left_in_the_end(server: WebServer, store: Storage, tmp_path: Path) -> None:
    server.breaks = [1000] + [0] * 100
    with pytest.raises(UserError, match=r"The server 127\.0\.0\.1 did not answer for \d s .*downloading"):
        store.download(server.url("/a.zip"), tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_an_end_that_nobody_can_tell_needs_a_digest(server: WebServer, store: Storage, tmp_path: Path) -> None:
    server.lengths = False
    with pytest.raises(UserError, match="without its length; give its digest"):
        store.download(server.url("/a.zip"), tmp_path / "a.zip")
    store.download(server.url("/a.zip"), tmp_path / "a.zip", DIGEST)
    server.breaks = [1000]
    with pytest.raises(UserError, match="has the SHA-256"):
        store.download(server.url("/a.zip"), tmp_path / "b.zip", DIGEST)


def test_errors_that_pass_are_waited_for(server: WebServer, store: Storage, tmp_path: Path) -> None:
    server.errors = [503, 429]
    store.download(server.url("/a.zip"), tmp_path / "a.zip", DIGEST)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "meaning"), [(404, "is not there"), (403, "may not be read"), (401, "needs a password"), (410, "fails")]
)
def test_errors_that_stay_are_one_sentence_without_secrets(
    server: WebServer, store: Storage, tmp_path: Path, status: int, meaning: str
) -> None:
    server.errors = [status]
    url = server.url("/a.zip?signature=secret").replace("//", "//user:secret@")
    with pytest.raises(UserError, match=rf"/a\.zip {meaning} \(answer {status}\)") as caught:
        store.download(url, tmp_path / "a.zip")
    assert "secret" not in str(caught.value)
    assert list(tmp_path.glob("a.zip*")) == []


def test_redirects_are_followed_to_an_end(server: WebServer, store: Storage, tmp_path: Path) -> None:
    server.redirects = {"/old": "/older", "/older": server.url("/a.zip"), "/round": "/round"}
    store.download(server.url("/old"), tmp_path / "a.zip", DIGEST)
    with pytest.raises(UserError, match="from one address to the next"):
        store.download(server.url("/round"), tmp_path / "b.zip")


def test_another_digest_is_refused_and_nothing_is_left(server: WebServer, store: Storage, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"/a\.zip has the SHA-256 {DIGEST}, expected is {'0' * 64}"):
        store.download(server.url("/a.zip"), tmp_path / "a.zip", "0" * 64)
    assert list(tmp_path.glob("a.zip*")) == []


def test_no_such_server_is_said_at_once(store: Storage, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=r"server nowhere\.invalid cannot be found; is this machine online"):
        store.download("https://nowhere.invalid/a.zip", tmp_path / "a.zip")
    assert time.monotonic() - began < 2


def test_a_server_that_is_down_is_waited_for_but_not_for_ever(store: Storage, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="did not answer"):
            store.download(f"http://127.0.0.1:{taken.getsockname()[1]}/a.zip", tmp_path / "a.zip")


def test_a_full_disk_is_noticed_first(
    server: WebServer, store: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = storage.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: usage._replace(free=len(CONTENT) - 1))
    with pytest.raises(UserError, match=r"needs 0\.0 GB, only 0\.0 GB are free"):
        store.download(server.url("/a.zip"), tmp_path / "a.zip")


# --------------------------------------------------------------------------------------------------------------- cache


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
    assert "Taking the copy" in caplog.text


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
    (note,) = (tmp_path / "cache/cat-pipeline/addresses").iterdir()
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
        Storage({"XDG_CACHE_HOME": str(tmp_path / "file")}).cached(server.url("/a.zip"))


@pytest.mark.parametrize("url", ["https://", "http://127.0.0.1:99999/a.zip", "http://[::1/a.zip"])
def test_what_is_no_web_address_is_said(store: Storage, url: str) -> None:
    with pytest.raises(UserError, match="is no web address"):
        store.cached(url)


def test_weights_may_come_from_the_web(server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert storage.local_copy(server.url("/a.zip")).read_bytes() == CONTENT


def test_an_object_is_fetched_once_too(object_store: SeaweedServer, tmp_path: Path) -> None:
    store = Storage({**object_store.environment, "XDG_CACHE_HOME": str(tmp_path / "cache")}, patience=5)
    (tmp_path / "a.zip").write_bytes(CONTENT)
    store.upload_file(tmp_path / "a.zip", "s3://cat/downloads/a.zip")
    kept = store.cached("minio://cat/downloads/a.zip")
    assert (kept.name, kept.read_bytes()) == (DIGEST, CONTENT)
    modified = kept.stat().st_mtime_ns
    assert store.cached("minio://cat/downloads/a.zip").stat().st_mtime_ns == modified
    assert store.is_file("s3://cat/downloads/a.zip")
    assert not store.is_file("s3://cat/downloads")
    with pytest.raises(UserError, match=rf"/a\.zip has the SHA-256 {DIGEST}, expected is 0000"):
        store.cached("s3://cat/downloads/a.zip", "0" * 64)
    assert not list((tmp_path / "cache").rglob("file*"))
    (tmp_path / "a.zip").write_bytes(b"new")
    store.upload_file(tmp_path / "a.zip", "s3://cat/downloads/a.zip")
    assert store.cached("minio://cat/downloads/a.zip").read_bytes() == b"new"


def test_an_object_goes_on_with_the_parts_that_are_missing(
    object_store: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**object_store.environment, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    (tmp_path / "a.zip").write_bytes(CONTENT)
    Storage(environment).upload_file(tmp_path / "a.zip", "s3://cat/parts/a.zip")
    fetch, asked = Storage._fetch_range, []

    def breaking(self: Storage, location: object, name: str, path: Path, start: int, length: int) -> None:
        asked.append(start)
        if breaks and start > 0:
            raise ConnectionError("gone")
        fetch(self, location, name, path, start, length)

    monkeypatch.setattr(storage, "PART_BYTES", 1_000_000)
    monkeypatch.setattr(storage, "PARALLEL", 1)
    monkeypatch.setattr(Storage, "_fetch_range", breaking)
    breaks = True
    with pytest.raises(UserError, match="did not answer"):
        Storage(environment, patience=0).cached("s3://cat/parts/a.zip")
    assert asked[:2] == [0, 1_000_000]
    breaks = False
    asked.clear()
    assert Storage(environment).cached("s3://cat/parts/a.zip", DIGEST).read_bytes() == CONTENT
    assert asked == [1_000_000, 2_000_000]


def test_parts_of_another_version_are_not_put_together(object_store: SeaweedServer, tmp_path: Path) -> None:
    store = Storage({**object_store.environment, "XDG_CACHE_HOME": str(tmp_path / "cache")})
    (tmp_path / "a.zip").write_bytes(CONTENT)
    store.upload_file(tmp_path / "a.zip", "s3://cat/versions/a.zip")
    key = hashlib.sha256(b"s3://cat/versions/a.zip").hexdigest()[:32]
    partial = tmp_path / "cache/cat-pipeline/partial" / key
    partial.mkdir(parents=True)
    (partial / "file.partial").write_bytes(bytes(len(CONTENT)))
    (partial / "file.partial.version").write_text(f"another {len(CONTENT)}\n0\n")
    assert store.cached("s3://cat/versions/a.zip").read_bytes() == CONTENT
