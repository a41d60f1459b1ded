import json
import os
import unicodedata
from pathlib import Path, PurePosixPath

import pytest

from components.catlib.data.decoding import read_picture
from components.catlib.data.files import FileTree, SourceFile, folder_tree, merged
from components.catlib.data.samples import UnusableImageError
from components.catlib.errors import UserError
from tests.components.catlib.data.image_folders import noise, pack_folder, write


def tree(*paths: str, where: str = "here") -> FileTree:
    return FileTree(where, {PurePosixPath(path): SourceFile(f"{where}/{path}", 0, bytes) for path in paths})


def paths(found: FileTree) -> list[str]:
    return [str(path) for path in found.files]


def test_a_folder_is_listed_in_the_order_of_its_paths(tmp_path: Path):
    for name in ("b.png", "a/2.JPG", "a/1.webp", ".hidden.png", ".cache/x.png", "notes.txt", "__MACOSX/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = folder_tree(tmp_path, where="data")
    assert paths(found) == ["a/1.webp", "a/2.JPG", "b.png"]
    first = found.files[PurePosixPath("a/1.webp")]
    assert (first.label, first.size, first.read()) == ("data/a/1.webp", 8, b"a/1.webp")


def test_links_are_followed_but_not_in_circles(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x.png").write_bytes(b"")
    (tmp_path / "data/sub").mkdir(parents=True)
    (tmp_path / "data/trainA").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/sub/up").symlink_to(tmp_path / "data")
    assert paths(folder_tree(tmp_path / "data", where="data")) == ["trainA/x.png"]


def test_a_link_that_leads_nowhere_is_not_passed_over(tmp_path: Path):
    (tmp_path / "1.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "2.png").mkdir()
    (lost,) = folder_tree(tmp_path, where="data").files.values()
    with pytest.raises(UnusableImageError, match=r"data/1\.png: No such file"):
        read_picture(lost)


def test_folders_are_entered_and_renamed():
    found = tree("A/train/1.png", "A/test/2.png", "B/train/1.png", "3.png")
    assert (found.folders, found.images_at_top) == (("A", "B"), True)
    assert paths(found.below("A/train")) == ["1.png"]
    assert found.below("A/train").where == "here/A/train"
    assert paths(found.below("A")) == ["train/1.png", "test/2.png"]
    assert paths(found.below("C/train")) == []
    assert paths(found.renamed({"A": "X"})) == ["3.png", "B/train/1.png", "X/test/2.png", "X/train/1.png"]


def test_trees_are_merged_unless_a_file_is_in_two():
    one, two = tree("gtFine/1.png", where="one.zip"), tree("leftImg8bit/1.png", where="two.zip")
    assert paths(merged([two, one], where="here")) == ["gtFine/1.png", "leftImg8bit/1.png"]
    with pytest.raises(UserError, match=r"one\.zip/gtFine/1\.png and one\.zip/gtFine/1\.png have the same path"):
        merged([one, one], where="here")


# ---------------------------------------------------------------------------------------------------------------- names


def test_partners_meet_whatever_form_their_names_have(tmp_path: Path):
    for domain, form in (("A", "NFC"), ("B", "NFD")):
        for name in ("café", "naïve"):
            write(tmp_path / f"data/{domain}/{unicodedata.normalize(form, name)}.png", noise(0))
    pack_folder(tmp_path / "data", tmp_path / "packed", test_fraction=0)
    assert json.loads((tmp_path / "packed/names.json").read_text())["train"]["source"] == ["café", "naïve"]


def test_bytes_that_are_no_text_are_escaped(tmp_path: Path):
    for domain in "AB":
        write(tmp_path / f"data/{domain}/plain.png", noise(0))
        (tmp_path / f"data/{domain}/plain.png").rename(tmp_path / f"data/{domain}" / os.fsdecode(b"caf\xe9\n.png"))
    pack_folder(tmp_path / "data", tmp_path / "packed", test_fraction=0)
    assert json.loads((tmp_path / "packed/names.json").read_text())["train"]["source"] == [r"caf\xe9\x0a"]


def test_two_spellings_of_one_name_are_refused(tmp_path: Path):
    for form in ("NFC", "NFD"):
        write(tmp_path / f"data/{unicodedata.normalize(form, 'é')}.png", noise(0))
    with pytest.raises(UserError, match=r"has two files of the name é\.png, in different bytes; rename one of them"):
        folder_tree(tmp_path / "data", where="data")


def test_names_that_differ_in_case_alone_are_said_so(tmp_path: Path):
    write(tmp_path / "data/A/Photo.png", noise(0))
    write(tmp_path / "data/B/photo.png", noise(0))
    with pytest.raises(UserError, match="'Photo' among the target images, but 'photo', which differs in upper"):
        pack_folder(tmp_path / "data", tmp_path / "packed")
