"""Artifacts in an object store, against a real S3 server and, for faults that it does not have, a scripted one."""

import contextlib
import http.server
import json
import logging
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from components.catlib import artifacts, storage
from components.catlib.config import PruneConfig
from components.catlib.errors import UserError
from components.catlib.storage import Location, Storage, StoreSettings
from tests.object_stores import ACCESS_KEY, SECRET_KEY, SeaweedServer, seaweed_server

COMPLETE = {"S3_ENDPOINT": "http://store:9000", "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


@pytest.fixture
def store(object_store: SeaweedServer) -> Storage:
    return Storage(object_store.environment, patience=5)


@pytest.fixture
def address(request: pytest.FixtureRequest) -> str:
    return f"s3://cat/{request.node.name}".replace("[", "-").replace("]", "")


def make_artifact(folder: Path, files: dict[str, bytes], *, request: str = "request") -> Path:
    with artifacts.writing(folder, kind="prune", config=PruneConfig()) as writer:
        for name, content in files.items():
            path = writer.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    artifacts.stamp(folder, request)
    return folder


def put(store: Storage, address: str, content: bytes, path: Path) -> None:
    location = Location.parse(address)
    path.write_bytes(content)
    store._client.fput_object(location.bucket, location.prefix, str(path))


# ------------------------------------------------------------------------------------ addresses and settings


def test_an_address_is_a_bucket_and_a_prefix() -> None:
    assert Location.parse("s3://bucket/a/b/") == Location("bucket", "a/b")
    assert Location.parse("minio://bucket") == Location("bucket", "")
    assert Location("bucket", "").key("x") == "x"
    assert Location("bucket", "a").key("x") == "a/x"


@pytest.mark.parametrize("address", ["s3://", "s3:///a", "s3://bucket/a//b", "s3://bucket/../b"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="not an object-store address"):
        Location.parse(address)


def test_settings_come_from_variables_or_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from a file\n")
    environment = {**COMPLETE, "AWS_SECRET_ACCESS_KEY": "", "AWS_SECRET_ACCESS_KEY_FILE": str(secret)}
    settings = StoreSettings.from_environment({**environment, "AWS_DEFAULT_REGION": "eu-1"})
    assert (settings.host, settings.secure, settings.region) == ("store:9000", False, "eu-1")
    assert settings.secret_key == "from a file"
    assert "from a file" not in repr(settings)
    assert ACCESS_KEY not in repr(settings)
    assert StoreSettings.from_environment({**COMPLETE, "S3_ENDPOINT": "https://s3.example.org"}).secure


@pytest.mark.parametrize("missing", list(COMPLETE))
def test_a_missing_variable_is_named(missing: str) -> None:
    with pytest.raises(UserError, match=missing):
        StoreSettings.from_environment({name: value for name, value in COMPLETE.items() if name != missing})


@pytest.mark.parametrize("endpoint", ["store:9000", "ftp://store", "http://store/path", "http://user:pw@store"])
def test_an_endpoint_of_another_form_is_refused(endpoint: str) -> None:
    with pytest.raises(UserError, match="S3_ENDPOINT must be") as caught:
        StoreSettings.from_environment({**COMPLETE, "S3_ENDPOINT": endpoint})
    assert "pw" not in str(caught.value)


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"AWS_ACCESS_KEY_ID_FILE names .*nowhere"):
        StoreSettings.from_environment(
            {"S3_ENDPOINT": "http://store", "AWS_ACCESS_KEY_ID_FILE": str(tmp_path / "nowhere")}
        )


# ------------------------------------------------------------------------------------ there and back again


def test_an_artifact_comes_back_as_it_was(
    store: Storage, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PART_BYTES", 5 * 2**20)
    files = {"big.bin": os.urandom(12 * 2**20 + 7), "sub/folder/page.html": b"<p>", "empty": b""}
    folder = make_artifact(tmp_path / "artifact", files)
    store.publish(folder, address)
    fetched = store.fetch(address, tmp_path / "fetched", "prune")
    assert {
        path.relative_to(fetched).as_posix(): path.read_bytes() for path in fetched.rglob("*") if path.is_file()
    } == {**files, "manifest.json": (folder / "manifest.json").read_bytes()}
    assert store.manifest(address, "prune") == artifacts.read_manifest(folder)


def test_local_folders_are_used_where_they_are(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "artifact", {"a": b"1"})
    local = Storage({})
    assert local.fetch(str(folder), tmp_path / "unused", "prune") == folder
    assert local.find(str(folder), "request") == local.manifest(str(folder))
    assert local.find(str(folder), "another") is None
    (folder / "a").unlink()
    assert local.find(str(folder), "request") is None


def test_a_wrong_kind_or_a_missing_artifact_is_one_sentence(store: Storage, address: str, tmp_path: Path) -> None:
    store.publish(make_artifact(tmp_path / "artifact", {}), address)
    with pytest.raises(UserError, match="is a prune artifact, expected a teacher artifact"):
        store.fetch(address, tmp_path / "fetched", "teacher")
    with pytest.raises(UserError, match="is not an artifact: it has no manifest"):
        store.fetch(f"{address}/none", tmp_path / "fetched", "teacher")
    assert not (tmp_path / "fetched").exists()


def test_a_complete_artifact_is_found_by_its_request_only(store: Storage, address: str, tmp_path: Path) -> None:
    assert store.find(address, "request") is None
    store.publish(make_artifact(tmp_path / "artifact", {"a": b"1", "b": b"2"}), address)
    found = store.find(address, "request")
    assert found is not None
    assert set(found.files) == {"a", "b"}
    assert store.find(address, "another") is None
    store._remove(Location.parse(address), "b")
    assert store.find(address, "request") is None


def test_half_an_upload_is_no_artifact(
    store: Storage, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(make_artifact(tmp_path / "old", {"a": b"old"}), address)
    new = make_artifact(tmp_path / "new", {"a": b"new", "b": b"new"})
    upload = Storage._upload

    def die_at_b(self: Storage, path: Path, location: Location, name: str) -> None:
        if name == "b":
            raise KeyboardInterrupt
        upload(self, path, location, name)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Storage, "_upload", die_at_b)
        store.publish(new, address)
    assert store.find(address, "request") is None
    with pytest.raises(UserError, match="was the stage that writes it interrupted"):
        store.manifest(address)
    store.publish(new, address)
    assert (store.fetch(address, tmp_path / "fetched") / "b").read_bytes() == b"new"


def test_publishing_replaces_what_was_published_and_nothing_else(store: Storage, address: str, tmp_path: Path) -> None:
    store.publish(make_artifact(tmp_path / "old", {"a": b"old", "gone": b"old"}), address)
    put(store, f"{address}/notes.txt", b"mine", tmp_path / "notes.txt")
    store.publish(make_artifact(tmp_path / "new", {"a": b"new"}), address)
    names = [str(name).removeprefix(f"{Location.parse(address).prefix}/") for name, *_ in store.fingerprint(address)]
    assert names == ["a", "manifest.json", "notes.txt"]


def test_objects_changed_behind_the_manifest_are_noticed(store: Storage, address: str, tmp_path: Path) -> None:
    store.publish(make_artifact(tmp_path / "artifact", {"a": b"right", "b": b"right"}), address)
    put(store, f"{address}/a", b"wrong", tmp_path / "a")
    with pytest.raises(UserError, match=r"/a does not match its checksum"):
        store.fetch(address, tmp_path / "fetched")
    store._remove(Location.parse(address), "a")
    with pytest.raises(UserError, match="There is no object"):
        store.fetch(address, tmp_path / "fetched again")


def test_a_manifest_cannot_write_outside_its_folder(store: Storage, address: str, tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "artifact", {"a": b"1"})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../outside"] = manifest["files"]["a"]
    put(store, f"{address}/manifest.json", json.dumps(manifest).encode(), tmp_path / "manifest.json")
    with pytest.raises(UserError, match="outside its folder"):
        store.fetch(address, tmp_path / "fetched")


def test_a_damaged_manifest_is_made_anew(store: Storage, address: str, tmp_path: Path) -> None:
    put(store, f"{address}/manifest.json", b"{", tmp_path / "manifest.json")
    assert store.find(address, "request") is None
    store.publish(make_artifact(tmp_path / "artifact", {"a": b"1"}), address)
    assert store.find(address, "request") is not None


# ------------------------------------------------------------------------------------ other files and buckets


def test_files_and_trees_are_copied_here_once(
    object_store: SeaweedServer, store: Storage, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in object_store.environment.items():
        monkeypatch.setenv(variable, value)
    for name in ("tree/x/1.png", "tree/2.png", "tree2"):
        put(store, f"{address}/{name}", name.encode(), tmp_path / "file")
    tree = storage.local_copy(f"{address}/tree")
    assert sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*.png")) == ["2.png", "x/1.png"]
    assert (tree / "x/1.png").read_bytes() == b"tree/x/1.png"
    assert storage.local_copy(f"{address}/tree") == tree
    assert storage.local_copy(f"{address}/tree/2.png").read_bytes() == b"tree/2.png"
    assert storage.local_copy("some/folder") == Path("some/folder")
    with pytest.raises(UserError, match="There is nothing at"):
        storage.local_copy(f"{address}/none")


def test_a_fingerprint_tells_one_content_from_another(store: Storage, address: str, tmp_path: Path) -> None:
    for place in (address, str(tmp_path / "folder")):
        seen = [store.fingerprint(place)]
        for content in (b"first", b"other"):
            if storage.is_remote(place):
                put(store, f"{place}/file", content, tmp_path / "file")
            else:
                Path(place).mkdir(exist_ok=True)
                (Path(place) / "file").write_bytes(content)
            seen.append(store.fingerprint(place))
        assert seen[0] == []
        assert seen[1] != seen[2]
        assert store.fingerprint(f"{place}/file")


def test_a_bucket_is_made_once(store: Storage) -> None:
    assert store.make_bucket("s3://another") is True
    assert store.make_bucket("s3://another") is False


def test_a_link_needs_no_credentials(store: Storage, address: str, tmp_path: Path) -> None:
    store.publish(make_artifact(tmp_path / "artifact", {"report.html": b"<p>"}), address)
    link = store.link(f"{address}/report.html", lifetime=timedelta(days=1))
    assert SECRET_KEY not in link
    with urllib.request.urlopen(link) as answer:
        assert (answer.read(), answer.headers["Content-Type"]) == (b"<p>", "text/html")


# ------------------------------------------------------------------------------------ faults


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
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1 did not answer for \d s .*is it up") as caught:
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
