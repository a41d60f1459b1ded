"""Files of a web server that breaks off, changes its mind or is gone."""

import errno
import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.catlib.errors import UserError
from components.catlib.storage import retrying, web
from components.catlib.storage.retrying import Unreachable
from components.catlib.storage.web import Web, WebFile
from tests.web_servers import WebServer, web_server

CONTENT = os.urandom(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server() as running:
        running.files["/a.zip"], running.etags["/a.zip"] = CONTENT, '"one"'
        yield running


def download(url: str, path: Path, sha256: str | None = None) -> str:
    return WebFile(Web({}, patience=2), url).download(path, sha256)


def bodies(server: WebServer) -> list[str | None]:
    """The Range headers of all downloads."""
    return [asked for method, _, asked in server.requests if method == "GET"]


def test_a_file_is_downloaded_whole(server: WebServer, tmp_path: Path) -> None:
    assert download(server.url("/a.zip"), tmp_path / "new" / "a.zip", DIGEST) == '"one"'
    assert (tmp_path / "new/a.zip").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.zip"]


def test_a_download_that_breaks_off_goes_on_where_it_was(
    server: WebServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.breaks = [1_200_000, 0, 700_000]
    download(server.url("/a.zip"), tmp_path / "a.zip", DIGEST)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert bodies(server) == [None, "bytes=1200000-", "bytes=1200000-", "bytes=1900000-"]
    assert "stopped after 1.2 MB" in caplog.text


def test_another_process_goes_on_too(server: WebServer, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from components.catlib.storage.web import Web, WebFile; "
        "WebFile(Web({}, patience=0), sys.argv[1]).download(Path(sys.argv[2]))"
    )
    breaking = [sys.executable, "-c", code, server.url("/a.zip"), str(tmp_path / "a.zip")]
    server.breaks = [2_000_000, 0, 0, 0]
    assert subprocess.run(breaking, capture_output=True, check=False).returncode == 1
    assert not (tmp_path / "a.zip").exists()
    server.breaks = []
    download(server.url("/a.zip"), tmp_path / "a.zip", DIGEST)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert bodies(server)[-1] == "bytes=2000000-"


def test_a_file_that_was_complete_but_not_yet_named_is_not_downloaded_again(server: WebServer, tmp_path: Path) -> None:
    (tmp_path / "a.zip.partial").write_bytes(CONTENT)
    (tmp_path / "a.zip.partial.version").write_text('"one"')
    download(server.url("/a.zip"), tmp_path / "a.zip", DIGEST)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert bodies(server) == ["bytes=3000000-"]


@pytest.mark.parametrize("length", [1_000_000, 4_000_000])
def test_halves_of_different_versions_are_not_put_together(server: WebServer, tmp_path: Path, length: int) -> None:
    (tmp_path / "a.zip.partial").write_bytes(os.urandom(length))
    (tmp_path / "a.zip.partial.version").write_text('"zero"')
    download(server.url("/a.zip"), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_server_without_ranges_or_versions_begins_again(server: WebServer, tmp_path: Path) -> None:
    server.etags, server.ranges, server.breaks = {}, False, [1_000_000, 500_000]
    download(server.url("/a.zip"), tmp_path / "a.zip", DIGEST)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert bodies(server) == [None] * 3


def test_a_server_that_never_gets_further_is_left_in_the_end(server: WebServer, tmp_path: Path) -> None:
    server.breaks = [1000] + [0] * 100
    with pytest.raises(UserError, match=r"The server 127\.0\.0\.1 did not answer for \d s .*downloading"):
        download(server.url("/a.zip"), tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_every_piece_renews_the_patience(server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer brings a tenth of the file, and after each the server is away for most of the patience."""
    monkeypatch.setattr(retrying, "FIRST_PAUSE_SECONDS", 0.1)
    server.breaks = [300_000, 0, 0, 0] * 9
    began = time.monotonic()
    WebFile(Web({}, patience=1), server.url("/a.zip")).download(tmp_path / "a.zip", DIGEST)
    assert time.monotonic() - began > 1, "longer than the patience in all"
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_server_that_stays_busy_is_unavailable(server: WebServer, tmp_path: Path, status: int) -> None:
    server.errors = [status] * 1000
    with pytest.raises(Unreachable, match=rf"could not serve a request for \d s .*HTTP status {status}"):
        WebFile(Web({}, patience=0.5), server.url("/a.zip")).download(tmp_path / "a.zip")


def test_a_server_says_when_to_come_back(server: WebServer, tmp_path: Path) -> None:
    server.errors, server.pause = [429, 503], "1"
    began = time.monotonic()
    WebFile(Web({}, patience=20), server.url("/a.zip")).download(tmp_path / "a.zip", DIGEST)
    assert 2 <= time.monotonic() - began < 5


def test_a_disk_that_fills_is_not_the_servers_fault(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, mode: str = "r", **named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(Path, "open", full)
        download(server.url("/a.zip"), tmp_path / "a.zip")


def test_an_end_that_nobody_can_tell_needs_a_digest(server: WebServer, tmp_path: Path) -> None:
    server.lengths = False
    with pytest.raises(UserError, match="without its length; give its digest"):
        download(server.url("/a.zip"), tmp_path / "a.zip")
    download(server.url("/a.zip"), tmp_path / "a.zip", DIGEST)
    server.breaks = [1000]
    with pytest.raises(UserError, match="has the SHA-256"):
        download(server.url("/a.zip"), tmp_path / "b.zip", DIGEST)


def test_errors_that_pass_are_waited_for(server: WebServer, tmp_path: Path) -> None:
    server.errors = [503, 429]
    download(server.url("/a.zip"), tmp_path / "a.zip", DIGEST)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "meaning"),
    [(404, "does not exist"), (403, "may not be read"), (401, "needs a password"), (410, "fails"), (501, "fails")],
)
def test_errors_that_stay_are_one_sentence_without_secrets(
    server: WebServer, tmp_path: Path, status: int, meaning: str
) -> None:
    server.errors = [status]
    url = server.url("/a.zip?signature=secret").replace("//", "//user:secret@")
    with pytest.raises(UserError, match=rf"/a\.zip {meaning} \(HTTP status {status}\)") as caught:
        download(url, tmp_path / "a.zip")
    assert "secret" not in str(caught.value)
    assert list(tmp_path.glob("a.zip*")) == []


def test_redirects_are_followed_to_an_end(server: WebServer, tmp_path: Path) -> None:
    server.redirects = {"/old": "/older", "/older": server.url("/a.zip"), "/round": "/round"}
    download(server.url("/old"), tmp_path / "a.zip", DIGEST)
    with pytest.raises(UserError, match="redirects without end"):
        download(server.url("/round"), tmp_path / "b.zip")


def test_another_digest_is_refused_and_nothing_is_left(server: WebServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"/a\.zip has the SHA-256 {DIGEST}, expected {'0' * 64}"):
        download(server.url("/a.zip"), tmp_path / "a.zip", "0" * 64)
    assert list(tmp_path.glob("a.zip*")) == []


def test_no_such_server_is_said_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=r"server nowhere\.invalid cannot be found; is this machine online"):
        download("https://nowhere.invalid/a.zip", tmp_path / "a.zip")
    assert time.monotonic() - began < 2


def test_a_server_that_is_down_is_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UserError, match="did not answer"):
            download(f"http://127.0.0.1:{taken.getsockname()[1]}/a.zip", tmp_path / "a.zip")


def test_a_full_disk_is_noticed_first(server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = web.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(web.shutil, "disk_usage", lambda _: usage._replace(free=len(CONTENT) - 1))
    with pytest.raises(UserError, match=r"needs 0\.0 GB, but only 0\.0 GB are free"):
        download(server.url("/a.zip"), tmp_path / "a.zip")
