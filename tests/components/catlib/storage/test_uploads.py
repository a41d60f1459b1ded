"""Transfers in parts between this machine and a real S3 server, through a proxy that counts, is slow and cuts."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from minio import Minio

from components.catlib.errors import UserError
from components.catlib.storage import Location, StoreSettings, connecting, retrying, sdk, transfer, uploads
from components.catlib.storage.objects import Objects, S3Store
from components.catlib.storage.retrying import Unreachable
from components.catlib.storage.uploads import UploadLost
from tests.object_stores import SeaweedServer
from tests.proxies import Proxy, proxy

PART = 5 * 2**20
CONTENT = os.urandom(3 * PART + 7)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", PART)
    monkeypatch.setattr(retrying, "FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def between(object_store: SeaweedServer) -> Iterator[Proxy]:
    with proxy(object_store.port) as running:
        yield running


@pytest.fixture
def objects(object_store: SeaweedServer, between: Proxy) -> Objects:
    environment = {**object_store.environment, "S3_ENDPOINT": between.endpoint}
    return Objects(StoreSettings.from_environment(environment), patience=10)


@pytest.fixture
def store(objects: Objects, request: pytest.FixtureRequest) -> S3Store:
    return S3Store(objects, Location("cat", f"uploads/{request.node.name}".replace("[", "-").replace("]", "")))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "big").write_bytes(CONTENT)
    return tmp_path / "big"


def unfinished(objects: Objects, store: S3Store) -> list[str]:
    """Names of objects with parts in the store that were never put together."""
    listed = objects.client._list_multipart_uploads("cat", prefix=store.location.key(""))
    return [upload.object_name for upload in listed.uploads]


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_large_object_goes_there_and_back_in_parts(
    store: S3Store, file: Path, between: Proxy, in_memory: bool
) -> None:
    store.write("big.json", CONTENT if in_memory else file)
    assert store.read("big.json") == CONTENT
    assert sum("partNumber=" in line for line in between.first_lines) == 4
    response = store.ask("looking", lambda client: client.stat_object("cat", store.location.key("big.json")))
    assert response.content_type == "application/json"


@pytest.mark.parametrize("cuts", [[2 * 2**20], [2**20, 4 * 2**20, 4 * 2**20]])
def test_a_cut_upload_sends_one_part_again_and_not_the_object(
    store: S3Store, file: Path, between: Proxy, cuts: list[int]
) -> None:
    between.cut_up = list(cuts)
    store.write("big", file)
    assert between.cut_up == []
    again = between.up - len(CONTENT)
    assert sum(cuts) <= again < sum(cuts) + 2**20
    assert store.read("big") == CONTENT


@pytest.mark.parametrize("cuts", [[2 * 2**20], [2**20, 3 * 2**20, 4 * 2**20, 4 * 2**20]])
def test_a_cut_download_goes_on_where_it_was(
    store: S3Store, file: Path, between: Proxy, tmp_path: Path, cuts: list[int]
) -> None:
    store.write("big", file)
    between.down, between.cut_down = 0, list(cuts)
    transfer.download(store, {"big": len(CONTENT)}, tmp_path / "fetched")
    assert between.cut_down == []
    assert (tmp_path / "fetched/big").read_bytes() == CONTENT
    assert between.down < len(CONTENT) + len(cuts) * 2**19


def test_a_download_that_is_cut_again_and_again_comes_to_an_end(
    store: S3Store, file: Path, between: Proxy, tmp_path: Path
) -> None:
    """Each connection lasts for a tenth of a part, and all of them together longer than the patience."""
    store.write("big", file)
    between.cut_down, between.bytes_per_second = [2**19] * 12, 2 * 2**20
    (tmp_path / "part").write_bytes(bytes(PART))
    impatient = S3Store(Objects(store._objects._settings, patience=1), store.location)
    impatient.read_part("big", tmp_path / "part", 0, PART)
    assert (tmp_path / "part").read_bytes() == CONTENT[:PART]
    assert len(between.cut_down) <= 4


def test_halves_of_different_objects_are_not_put_together(
    store: S3Store, file: Path, between: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("big", file)
    other = os.urandom(len(CONTENT))
    (tmp_path / "part").write_bytes(bytes(PART))
    get_object = Minio.get_object

    def replaced_meanwhile(client: Minio, *arguments, request_headers=None, **named):
        if request_headers:
            store.write("big", other)
        return get_object(client, *arguments, request_headers=request_headers, **named)

    monkeypatch.setattr(Minio, "get_object", replaced_meanwhile)
    between.cut_down = [2 * 2**20]
    store.read_part("big", tmp_path / "part", 0, PART)
    assert (tmp_path / "part").read_bytes() == other[:PART]


def test_a_slow_upload_is_no_dead_one(
    store: S3Store, file: Path, between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time limit holds for a block, not for the whole part."""
    assert store.entry("big") is None
    monkeypatch.setattr(connecting, "USUAL_TIMES", connecting.urllib3.Timeout(connect=1, read=5))
    slow = S3Store(Objects(store._objects._settings, patience=2), store.location)
    between.bytes_per_second = 2 * 2**20
    slow.write("big", file)
    assert between.up < len(CONTENT) + 2**20, "nothing was sent twice"


def test_a_long_upload_that_breaks_once_is_repeated(store: S3Store, file: Path, between: Proxy) -> None:
    between.bytes_per_second, between.cut_up = 2.5 * 2**20, [4 * 2**20]
    impatient = S3Store(Objects(store._objects._settings, patience=1), store.location)
    began = time.monotonic()
    impatient.write("big", file)
    assert time.monotonic() - began > 2, "a part takes longer than the patience"
    between.bytes_per_second = None
    assert store.read("big") == CONTENT


def test_an_upload_that_fails_leaves_no_parts_and_no_object(
    store: S3Store, objects: Objects, file: Path, between: Proxy
) -> None:
    store.write("big", b"before")
    between.cut_up = [2**20] * 10_000
    impatient = S3Store(Objects(objects._settings, patience=1), store.location)
    with pytest.raises(Unreachable):
        impatient.write("big", file)
    between.cut_up = []
    assert unfinished(objects, store) == []
    assert store.read("big") == b"before"


def test_an_interrupted_upload_leaves_no_parts(
    store: S3Store, objects: Objects, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(sdk, "put_part", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.write("big", file)
    assert unfinished(objects, store) == []


def finishing(monkeypatch: pytest.MonkeyPatch, finish: Callable) -> list[int]:
    """Puts a function in the place of `sdk.finish_upload`; returns the numbers of the parts that are sent."""
    sent: list[int] = []
    put_part = sdk.put_part

    def counted(*arguments):
        sent.append(arguments[-1])
        return put_part(*arguments)

    monkeypatch.setattr(sdk, "put_part", counted)
    monkeypatch.setattr(sdk, "finish_upload", finish)
    return sent


def test_an_upload_whose_end_was_not_acknowledged_is_not_sent_again(
    store: S3Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish_upload, lost = sdk.finish_upload, []

    def finish(*arguments) -> None:
        finish_upload(*arguments)
        if not lost:
            lost.append(True)
            raise ConnectionError("the answer was lost")

    sent = finishing(monkeypatch, finish)
    store.write("big", file)
    assert sorted(sent) == [1, 2, 3, 4]
    assert store.read("big") == CONTENT


def test_parts_that_the_store_has_lost_are_sent_again(
    store: S3Store, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.write("big", bytes(len(CONTENT)))  # another object of this size is no proof
    finish_upload, lost = sdk.finish_upload, []

    def finish(client: Minio, bucket: str, key: str, upload: str, etags) -> None:
        if not lost:
            lost.append(True)
            sdk.abandon_upload(client, bucket, key, upload)
        finish_upload(client, bucket, key, upload, etags)

    sent = finishing(monkeypatch, finish)
    store.write("big", file)
    assert sorted(sent) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert store.read("big") == CONTENT
    assert "Sending them again" in caplog.text


def test_a_store_that_loses_every_upload_is_left_in_the_end(
    store: S3Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish_upload = sdk.finish_upload

    def finish(client: Minio, bucket: str, key: str, upload: str, etags) -> None:
        sdk.abandon_upload(client, bucket, key, upload)
        finish_upload(client, bucket, key, upload, etags)

    finishing(monkeypatch, finish)
    with pytest.raises(UploadLost, match="has lost the parts of an upload"):
        store.write("big", file)
    assert store.entry("big") is None


def test_an_end_that_begins_well_may_be_an_error(store: S3Store, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete, answers = Minio._complete_multipart_upload, []

    class Failed:
        etag = None

    def stumble(*arguments, **named):
        answers.append(1)
        return Failed() if len(answers) == 1 else complete(*arguments, **named)

    monkeypatch.setattr(Minio, "_complete_multipart_upload", stumble)
    store.write("big", file)
    assert len(answers) == 2
    assert store.read("big") == CONTENT


def test_a_file_that_shrinks_meanwhile_is_refused(store: S3Store, objects: Objects, file: Path) -> None:
    begin = sdk.begin_upload

    def shrink(*arguments) -> str:
        file.write_bytes(b"short")
        return begin(*arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="changed while it was uploaded"):
        patch.setattr(sdk, "begin_upload", shrink)
        store.write("big", file)
    assert store.entry("big") is None
    assert unfinished(objects, store) == []


@pytest.mark.parametrize(("size", "parts"), [(157 * 2**30, 10_000), (2**40, 10_000), (10 * 16 * 2**20, 10)])
def test_no_object_has_more_parts_than_s3_takes(size: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", 16 * 2**20)
    cut = uploads.cut(size)
    assert len(cut) == parts
    assert sum(length for _, length in cut) == size


MEASURE = """
import functools, re, sys
from pathlib import Path
from components.catlib.storage import open_store, transfer
from components.catlib.storage.parallel import in_parallel

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

store, files = open_store(sys.argv[1]), sorted(Path(sys.argv[2]).iterdir())
store.write("first", b"1")
before = peak()
in_parallel(functools.partial(store.write, path.name, path) for path in files)
uploaded = peak()
transfer.download(store, {path.name: path.stat().st_size for path in files}, Path(sys.argv[3]))
print(uploaded - before, peak() - before)
"""


def test_all_transfers_together_stay_below_the_limit_of_memory(object_store: SeaweedServer, tmp_path: Path) -> None:
    """Four files of 66 MiB, at the same time, up and down: in MiB."""
    (tmp_path / "files").mkdir()
    for number in range(4):
        (tmp_path / f"files/{number}").write_bytes(os.urandom(2**20) * 66)
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, "s3://cat/memory", str(tmp_path / "files"), str(tmp_path / "down")],
        env={**os.environ, **object_store.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert measured.returncode == 0, measured.stderr
    assert re.fullmatch(r"[\d.]+ [\d.]+", measured.stdout.strip())
    assert max(map(float, measured.stdout.split())) < 200
    assert (tmp_path / "down/3").read_bytes() == (tmp_path / "files/3").read_bytes()
