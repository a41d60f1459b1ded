"""The image files of a source by path, whether they lie in a folder, in an archive or in several archives.

Nothing is unpacked. Layouts are recognised from paths alone, and each file is read only when it is needed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

from components.catlib.disk import walk
from components.catlib.errors import UserError

_KINDS = "avif bmp gif heic heif jfif jp2 jpe jpeg jpg npy pgm png pnm ppm tga tif tiff webp"
IMAGE_SUFFIXES = frozenset(f".{kind}" for kind in _KINDS.split())
"""How the names of images end, in lower case. Files of a kind that cannot be decoded count as unusable images."""

TEXT_SUFFIXES = frozenset({".csv", ".json", ".jsonl", ".parquet"})
"""How the names of files end that may say what the images are."""
ARRAYS = ".npy"
"""How the names of arrays end. They are images where a recipe states what their numbers mean."""


@dataclass(frozen=True)
class SourceFile:
    """One file that has not been read yet.

    Attributes:
        label: The file's name in messages and manifests.
        size: Size in bytes.
        read: Returns the content; may raise any exception if the file is damaged or gone.
    """

    label: str
    size: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class FileTree:
    """The image files of a source.

    Attributes:
        where: The source's name in messages.
        files: Path below the source -> file, ordered by path.
        texts: The same of files that may say what the images are.
    """

    where: str
    files: Mapping[PurePosixPath, SourceFile]
    texts: Mapping[PurePosixPath, SourceFile] = field(default_factory=dict)

    @cached_property
    def _children(self) -> dict[str, FileTree]:
        files, texts = _by_folder(self.files), _by_folder(self.texts)
        return {name: FileTree(f"{self.where}/{name}", files[name], texts.get(name, {})) for name in files}

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of the folders at the top, ordered by path."""
        return tuple(self._children)

    @property
    def images_at_top(self) -> bool:
        """Whether an image lies directly in the source, outside any folder."""
        return any(len(path.parts) == 1 for path in self.files)

    def below(self, folder: str) -> FileTree:
        """Returns the files below a folder such as `a/b`; an unknown folder gives a tree without files."""
        tree = self
        for name in PurePosixPath(folder).parts:
            tree = tree._children.get(name) or FileTree(f"{tree.where}/{name}", {})
        return tree

    def renamed(self, names: Mapping[str, str]) -> FileTree:
        """Returns the same files with renamed top folders.

        Args:
            names: Old name -> new name; other folders keep theirs.
        """
        renamed = {
            PurePosixPath(names.get(path.parts[0], path.parts[0]), *path.parts[1:]): file
            for path, file in self.files.items()
        }
        return FileTree(self.where, dict(sorted(renamed.items())), self.texts)


def _by_folder(files: Mapping[PurePosixPath, SourceFile]) -> dict[str, dict[PurePosixPath, SourceFile]]:
    """Returns name of a top folder -> path below it -> file."""
    found: dict[str, dict[PurePosixPath, SourceFile]] = {}
    for path, file in files.items():
        if len(path.parts) > 1:
            found.setdefault(path.parts[0], {})[PurePosixPath(*path.parts[1:])] = file
    return found


def as_text(name: str) -> str:
    r"""Returns the name of a file as messages, manifests and pairs have it, whatever system has written it.

    Systems write `é` as one sign or as two; here it is one (Unicode's form NFC). Bytes that are no text and control
    characters are escaped: `caf\xe9.png`.
    """
    readable = "".join(
        f"\\x{ord(sign) & 0xFF:02x}"
        if 0xDC80 <= ord(sign) <= 0xDCFF or unicodedata.category(sign) == "Cc"
        else "\N{REPLACEMENT CHARACTER}"
        if 0xD800 <= ord(sign) <= 0xDFFF
        else sign
        for sign in name
    )
    return unicodedata.normalize("NFC", readable)


def is_image_path(path: PurePosixPath) -> bool:
    """Returns whether a path ends like an image and has no hidden part (`.name`, or `__MACOSX/` in some archives)."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not _is_hidden(path)


def is_text_path(path: PurePosixPath) -> bool:
    """Returns whether a path ends like a file that may say what the images are, and has no hidden part."""
    return path.suffix.lower() in TEXT_SUFFIXES and not _is_hidden(path)


def _is_hidden(path: PurePosixPath) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)


def without_arrays(tree: FileTree) -> FileTree:
    """Leaves out .npy files that lie beside pictures; nothing says what their numbers mean.

    Raises:
        UserError: A folder holds .npy files, but no pictures.
    """
    arrays = {path for path in tree.files if path.suffix.lower() == ARRAYS}
    with_pictures = {path.parent for path in tree.files if path not in arrays}
    alone = next((path for path in arrays if path.parent not in with_pictures), None)
    if alone is not None:
        raise UserError(
            f"{tree.files[alone].label} is an array, as are all images in its folder; state what the numbers mean in "
            "dataset.source_values or dataset.target_values (type, channels, range), or remove the folder."
        )
    return FileTree(tree.where, {path: file for path, file in tree.files.items() if path not in arrays}, tree.texts)


def folder_tree(folder: Path, *, where: str) -> FileTree:
    """Lists the images below a folder. Links are followed, and each folder is visited once.

    A broken link is listed too, so that reading it reports the missing file.

    Args:
        folder: An existing folder.
        where: The folder's name in messages.
    """
    found: dict[PurePosixPath, SourceFile] = {}
    texts: dict[PurePosixPath, SourceFile] = {}
    for path in walk(folder):
        relative = PurePosixPath(as_text(path.relative_to(folder).as_posix()))
        lost = path.is_symlink() and not path.exists()
        if is_image_path(relative) and (path.is_file() or lost):
            if relative in found:
                raise UserError(
                    f"{where} has two files of the name {relative}, in different bytes; rename one of them."
                )
            found[relative] = SourceFile(f"{where}/{relative}", 0 if lost else path.stat().st_size, path.read_bytes)
        elif is_text_path(relative) and path.is_file():
            texts[relative] = SourceFile(f"{where}/{relative}", path.stat().st_size, path.read_bytes)
    return FileTree(where, dict(sorted(found.items())), dict(sorted(texts.items())))


def merged(trees: list[FileTree], *, where: str) -> FileTree:
    """Merges several trees into one, as if all were unpacked into the same folder.

    Args:
        trees: The trees to merge.
        where: The merged tree's name in messages.

    Raises:
        UserError: Two trees have a file with the same path.
    """
    files: dict[PurePosixPath, SourceFile] = {}
    for tree in trees:
        for path, file in tree.files.items():
            if path in files:
                raise UserError(
                    f"{files[path].label} and {file.label} have the same path; keep only one of these archives in "
                    f"{where}."
                )
            files[path] = file
    texts = {path: file for tree in reversed(trees) for path, file in tree.texts.items()}
    return FileTree(where, dict(sorted(files.items())), dict(sorted(texts.items())))
