"""Decoding of image files: pictures to 8-bit RGB, label maps and instance maps to numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from components.catlib.data.packed import DONT_CARE
from components.catlib.data.samples import UnreadableImageError
from components.catlib.errors import UserError

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""File names that are taken for images, in lower case."""

_WIDE_GREY = {"I", "I;16", "I;16B", "I;16L", "I;16N"}
"""Pillow's modes of one channel with more than 8 bits."""


def read_picture(path: Path) -> Image.Image:
    """Decodes a picture of any colour type to mode RGB, turned upright as its EXIF orientation says.

    Transparency is ignored: the stored colours count. 16-bit grey is scaled to 8 bits (65535 becomes 255).

    Raises:
        UnreadableImageError: Damaged, not an image, larger than Pillow's limit, or neither 8 nor 16 bits per channel.
    """
    return _decode(path, _as_rgb)


def read_labels(path: Path, *, num_labels: int) -> Image.Image:
    """Decodes a label map to mode L; of a palette image the indices are the labels.

    Differs: the published implementation crashes in the middle of training when it meets a label that is no class.

    Raises:
        UnreadableImageError: Damaged, not an image or larger than Pillow's limit.
        UserError: It has several channels, or holds labels that are neither 0 … num_labels - 1 nor 255 (no class).
    """
    labels = np.asarray(_read_numbers(path, "label map"))
    wrong = labels[((labels < 0) | (labels >= num_labels)) & (labels != DONT_CARE)]
    if wrong.size:
        raise UserError(
            f"Label map {path} holds the label {wrong[0]}, but with num_labels {num_labels} labels are "
            f"0 … {num_labels - 1}, or {DONT_CARE} for pixels of no class; correct the map or dataset.num_labels."
        )
    return Image.fromarray(labels.astype(np.uint8))


def read_instances(path: Path) -> Image.Image:
    """Decodes an instance map of up to 32 bits to mode I, so that ids above 32767 keep their value.

    Raises:
        UnreadableImageError: Damaged, not an image or larger than Pillow's limit.
        UserError: It has several channels.
    """
    return _read_numbers(path, "instance map")


def split_halves(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Cuts an A|B image in two; of an odd width B gets the middle column."""
    middle = image.width // 2
    return image.crop((0, 0, middle, image.height)), image.crop((middle, 0, image.width, image.height))


def _decode(path: Path, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        with Image.open(path) as image:
            pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
            if limit is not None and pixels > limit:  # Pillow only warns, up to twice its limit
                raise UnreadableImageError(str(path), f"{pixels} pixels, more than the limit of {limit}")
            return convert(ImageOps.exif_transpose(image))
    except (UnreadableImageError, UserError):
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        reason = " ".join(str(error).replace(repr(str(path)), "").split()) or type(error).__name__
        raise UnreadableImageError(str(path), reason) from error


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _WIDE_GREY:
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("grey values need more than 16 bits")
        return Image.fromarray(_to_8_bits(grey)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels are not supported")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _to_8_bits(grey: NDArray[np.int64]) -> NDArray[np.uint8]:
    return ((grey * 255 + 32767) // 65535).astype(np.uint8)


def _read_numbers(path: Path, what: str) -> Image.Image:
    def as_numbers(image: Image.Image) -> Image.Image:
        if image.mode not in {"1", "L", "P", *_WIDE_GREY}:
            raise UserError(
                f"{what.capitalize()} {path} has the mode {image.mode}; expected an image of one channel, numbers."
            )
        return Image.fromarray(np.asarray(image).astype(np.int32))

    return _decode(path, as_numbers)
