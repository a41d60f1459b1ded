"""Writes small folders of images and packs them, for tests of everything that reads data."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.catlib.config import DatasetConfig
from components.catlib.data.packed import PackedDataset
from components.dataset import stage


def write(path: Path, pixels: Any, dtype: type = np.uint8) -> Path:
    """Writes pixels as an image file and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=dtype)).save(path)
    return path


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
