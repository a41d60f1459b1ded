"""True classes of held-out street scenes at original size; mIoU compares a segmenter's classes with them.

Cityscapes has 500 validation maps of 2048×1024 pixels: 1 GB as an array, but about 15 MB as PNG files. The PNG files
are therefore kept in one zip file, with members named by row: `00000.png`, `00001.png`, … A map is read on access.
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
"""Date of every member, fixed so that the same maps give the same bytes."""


class GroundTruth:
    """The maps of a packed dataset; map i belongs to test image i."""

    def __init__(self, path: Path) -> None:
        """Stores the path; the file is opened when the first map is read."""
        self._path = path

    def __len__(self) -> int:
        return len(self._archive.namelist())

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        """Reads a map, uint8 [H, W]: classes 0 … 18, or 255 for pixels that are not scored.

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
    """Writes maps one after another. It is a context manager; leaving it completes the file."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self._rows = 0

    def __enter__(self) -> GroundTruthWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def append(self, png: bytes) -> None:
        """Adds the next map, the content of a PNG file as `encoded` returns it."""
        self._archive.writestr(zipfile.ZipInfo(_member(self._rows), _EPOCH), png)
        self._rows += 1


def encoded(classes: Image.Image) -> bytes:
    """Encodes a map of mode L as the content of a PNG file."""
    file = io.BytesIO()
    classes.save(file, "PNG")
    return file.getvalue()


def _member(row: int) -> str:
    return f"{row:05}.png"
