"""True classes of held-out street scenes, at their original size: what mIoU compares a segmenter's opinion with.

Cityscapes' 500 validation maps of 2048×1024 pixels would be 1 GB as an array but are about 15 MB as PNG files, so they
are kept as such, in one zip file whose members are named by row: `00000.png`, `00001.png`, … Each is read when asked
for.
"""

from __future__ import annotations

import functools
import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.catlib.errors import UserError

GROUND_TRUTH = "test_ground_truth.zip"

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of every member: the same maps give the same bytes."""


class GroundTruth:
    """The maps of a packed dataset; row i belongs to row i of its test images."""

    def __init__(self, path: Path) -> None:
        """Remembers the file; it is opened when the first map is asked for."""
        self._path = path

    def __len__(self) -> int:
        return len(self._archive.namelist())

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """Returns a map, uint8 [H, W]: classes 0 … 18, or 255 for pixels that are not scored.

        Raises:
            IndexError: There is no such row.
            UserError: The file is damaged.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        try:
            content = self._archive.read(_member(row))
            return np.asarray(Image.open(io.BytesIO(content)))
        except (KeyError, zipfile.BadZipFile, OSError) as error:
            raise self._damaged() from error

    @functools.cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self._path)
        except (zipfile.BadZipFile, OSError) as error:
            raise self._damaged() from error

    def _damaged(self) -> UserError:
        return UserError(f"{self._path} is damaged; run the dataset stage again.")


class GroundTruthWriter:
    """Writes maps one after the other; a context that completes the file."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self._rows = 0

    def __enter__(self) -> GroundTruthWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def append(self, png: bytes) -> None:
        """Adds the next row, a map as [encoded][] makes it."""
        self._archive.writestr(zipfile.ZipInfo(_member(self._rows), _EPOCH), png)
        self._rows += 1


def encoded(classes: Image.Image) -> bytes:
    """Returns a map of mode L as the content of a PNG file."""
    file = io.BytesIO()
    classes.save(file, "PNG")
    return file.getvalue()


def _member(row: int) -> str:
    return f"{row:05}.png"
