"""Street scenes laid out like Cityscapes, for tests."""

from pathlib import Path

import numpy as np

from components.catlib.config import DatasetConfig
from components.catlib.data.builtin import open_builtin
from tests.components.catlib.data.image_folders import write


def colours_of(labels: np.ndarray) -> np.ndarray:
    """RGBA, as the published colour maps are."""
    return np.stack([labels * 7, 255 - labels * 7, labels, np.full_like(labels, 255)], axis=-1)


def write_scene(folder: Path, split: str, stem: str, labels: np.ndarray, photo: np.ndarray) -> None:
    """Writes the four files of a scene: photo, class ids, instance ids, classes in colour.

    Args:
        folder: Gets `gtFine/` and `leftImg8bit/`.
        split: "train" or "val".
        stem: City and number, such as `city/000000`.
        labels: Class ids, uint8 [H, W].
        photo: uint8 [H, W, 3].
    """
    instances = np.where(labels < 24, labels, labels * np.uint16(1000) + 1)
    write(folder / f"leftImg8bit/{split}/{stem}_leftImg8bit.png", photo)
    write(folder / f"gtFine/{split}/{stem}_gtFine_labelIds.png", labels)
    write(folder / f"gtFine/{split}/{stem}_gtFine_instanceIds.png", instances, np.uint16)
    write(folder / f"gtFine/{split}/{stem}_gtFine_color.png", colours_of(labels))


def write_climate_scenes(folder: Path, counts: dict[str, int]) -> None:
    """Writes scenes of 128×64 pixels: tiles of the built-in climate map stand for streets, its zones for classes.

    Args:
        folder: As for `write_scene`.
        counts: Scenes by split.
    """
    name = "builtin:climate-to-satellite"
    tiles = open_builtin(DatasetConfig(source=name), name).train[0].samples
    names = [(split, f"city/{number:06}") for split, count in counts.items() for number in range(count)]
    for tile, (split, stem) in zip(tiles[::40], names, strict=False):
        images = tile.load()
        write_scene(folder, split, stem, np.asarray(images["source"])[:64], np.asarray(images["target"])[:64])
