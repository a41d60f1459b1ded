"""Cityscapes as distributed: where its files lie, and which classes are scored.

    leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png        photo, 2048×1024
    gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png         class per pixel, 0 … 33
    gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png      instance per pixel, 16 bits
    gtFine/train/aachen/aachen_000000_000019_gtFine_color.png            the classes as colours

The folders come as `gtFine_trainvaltest.zip` and `leftImg8bit_trainvaltest.zip`. Training images are in `train`,
held-out ones in `val`; the annotations of `test` are not published.

Differs: for pix2pix, the published implementation has a script that resizes photo and colour map to 256×256 and saves
both side by side in one JPEG file before training. `dataset.prepared_size: 256` resizes in the same way, without the
loss of JPEG.
"""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from components.catlib.data.decoding import read_labels
from components.catlib.data.files import FileTree, SourceFile
from components.catlib.data.packed import ImageRole
from components.catlib.data.samples import DONT_CARE
from components.catlib.errors import UserError

PHOTOS, ANNOTATIONS = "leftImg8bit", "gtFine"
FOLDERS = (PHOTOS, ANNOTATIONS)

NUM_LABELS = 35
"""Class ids 0 … 33, plus one that the published recipe counts in addition."""

TRAIN_IDS = {
    7: 0,  # road
    8: 1,  # sidewalk
    11: 2,  # building
    12: 3,  # wall
    13: 4,  # fence
    17: 5,  # pole
    19: 6,  # traffic light
    20: 7,  # traffic sign
    21: 8,  # vegetation
    22: 9,  # terrain
    23: 10,  # sky
    24: 11,  # person
    25: 12,  # rider
    26: 13,  # car
    27: 14,  # truck
    28: 15,  # bus
    31: 16,  # train
    32: 17,  # motorcycle
    33: 18,  # bicycle
}
"""Class id -> number of the scored class, 0 … 18. All other ids are ignored."""

_ENDINGS: dict[str, tuple[str, str]] = {
    "photo": (PHOTOS, "_leftImg8bit"),
    "colours": (ANNOTATIONS, "_gtFine_color"),
    "labels": (ANNOTATIONS, "_gtFine_labelIds"),
    "instances": (ANNOTATIONS, "_gtFine_instanceIds"),
}


def is_cityscapes(tree: FileTree) -> bool:
    """Returns whether a source has the folders of Cityscapes."""
    return set(FOLDERS) <= set(tree.folders)


def put_together(tree: FileTree) -> FileTree:
    """Removes the extra folder level of a source whose two archives were each unpacked into a folder.

    `gtFine_trainvaltest/gtFine/…` beside `leftImg8bit_trainvaltest/leftImg8bit/…` becomes `gtFine/…` and
    `leftImg8bit/…`. Any other source is returned unchanged.
    """
    inner = [(path, file) for path, file in tree.files.items() if len(path.parts) > 2 and path.parts[1] in FOLDERS]
    moved = {PurePosixPath(*path.parts[1:]): file for path, file in inner}
    if is_cityscapes(tree) or len(moved) < len(inner) or {path.parts[0] for path in moved} != set(FOLDERS):
        return tree
    return FileTree(tree.where, dict(sorted(moved.items())))


def find_files(
    tree: FileTree, *, labelled: bool, photo: ImageRole
) -> dict[ImageRole, dict[str, dict[str, SourceFile]]]:
    """Finds the files of a Cityscapes source by role, split and name.

    Args:
        tree: A source with the folders `FOLDERS`.
        labelled: Whether photos are paired with label and instance maps; otherwise they are paired with colour maps.
        photo: The photo's role, "source" or "target". Ignored when `labelled`: the photo is then the target.

    Returns:
        Role -> split ("train", "val") -> name such as `bonn/bonn_000000_000019` -> file. The role `ground_truth` is
        included if the source has label maps.

    Raises:
        UserError: The folder of photos or of annotations is missing or holds no images.
    """
    for folder in FOLDERS:
        if folder not in tree.folders:
            raise UserError(
                f"{tree.where} has no images in {folder}/; Cityscapes needs both {' and '.join(FOLDERS)}, "
                "as folders or archives."
            )
    kinds: dict[ImageRole, str] = (
        {"source": "labels", "target": "photo", "instances": "instances"}
        if labelled
        else {photo: "photo", "target" if photo == "source" else "source": "colours"}
    )
    files: dict[ImageRole, dict[str, dict[str, SourceFile]]] = {
        role: _files(tree, kind) for role, kind in kinds.items()
    }
    if labelled and not files["source"]:
        colours = " or remove dataset.num_labels to use the colours" if _files(tree, "colours") else ""
        raise UserError(
            f"{tree.where}/{ANNOTATIONS} has no maps that end in {_ENDINGS['labels'][1]}.png, which hold the classes; "
            f"unpack gtFine_trainvaltest.zip anew{',' if colours else ''}{colours}."
        )
    if scored := _files(tree, "labels"):
        files["ground_truth"] = scored
    return files


def _files(tree: FileTree, kind: str) -> dict[str, dict[str, SourceFile]]:
    folder, ending = _ENDINGS[kind]
    splits = {}
    for split in ("train", "val"):
        found = tree.below(f"{folder}/{split}").files
        if files := {_name(path, ending): file for path, file in found.items() if path.stem.endswith(ending)}:
            splits[split] = files
    return splits


def _name(path: PurePosixPath, ending: str) -> str:
    return path.with_name(path.stem.removesuffix(ending)).as_posix()


def read_scored_classes(file: SourceFile) -> Image.Image:
    """Decodes a map of class ids and translates it into scored classes.

    Returns:
        Mode L, at original size: 0 … 18, or 255 for pixels that are not scored.

    Raises:
        UnusableImageError: As in `read_labels`.
    """
    ids = read_labels(file, num_labels=NUM_LABELS)
    return Image.fromarray(cityscapes_train_ids(np.asarray(ids)))


def cityscapes_train_ids(label_ids: ArrayLike) -> NDArray[np.uint8]:
    """Translates Cityscapes label ids into the 19 scored classes.

    Differs: the published implementation maps the licence plate (id −1) to −1, which overflows in 8 bits. Here it
    becomes 255, like every other id that is not scored.

    Args:
        label_ids: Integers of any type and shape.

    Returns:
        uint8 of the same shape: 0 … 18, or 255 for ids that are not scored.
    """
    ids = np.asarray(label_ids)
    train_ids = np.full(ids.shape, DONT_CARE, dtype=np.uint8)
    for label_id, train_id in TRAIN_IDS.items():
        train_ids[ids == label_id] = train_id
    return train_ids
