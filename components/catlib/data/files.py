"""Image files of a source by their path, wherever they lie: in a folder, in an archive or in several archives.

Nothing is unpacked. Layouts look at paths only, and a file is read when its turn comes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from components.catlib.errors import UserError

_KINDS = "avif bmp gif heic heif jfif jp2 jpe jpeg jpg pgm png pnm ppm tga tif tiff webp"
SUFFIXES = frozenset(f".{kind}" for kind in _KINDS.split())
"""File names that are taken for images, in lower case; those of a kind that cannot be decoded are unusable images."""


@dataclass(frozen=True)
class SourceFile:
    """One file, not read yet.

    Attributes:
        label: What messages and manifests call it.
        size: Bytes.
        read: Returns its content; may raise anything when the file is damaged or gone.
    """

    label: str
    size: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class FileTree:
    """The image files of a source.

    Attributes:
        where: What messages call the source.
        files: Path below the source -> file, in the order of the paths.
    """

    where: str
    files: Mapping[PurePosixPath, SourceFile]

    @cached_property
    def _children(self) -> dict[str, FileTree]:
        children: dict[str, dict[PurePosixPath, SourceFile]] = {}
        for path, file in self.files.items():
            if len(path.parts) > 1:
                children.setdefault(path.parts[0], {})[PurePosixPath(*path.parts[1:])] = file
        return {name: FileTree(f"{self.where}/{name}", files) for name, files in children.items()}

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of the folders at the top, in order."""
        return tuple(self._children)

    @property
    def images_at_top(self) -> bool:
        """Whether some image lies in no folder."""
        return any(len(path.parts) == 1 for path in self.files)

    def below(self, folder: str) -> FileTree:
        """Returns the files below a folder, `a/b` for example; without files when there is no such folder."""
        tree = self
        for name in PurePosixPath(folder).parts:
            tree = tree._children.get(name) or FileTree(f"{tree.where}/{name}", {})
        return tree

    def renamed(self, names: Mapping[str, str]) -> FileTree:
        """Returns the same files with other names for the folders at the top."""
        renamed = {
            PurePosixPath(names.get(path.parts[0], path.parts[0]), *path.parts[1:]): file
            for path, file in self.files.items()
        }
        return FileTree(self.where, dict(sorted(renamed.items())))


def is_image_path(path: PurePosixPath) -> bool:
    """Tells whether a path ends like an image and has no hidden part, such as the `__MACOSX/` of some archives."""
    return path.suffix.lower() in SUFFIXES and not any(part.startswith((".", "__MACOSX")) for part in path.parts)


def folder_tree(folder: Path, *, where: str) -> FileTree:
    """Lists the images below a folder; links are followed, each folder is visited once.

    A link that leads nowhere is listed too, so that it is found missing when it is read.

    Args:
        folder: An existing folder.
        where: What messages call it.
    """
    found = {}
    for path in _walk(folder):
        relative = PurePosixPath(path.relative_to(folder).as_posix())
        lost = path.is_symlink() and not path.exists()
        if is_image_path(relative) and (path.is_file() or lost):
            found[relative] = SourceFile(f"{where}/{relative}", 0 if lost else path.stat().st_size, path.read_bytes)
    return FileTree(where, dict(sorted(found.items())))


def merged(trees: list[FileTree], *, where: str) -> FileTree:
    """Puts several trees into one, as if they were unpacked into the same folder.

    Raises:
        UserError: Two of them have a file of the same path.
    """
    files: dict[PurePosixPath, SourceFile] = {}
    for tree in trees:
        for path, file in tree.files.items():
            if path in files:
                raise UserError(
                    f"{files[path].label} and {file.label} would be the same file; keep one of the archives in {where}."
                )
            files[path] = file
    return FileTree(where, dict(sorted(files.items())))


def _walk(folder: Path) -> Iterator[Path]:
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place) / name for name in names)
