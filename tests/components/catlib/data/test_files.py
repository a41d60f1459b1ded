from pathlib import Path, PurePosixPath

import pytest

from components.catlib.data.decoding import read_picture
from components.catlib.data.files import FileTree, SourceFile, folder_tree, merged
from components.catlib.data.samples import UnusableImageError
from components.catlib.errors import UserError


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
