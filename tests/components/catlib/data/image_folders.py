"""Writes small folders of images and packs them, for tests of everything that reads data."""

import itertools
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.catlib.config import DatasetConfig
from components.catlib.data.files import SourceFile
from components.catlib.data.packed import PackedDataset
from components.dataset import stage


def write(path: Path, pixels: Any, dtype: type = np.uint8) -> Path:
    """Writes pixels as an image file and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=dtype)).save(path)
    return path


def file_at(path: Path) -> SourceFile:
    """Returns a file as sources hand it to decoding."""
    return SourceFile(str(path), path.stat().st_size if path.exists() else 0, path.read_bytes)


def noise(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    """Returns random colours: uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def coordinates(index: int, height: int = 8, width: int = 8) -> np.ndarray:
    """Returns an image whose red, green and blue are its index, the row and the column: uint8 [height, width, 3]."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([np.full_like(rows, index), rows, columns], axis=-1).astype(np.uint8)


def pack_folder(folder: Path, output: Path, **settings: Any) -> PackedDataset:
    """Runs the dataset stage on a folder (sizes 8 unless given) and opens the result."""
    settings = {"load_size": 8, "crop_size": 8, **settings}
    stage.run(DatasetConfig(source=str(folder), **settings), output=output)
    return PackedDataset.open(output)


def cityscapes(folder: Path, *, size: tuple[int, int] = (4, 8), names: Sequence[str] = ("bonn/bonn_1",)) -> Path:
    """Writes a folder laid out like Cityscapes as it is distributed, with the same names in train and val.

    Args:
        folder: Where `leftImg8bit` and `gtFine` go.
        size: Height and width.
        names: City and frame.
    """
    for seed, (split, name) in enumerate(itertools.product(("train", "val"), names)):
        labels = np.random.default_rng(seed).integers(0, 34, size)
        write(folder / f"leftImg8bit/{split}/{name}_leftImg8bit.png", noise(seed, *size))
        write(folder / f"gtFine/{split}/{name}_gtFine_labelIds.png", labels)
        write(folder / f"gtFine/{split}/{name}_gtFine_instanceIds.png", labels * 1000, np.uint16)
        opaque = np.full((*size, 1), 255, dtype=np.uint8)
        write(folder / f"gtFine/{split}/{name}_gtFine_color.png", np.dstack([noise(100 + seed, *size), opaque]))
        (folder / f"gtFine/{split}/{name}_gtFine_polygons.json").write_text("{}")
    return folder


def zipped(folder: Path, archive: Path) -> Path:
    """Packs everything below a folder into a zip file, which may lie in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with zipfile.ZipFile(archive, "w") as writer:
        for path in files:
            writer.write(path, path.relative_to(folder))
    return archive
