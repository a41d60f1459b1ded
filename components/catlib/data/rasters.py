"""Reads the numbers of science images as they are: TIFF, PNG and .npy files with 1 to 16 channels.

A recipe states what the numbers mean (`dataset.source_values`, `dataset.target_values`). No number changes: files that
hold anything else are refused.
"""

from __future__ import annotations

import contextlib
import io
import math
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from components.catlib.data.decoding import WIDE_GREY, OtherPixels, check_pages, check_pixels, decoded, opened
from components.catlib.data.files import SourceFile
from components.catlib.data.samples import Raster, UnusableImageError

if TYPE_CHECKING:
    from components.catlib.config.dataset import ValuesConfig

_PNG_START = b"\x89PNG\r\n\x1a\n"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_PLAIN = {"1", "L", "LA", "RGB", "RGBA", "F", *WIDE_GREY}
"""Pillow's modes whose pixels are the numbers of the file."""

_LOW_BYTES = {
    f"{mode};16{order}": f"{mode};16{other}" for mode in ("RGB", "RGBA") for order, other in ("BL", "LB", "NB")
}
"""How Pillow reads 16-bit colours, their upper bytes alone -> how it reads the lower bytes: as the upper ones of
numbers in the other byte order. N is this machine's order, which is little-endian wherever PyTorch runs."""

_TIFF_ORIENTATION = 274
_TIFF_PALETTE = 3
_TIFF_IN_ONE_PLANE = 1


def read_raster(file: SourceFile, *, values: ValuesConfig, setting: str) -> Raster:
    """Reads an image as the type that a recipe states.

    Args:
        file: A TIFF, PNG or .npy file.
        values: What its numbers mean.
        setting: Where the recipe states that, for messages: "dataset.source_values".

    Returns:
        Numbers of the type `values.type`.

    Raises:
        UnusableImageError: The file is damaged, cut short, too large or of another kind, has another number of
            channels, or holds numbers that are not finite, not in the range, or would change in this type.
    """
    return checked(decode_raster(file, channels=values.channels), file, values=values, setting=setting)


def decode_raster(file: SourceFile, *, channels: int) -> Raster:
    """Reads an image as the file's own type.

    Args:
        file: A TIFF, PNG or .npy file.
        channels: Number of channels: a .npy file may hold them first or last.

    Raises:
        UnusableImageError: The file is damaged, cut short, too large or of another kind.
    """

    def decode(content: bytes) -> NDArray[Any]:
        numbers = by_kind(content)
        if numbers.dtype.kind not in "biuf":
            raise OtherPixels(f"holds {numbers.dtype} instead of numbers", "save it with a type of real numbers")
        numbers = numbers.astype(np.uint8) if numbers.dtype.kind == "b" else numbers
        return numbers[..., None] if numbers.ndim == 2 else numbers

    def by_kind(content: bytes) -> NDArray[Any]:
        if content.startswith(npy.MAGIC_PREFIX):
            return _from_npy(content, channels)
        if content.startswith(TIFF_STARTS):
            return _from_tiff(content, channels)
        if content.startswith(_PNG_START):
            return _with_pillow(content)
        raise OtherPixels(
            "is neither TIFF nor PNG nor .npy, or its beginning is damaged",
            "save it as one of these, which keep every number",
        )

    return Raster(decoded(file, decode))


def checked(raster: Raster, file: SourceFile, *, values: ValuesConfig, setting: str) -> Raster:
    """Returns numbers as the type that a recipe states; arguments and errors as for `read_raster`."""

    def unusable(reason: str, advice: str) -> UnusableImageError:
        return UnusableImageError(file.label, reason, advice)

    numbers = raster.numbers
    found = numbers.shape[2]
    if found != values.channels:
        raise unusable(
            f"has {found} channels, but {setting}.channels is {values.channels}",
            f"set {setting}.channels to {found} if all files have that many",
        )
    if not np.isfinite(numbers).all():
        what = "NaN" if np.isnan(numbers).any() else "infinity"
        raise unusable(
            f"holds {what}, which is no value", "replace NaN and infinity in the files by values of the range"
        )
    low, high = values.range
    least, largest = numbers.min(), numbers.max()
    if least < low or largest > high:
        raise unusable(
            f"holds values from {least} to {largest}, outside of {setting}.range [{low:.9g}, {high:.9g}]",
            f"set {setting}.range to the lowest and highest value of all files",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        converted = numbers.astype(values.type)
    if not np.array_equal(converted, numbers):
        raise unusable(
            f"holds {numbers.dtype} numbers that {setting}.type {values.type} would change",
            f"set {setting}.type to another type, or save the files as {values.type}",
        )
    return Raster(converted)


# ---------------------------------------------------------------------------------------------------------- .npy files


def _from_npy(content: bytes, channels: int) -> NDArray[Any]:
    """Reads an array; nothing in the file is ever unpickled."""
    file = io.BytesIO(content)
    version = npy.read_magic(file)
    shape, fortran_order, dtype = (
        npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)
    )
    if dtype.hasobject:
        raise OtherPixels("holds Python objects, which are never unpickled", "save it with a type of numbers")
    if len(shape) not in (2, 3) or not all(shape):
        raise OtherPixels(
            f"is an array of the shape {list(shape)}", "save each image as an array [height, width, channels]"
        )
    data = memoryview(content)[file.tell() :]
    expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if len(data) != expected:
        raise ValueError(f"has {len(data)} bytes of numbers instead of {expected}")
    numbers = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran_order else "C")
    if numbers.ndim == 3 and shape[2] != channels and shape[0] == channels:
        numbers = np.moveaxis(numbers, 0, 2)
    check_pixels(numbers.shape[0] * numbers.shape[1])
    return numbers.astype(dtype.newbyteorder("="))


# ----------------------------------------------------------------------------------------------------------- TIFF files


def _from_tiff(content: bytes, channels: int) -> NDArray[Any]:
    """Reads a page, or pages that are channels: the file says so, or there are as many as the recipe states."""
    import tifffile  # takes half a second, and most data does without

    with tifffile.TiffFile(io.BytesIO(content)) as file:
        series = [each for each in file.series if not each.keyframe.is_reduced]
        check_pages(len(series))
        (image,) = series
        page = image.keyframe
        _check_tiff_page(page)
        axes = image.axes
        others = {axis: size for axis, size in zip(axes, image.shape, strict=True) if axis not in "YX" and size > 1}
        if others not in ({"Q": channels}, {"I": channels}) and (len(others) > 1 or not others.keys() <= {"S", "C"}):
            check_pages(math.prod(size for axis, size in others.items() if axis != "S"))
        check_pixels(math.prod(image.shape) // channels)
        _check_tiff_data(image, len(content))
        try:
            numbers = image.asarray()
        except ValueError as error:
            if "requires the 'imagecodecs' package" not in str(error):
                raise
            return _compressed_tiff(content, page)
    numbers = np.moveaxis(numbers, [axes.index("Y"), axes.index("X")], [0, 1])
    return numbers.reshape(*numbers.shape[:2], -1)


def _compressed_tiff(content: bytes, page: Any) -> NDArray[Any]:
    """Reads compressed numbers that Pillow can read, but not tifffile."""
    if page.samplesperpixel == 1 or page.planarconfig == _TIFF_IN_ONE_PLANE:
        with contextlib.suppress(UnidentifiedImageError):
            return _with_pillow(content)
    raise OtherPixels(
        f"is compressed in a way that is not read here ({page.compression.name}, {page.samplesperpixel} channels)",
        "save it without compression or with deflate",
    )


def _check_tiff_page(page: Any) -> None:
    if page.photometric == _TIFF_PALETTE:
        raise OtherPixels("holds numbers of a palette", "save the values themselves")
    orientation = page.tags.valueof(_TIFF_ORIENTATION, default=1)
    if orientation != 1:
        raise OtherPixels(f"is stored turned or mirrored (orientation {orientation})", "save it upright")


def _check_tiff_data(image: Any, size: int) -> None:
    """Refuses images that lack a part of their data, for which tifffile would put zeros."""
    parts = [part for page in image.pages if page for part in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if image.dataoffset is not None:  # all pages in one piece
        parts.append((image.dataoffset, image.nbytes))
    if not parts or any(count == 0 or offset + count > size for offset, count in parts):
        raise ValueError("image file is truncated (a part of its numbers is missing)")


# ------------------------------------------------------------------------------------------------------------ PNG files


def _with_pillow(content: bytes) -> NDArray[Any]:
    """Reads what Pillow can read without loss; of 16-bit colours it reads the upper and the lower bytes in turn."""
    with opened(content) as image:
        assert isinstance(image, ImageFile)
        raw = str(image.tile[0].args if isinstance(image.tile[0].args, str) else (image.tile[0].args or "?")[0])
        if raw == "LA;16B":
            pairs = _pixels(_as_8_bit_png(content)).astype(np.uint16)
            return pairs[..., 0::2] << 8 | pairs[..., 1::2]
        if image.mode not in _PLAIN or (";16" in raw and image.mode not in WIDE_GREY and raw not in _LOW_BYTES):
            raise OtherPixels(
                f"has pixels of Pillow's mode {image.mode} ({raw}), which are not the numbers of the file",
                "save it without compression or with deflate, in grey, colours or .npy",
            )
    if raw not in _LOW_BYTES:
        return _pixels(content)
    upper, lower = _pixels(content), _pixels(content, raw=_LOW_BYTES[raw])
    return upper.astype(np.uint16) << 8 | lower


def _pixels(content: bytes, raw: str | None = None) -> NDArray[Any]:
    with Image.open(io.BytesIO(content)) as image:
        assert isinstance(image, ImageFile)
        if raw is not None:
            known = image.tile[0].args
            args = (raw, *known[1:]) if isinstance(known, tuple) else raw
            image.tile = [each._replace(args=args) for each in image.tile]
        numbers = np.asarray(ImageOps.exif_transpose(image))
    return numbers.astype(np.uint8) if numbers.dtype == np.bool_ else numbers


def _as_8_bit_png(content: bytes) -> bytes:
    """Returns a PNG file of 16-bit grey and alpha as one of 8-bit RGBA, whose pixels have the same four bytes."""
    header = b"IHDR" + content[16:24] + b"\x08\x06" + content[26:29]
    return content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]
