"""Sources of every kind: paths, known names, a web server, a real object store."""

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.catlib.data import known_datasets, locating
from components.catlib.data.locating import content_of, open_source
from components.catlib.errors import UserError
from components.catlib.storage import Storage
from components.catlib.storage.objects import S3Store
from tests.components.catlib.data.image_folders import cityscapes, noise, write, zipped
from tests.object_stores import SeaweedServer
from tests.web_servers import WebServer, web_server


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for index, name in enumerate(("trainA/1.png", "trainB/2.png")):
        write(tmp_path / "images/horse2zebra" / name, noise(index))
    return tmp_path / "images"


@pytest.fixture
def archive(images: Path, tmp_path: Path) -> Path:
    return zipped(images, tmp_path / "horse2zebra.zip")


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


def found(location: str, sha256: str | None = None) -> tuple[list[str], dict]:
    with open_source(location, sha256=sha256) as (tree, facts):
        assert all(file.read() for file in tree.files.values())
        return [str(path) for path in tree.files], facts


NAMES = ["horse2zebra/trainA/1.png", "horse2zebra/trainB/2.png"]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_folder_and_an_archive_hold_the_same(images: Path, archive: Path):
    assert found(str(images)) == (NAMES, {"source": str(images)})
    assert found(str(archive)) == (NAMES, {"source": str(archive), "sha256": digest(archive)})


def test_a_digest_is_checked_and_recorded(archive: Path):
    assert found(str(archive), digest(archive))[1]["sha256"] == digest(archive)
    with pytest.raises(UserError, match=rf"has the SHA-256 {digest(archive)}, expected is 0000"):
        found(str(archive), "0" * 64)


def test_a_folder_has_no_digest(images: Path):
    with pytest.raises(UserError, match="is a folder; remove dataset"):
        found(str(images), "0" * 64)


def test_archives_that_belong_together_lie_in_one_folder(tmp_path: Path):
    whole = cityscapes(tmp_path / "whole")
    (tmp_path / "packed").mkdir()
    for kind in ("gtFine", "leftImg8bit"):
        (tmp_path / "alone" / kind).parent.mkdir(exist_ok=True)
        (whole / kind).rename(tmp_path / "alone" / kind)
        (tmp_path / "alone" / "license.txt").write_text(kind)
        zipped(tmp_path / "alone", tmp_path / "packed" / f"{kind}_trainvaltest.zip")
        (tmp_path / "alone" / kind).rename(whole / kind)
    assert found(str(tmp_path / "packed"))[0] == found(str(whole))[0]


@pytest.mark.parametrize("location", ["nowhere", "some/where"])
def test_what_is_not_there_is_named(location: str):
    with pytest.raises(UserError, match=f"source {location} is neither a folder nor an archive") as caught:
        found(location)
    assert ("horse2zebra" in str(caught.value)) == ("/" not in location)


@pytest.mark.parametrize("location", ["", "  "])
def test_nothing_is_not_the_current_folder(images: Path, location: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(images)
    with pytest.raises(UserError, match=r"dataset\.source is empty"):
        found(location)


@pytest.mark.parametrize("location", ["gs://bucket/x", "file:///data", "HTTPS://host/x.zip", "ftp://host/x"])
def test_addresses_that_cannot_be_read_are_named(location: str):
    with pytest.raises(UserError, match=rf"begins with {location.partition(':')[0]}://, which cannot be read"):
        found(location)


# ----------------------------------------------------------------------------------------------------- web and store


def test_an_archive_of_the_web_is_read_once_downloaded(archive: Path, web: WebServer):
    web.files["/h2z.zip"], web.etags["/h2z.zip"], web.breaks = archive.read_bytes(), '"1"', [100]
    url = web.url("/h2z.zip?download=1")
    names, facts = found(url)
    assert (names, facts) == (NAMES, {"source": web.url("/h2z.zip"), "sha256": digest(archive)})
    web.files.clear()
    assert found(url, digest(archive))[0] == NAMES


def test_a_web_page_is_no_archive(web: WebServer):
    web.files["/login"] = b"<!DOCTYPE html><html>Please log in"
    with pytest.raises(UserError, match=r"/login is not an archive .* but a web page"):
        found(web.url("/login"))


def test_archives_and_folders_come_from_an_object_store_too(
    archive: Path, images: Path, object_store: SeaweedServer, monkeypatch: pytest.MonkeyPatch
):
    for variable, value in object_store.environment.items():
        monkeypatch.setenv(variable, value)
    store = Storage(object_store.environment)
    store.upload_file(archive, "s3://cat/locating/h2z.zip")
    for path in images.rglob("*.png"):
        store.upload_file(path, f"s3://cat/locating/images/{path.relative_to(images)}")
    assert found("s3://cat/locating/h2z.zip", digest(archive))[0] == NAMES
    assert found("minio://cat/locating/h2z.zip")[1]["sha256"] == digest(archive)
    assert found("s3://cat/locating/images") == (NAMES, {"source": "s3://cat/locating/images"})
    with pytest.raises(UserError, match="is a folder; remove dataset"):
        found("s3://cat/locating/images", digest(archive))
    with pytest.raises(UserError, match=r"has the SHA-256 .* expected 0000"):
        found("s3://cat/locating/h2z.zip", "0" * 64)
    with pytest.raises(UserError, match="There is nothing at s3://cat/locating/none"):
        found("s3://cat/locating/none")


def test_archives_below_a_prefix_are_downloaded_once(
    archive: Path, object_store: SeaweedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for variable, value in object_store.environment.items():
        monkeypatch.setenv(variable, value)
    store = Storage(object_store.environment)
    store.upload_file(archive, "s3://cat/below/h2z.zip")
    (tmp_path / "README").write_text("no image")
    store.upload_file(tmp_path / "README", "s3://cat/below/README")
    assert found("s3://cat/below")[0] == NAMES
    (kept,) = (tmp_path / "cache/cat-pipeline/content").iterdir()
    assert kept.name == digest(archive)
    monkeypatch.setattr(S3Store, "read_part", None)
    assert found("s3://cat/below/")[0] == NAMES


# --------------------------------------------------------------------------------------------------------- known names


@pytest.mark.parametrize("place", ["datasets/horse2zebra", "datasets/horse2zebra.zip"])
def test_a_known_dataset_is_taken_from_where_it_was_put(images: Path, archive: Path, place: str):
    Path("datasets").mkdir()
    (archive if place.endswith("zip") else images).rename(place)
    names, facts = found("horse2zebra")
    assert (names, facts["source"]) == (NAMES, "horse2zebra")
    assert "ImageNet" in facts["terms"]


def test_a_known_dataset_is_downloaded_else(archive: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch):
    web.files["/horse2zebra.zip"] = archive.read_bytes()
    known = known_datasets.Dataset(
        "horse2zebra", ("horse2zebra.zip",), 1, "", "", "https://home", web.url("/horse2zebra.zip")
    )
    monkeypatch.setitem(locating.KNOWN, "horse2zebra", known)
    names, facts = found("horse2zebra")
    assert (names, facts["sha256"]) == (NAMES, digest(archive))


def test_without_a_network_it_is_said_what_to_fetch_and_where_to_put_it(monkeypatch: pytest.MonkeyPatch):
    known = known_datasets.Dataset(
        "horse2zebra",
        ("horse2zebra.zip",),
        117,
        "",
        "research",
        "https://home",
        "http://nowhere.invalid/horse2zebra.zip",
    )
    monkeypatch.setitem(locating.KNOWN, "horse2zebra", known)
    with pytest.raises(UserError) as caught:
        found("horse2zebra")
    assert str(caught.value) == (
        "Dataset horse2zebra could not be downloaded (The server nowhere.invalid cannot be found; is this machine "
        "online?): download horse2zebra.zip (117 MB) from http://nowhere.invalid/horse2zebra.zip, save it as "
        "datasets/horse2zebra.zip, or set dataset.source to the path of your copy (terms: research)."
    )


def test_cityscapes_must_be_fetched_by_oneself():
    with pytest.raises(
        UserError,
        match=r"cityscapes is not in datasets/cityscapes/ and needs .*: register, download gtFine_.*/downloads/",
    ):
        found("cityscapes")


# ------------------------------------------------------------------------------------------------------------- content


def content(location: str, *, here: bool = True, sha256: str | None = None) -> list:
    return content_of(location, sha256, "dataset.sha256", here=here)


def test_the_content_of_a_folder_is_that_of_its_files_wherever_it_lies(images: Path, tmp_path: Path):
    first = content(str(images))
    assert [name for name, _, _ in first] == sorted(name for name, _, _ in first)
    shutil.copytree(images, tmp_path / "colleague/pictures")
    for path in (tmp_path / "colleague").rglob("*"):
        os.utime(path, (1, 1))
    assert content(str(tmp_path / "colleague/pictures")) == first
    file = next((tmp_path / "colleague").rglob("*.png"))
    file.rename(file.with_name("other.png"))
    assert content(str(tmp_path / "colleague/pictures")) != first


def test_the_content_of_an_archive_is_that_of_the_file(images: Path, tmp_path: Path):
    archive = zipped(images, tmp_path / "a.zip")
    first = content(str(archive))
    os.utime(archive, (1, 1))
    assert content(str(archive)) == first
    assert content(str(shutil.copy(archive, tmp_path / "b.zip"))) == first
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    assert content(str(archive)) != first


def test_a_local_copy_of_a_known_dataset_counts_here_and_not_for_pods(images: Path):
    Path("datasets").mkdir()
    elsewhere = content("horse2zebra", here=False)
    images.rename("datasets/horse2zebra")
    assert content("horse2zebra") == content("datasets/horse2zebra")
    assert content("horse2zebra", here=False) == elsewhere == ["horse2zebra", None]
    Path("horse2zebra").mkdir()
    assert content("horse2zebra", here=False) == elsewhere


def test_a_known_dataset_without_a_copy_has_the_version_of_its_download(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
):
    known = dataclasses.replace(known_datasets.KNOWN["maps"], url=web.url("/maps.tar.gz"))
    monkeypatch.setitem(known_datasets.KNOWN, "maps", known)
    web.files["/maps.tar.gz"], web.etags["/maps.tar.gz"] = b"1", '"one"'
    first = content("maps")
    web.etags["/maps.tar.gz"] = '"two"'
    assert content("maps") != first


def test_with_a_digest_nothing_else_counts(images: Path, tmp_path: Path):
    digest = "0" * 64
    assert content("https://nowhere.invalid/a.zip", sha256=digest) == content(str(images), sha256=digest) == [digest]


@pytest.mark.parametrize("location", ["nowhere/at/all", "http://127.0.0.1:1/a.zip", "s3://bucket/images"])
def test_what_cannot_be_looked_up_counts_by_name_and_the_setting_is_named(
    location: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.delenv("S3_ENDPOINT", raising=False)
    assert content(location, here=False) == [location]
    assert "counts as unchanged since earlier runs" in caplog.text
    assert "dataset.sha256" in caplog.text


def test_an_object_that_is_uploaded_again_is_the_same(
    object_store: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for variable, value in object_store.environment.items():
        monkeypatch.setenv(variable, value)
    store = Storage(object_store.environment)
    (tmp_path / "a.png").write_bytes(b"picture")
    store.upload_file(tmp_path / "a.png", "s3://cat/again/x/a.png")
    folder, file = content("s3://cat/again/x"), content("s3://cat/again/x/a.png")
    store.upload_file(tmp_path / "a.png", "s3://cat/again/x/a.png")
    store.upload_file(tmp_path / "a.png", "s3://cat/again/y/a.png")
    assert content("s3://cat/again/x") == content("s3://cat/again/y") == folder
    assert content("s3://cat/again/x/a.png") == content("s3://cat/again/y/a.png") == file
    (tmp_path / "a.png").write_bytes(b"another")
    store.upload_file(tmp_path / "a.png", "s3://cat/again/x/a.png")
    assert content("s3://cat/again/x") != folder
    assert content("s3://cat/again/x/a.png") != file


def test_a_folder_wins_over_a_known_name(images: Path):
    (images / "horse2zebra").rename("maps")
    assert found("maps") == (["trainA/1.png", "trainB/2.png"], {"source": "maps"})
