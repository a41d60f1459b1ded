"""Archives of every kind, well meant and not."""

import io
import os
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.catlib.data import archives
from components.catlib.data.archives import open_archive
from components.catlib.errors import UserError

FILES = {"data/trainA/1.png": b"one", "data/trainB/2.jpg": os.urandom(100_000), "data/README": b"no image"}
KINDS = ["zip", "tar", "tar.gz"]


def make_zip(path: Path, *members: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, content in members:
            archive.writestr(info, content)
    return path


def make_tar(path: Path, *members: tarfile.TarInfo, flavour: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w", format=flavour) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"\0" * member.size))
    return path


def make(path: Path, kind: str, files: dict[str, bytes] = FILES) -> Path:
    path = path / f"data.{kind}"
    if kind == "zip":
        return make_zip(path, *files.items())
    with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, "elsewhere"
    return info


def contents(path: Path) -> dict[str, bytes]:
    with open_archive(path, where="data") as tree:
        return {str(name): file.read() for name, file in tree.files.items()}


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught, open_archive(path, where="the archive") as tree:
        [file.read() for file in tree.files.values()]
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_the_images_of_an_archive_are_read_in_place(tmp_path: Path, kind: str):
    path = make(tmp_path, kind)
    assert contents(path) == {name: content for name, content in FILES.items() if name != "data/README"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", KINDS)
def test_several_threads_may_read(tmp_path: Path, kind: str):
    files = {f"{number}.png": bytes([number]) * 50_000 for number in range(60)}
    with open_archive(make(tmp_path, kind, files), where="data") as tree, ThreadPoolExecutor(8) as pool:
        for name, content in pool.map(lambda item: (str(item[0]), item[1].read()), tree.files.items()):
            assert content == files[name]


def test_the_content_decides_what_a_file_is(tmp_path: Path):
    path = make(tmp_path, "tar.gz").rename(tmp_path / "0123abcd")
    assert PurePosixPath("data/trainA/1.png").as_posix() in contents(path)


def test_backslashes_of_windows_part_names(tmp_path: Path):
    assert contents(make_zip(tmp_path / "x.zip", ("trainA\\1.png", b"1"))) == {"trainA/1.png": b"1"}


def test_hidden_members_are_no_images(tmp_path: Path):
    assert contents(make_zip(tmp_path / "x.zip", ("__MACOSX/._1.png", b""), (".trash/2.png", b""), ("3.png", b""))) == {
        "3.png": b""
    }


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>", b"MZ" * 1000])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "x.zip").write_bytes(content)
    assert "is not an archive" in refusal(tmp_path / "x.zip")
    assert ("a web page" in refusal(tmp_path / "x.zip")) == (b"html" in content)


@pytest.mark.parametrize(
    "name", ["../x.png", "a/../../x.png", "/etc/x.png", "C:\\x.png", "..\\x.png", "\\\\server\\x.png", "../x.txt"]
)
@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
def test_paths_that_lead_elsewhere_are_refused(tmp_path: Path, name: str, suffix: str):
    path = tmp_path / f"x.{suffix}"
    if suffix == "zip":
        make_zip(path, ("good.png", b""), (name, b"bad"))
    else:
        make_tar(path, member("good.png"), member(name))
    assert "outside the archive" in refusal(path)


@pytest.mark.parametrize(
    ("kind", "meaning"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "not a plain file"),
        (tarfile.BLKTYPE, "not a plain file"),
        (tarfile.FIFOTYPE, "not a plain file"),
        (tarfile.GNUTYPE_SPARSE, "not a plain file"),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes, meaning: str):
    path = make_tar(tmp_path / "x.tar", member("good.png"), member("a/bad.png", kind), flavour=tarfile.GNU_FORMAT)
    assert f"its member 'a/bad.png' is {meaning}" in refusal(path)


@pytest.mark.parametrize(
    ("kind", "meaning"),
    [(stat.S_IFLNK, "a link"), (stat.S_IFCHR, "not a plain file"), (stat.S_IFIFO, "not a plain file")],
)
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, kind: int, meaning: str):
    info = zipfile.ZipInfo("bad.png")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    assert f"'bad.png' is {meaning}" in refusal(make_zip(tmp_path / "x.zip", (info, b"/etc/passwd")))


def test_a_member_that_is_there_twice_is_refused(tmp_path: Path):
    assert "'1.png' is listed twice" in refusal(make_tar(tmp_path / "x.tar", member("1.png"), member("1.png")))


def test_an_encrypted_zip_is_refused(tmp_path: Path):
    path = make_zip(tmp_path / "x.zip", ("1.png", b"secret"))
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + offset] |= 1
    path.write_bytes(content)
    assert "is encrypted" in refusal(path)


# --------------------------------------------------------------------------------------------------------------- bombs


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE_INFLATION_BYTES", 10_000)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_bomb_is_refused(tmp_path: Path, kind: str):
    path = make(tmp_path, kind, {"1.png": b"\0" * 5_000_000, "2.png": b"\0" * 5_000_000})
    assert path.stat().st_size < 50_000
    assert "unpacks to more than" in refusal(path)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_no_bomb(tmp_path: Path, kind: str):
    files = {"1.png": os.urandom(100_000)}
    assert contents(make(tmp_path, kind, files)) == files


def test_a_zip_that_lies_about_a_size_inflates_no_further(tmp_path: Path):
    path = make_zip(tmp_path / "x.zip", ("1.png", b"\0" * 50_000_000))
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = content.index(signature) + offset
        content[place : place + 4] = struct.pack("<I", 1000)
    path.write_bytes(content)
    with open_archive(path, where="x") as tree, pytest.raises(zipfile.BadZipFile, match="CRC"):
        next(iter(tree.files.values())).read()


@pytest.mark.parametrize("kind", KINDS)
def test_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    assert len(contents(make(tmp_path, kind, {f"{i}.png": b"" for i in range(3)}))) == 3
    assert "more than 3 members" in refusal(make(tmp_path, kind, {f"{i}.png": b"" for i in range(4)}))


def test_a_zip_of_many_members_is_refused_before_anything_is_made_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = make(tmp_path, "zip", {f"{i}.png": b"" for i in range(4)})
    made = []
    monkeypatch.setattr(archives, "MOST_MEMBERS", 3)
    monkeypatch.setattr(zipfile.ZipInfo, "_decodeExtra", lambda *_: made.append(1))
    assert "more than 3 members" in refusal(path)
    assert not made
    monkeypatch.setattr(archives, "LARGEST_DIRECTORY", 100)
    assert "a table of contents of" in refusal(path)


def test_a_tar_is_listed_without_keeping_its_headers(tmp_path: Path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for number in range(4000):
            archive.addfile(member(f"{number}.txt"))
    tracemalloc.start()
    try:
        assert contents(tmp_path / "x.tar") == {}
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_member_without_a_name_is_no_traceback(tmp_path: Path):
    path = make_zip(tmp_path / "x.zip", ("a/1.png", b"1"), ("b/2.png", b"2"))
    path.write_bytes(path.read_bytes().replace(b"b/2.png", b"\0/2.png"))
    assert contents(path) == {"a/1.png": b"1"}


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path: Path):
    path = make_tar(tmp_path / "x.tar", member("long", tarfile.GNUTYPE_LONGNAME, size=2_000_000), member("1.png"))
    assert "a header of" in refusal(path)


def test_a_negative_size_does_not_lead_in_circles(tmp_path: Path):
    header = bytearray(member("1.png", size=5).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 11 + b"\x00"  # base 256, negative
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "x.tar").write_bytes(bytes(header) + bytes(1024))
    assert "damaged" in refusal(tmp_path / "x.tar")


# -------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", [1, 10, 511, 1024, 30_000])
def test_an_archive_that_is_cut_short_is_refused(tmp_path: Path, kind: str, missing: int):
    path = make(tmp_path, kind)
    content = path.read_bytes()
    # Writers fill tar files up to whole records, more than their end needs.
    end = len(content.rstrip(b"\0")) // 512 * 512 + 3 * 512 if kind == "tar" else len(content)
    path.write_bytes(content[: end - missing])
    assert "damaged or cut short" in refusal(path)


def test_a_tar_padded_to_whole_records_may_not_miss_a_byte_either(tmp_path: Path):
    path = make(tmp_path, "tar")
    path.write_bytes(path.read_bytes()[:-1])
    assert "its end is missing" in refusal(path)


def test_a_changed_byte_in_a_gzip_is_noticed(tmp_path: Path):
    path = make(tmp_path, "tar.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("damage", [lambda c: c[:-30] + b"\0" * 30, lambda c: c[: len(c) // 2]])
def test_a_zip_without_its_directory_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]):
    path = make(tmp_path, "zip")
    path.write_bytes(damage(path.read_bytes()))
    assert "damaged" in refusal(path)


@given(
    kind=st.sampled_from(KINDS),
    damage=st.dictionaries(st.floats(0, 1, exclude_max=True), st.integers(0, 255), min_size=1, max_size=6),
)
@settings(max_examples=100, deadline=None)
def test_whatever_the_damage_an_archive_opens_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, damage: dict[float, int]
):
    path = make(tmp_path_factory.mktemp("damaged"), kind, {"a/1.png": b"abc" * 30, "b/2.png": bytes(range(256))})
    content = bytearray(path.read_bytes())
    for place, value in damage.items():
        content[int(place * len(content))] = value
    path.write_bytes(content)
    try:
        with open_archive(path, where="x") as tree:
            assert len(tree.files) <= 2
    except UserError as error:
        assert str(error).startswith(("Archive x is", "x is not an archive"))
