"""Reads pictures for a generator, and writes what it makes of them as files of the same type.

Pictures of 8 bits stay with Pillow, which holds four bytes a pixel; all others are arrays [H, W, C].

Suffixes: C channels, H height, W width.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from components.catlib.data.decoding import (
    BACKGROUND,
    WIDE_GREY,
    OtherPixels,
    decoded,
    opened,
    read_labels,
)
from components.catlib.data.files import SourceFile
from components.catlib.data.rasters import TIFF_STARTS, decode_raster
from components.catlib.data.samples import DONT_CARE
from components.catlib.errors import UserError
from components.catlib.serving.model import RGB, Model, Planes, Values

COLOURS_16_BIT = Values("uint16", 3, (0.0, 65535.0))

ARRAY = "NPY"
"""The type of .npy files, beside Pillow's names of types."""

_SAVED_AS = {"MPO": "JPEG"}
"""Types of several pictures, of which one is read -> type of that one."""

_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 95},
}
"""How Pillow writes types that may lose something: at high quality."""

_PNG_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
"""Number of channels -> PNG's colour type."""

_STRIP = 256
"""Rows that are blended at once."""

ArrayLayout = Literal["HW", "HWC", "CHW"]


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright.

    Attributes:
        pixels: An image of Pillow (mode RGB, or L for labels), or numbers [H, W, C].
        alpha: Opacity: an image of mode L, or uint16 [H, W]; None if there is none.
        reads: What the pixels mean to the network.
        makes: What the numbers of the translated picture are.
        kind: Type of the file: Pillow's name of it, or `ARRAY`.
        layout: Order of the axes, of an array.
    """

    pixels: Image.Image | NDArray[Any]
    alpha: Image.Image | NDArray[np.uint16] | None
    reads: Values | Planes
    makes: Values
    kind: str
    layout: ArrayLayout = "HWC"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        if isinstance(self.pixels, Image.Image):
            return self.pixels.height, self.pixels.width
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def bytes(self) -> int:
        """Memory that its pixels take, in bytes."""
        return _bytes(self.pixels)

    def region(self, top: int, bottom: int, left: int, right: int) -> NDArray[np.float32]:
        """Returns a part of it as the network reads it, float32 [C, H, W]."""
        if isinstance(self.pixels, Image.Image):
            numbers = np.asarray(self.pixels.crop((left, top, right, bottom)))
        else:
            numbers = self.pixels[top:bottom, left:right]
        if isinstance(self.reads, Values):
            return self.reads.to_network(np.moveaxis(numbers, -1, 0))
        classes = [*range(self.reads.num_labels), *[DONT_CARE] * self.reads.dont_care_plane]
        return (numbers == np.array(classes, dtype=np.uint8)[:, None, None]).astype(np.float32)

    def canvas(self) -> Canvas:
        """Returns an empty picture of the same size for the translation."""
        height, width = self.size
        if self.makes.colours and self.kind != ARRAY:
            return Canvas(self.makes, Image.new("RGB", (width, height)))
        return Canvas(self.makes, np.empty((height, width, self.makes.channels), self.makes.type))


@dataclass(frozen=True)
class Canvas:
    """A translated picture that is being put together.

    Attributes:
        values: What its numbers are.
        pixels: An image of Pillow, mode RGB, or numbers [H, W, C].
    """

    values: Values
    pixels: Image.Image | NDArray[Any]

    @property
    def bytes(self) -> int:
        """Memory that its pixels take, in bytes."""
        return _bytes(self.pixels)

    def put(self, top: int, left: int, made_CHW: NDArray[np.float32]) -> None:
        """Fills in a part that the network has made, in [-1, 1].

        Raises:
            UserError: The network made values that are not finite.
        """
        if not np.isfinite(made_CHW).all():
            raise UserError("The model makes values that are not finite; train it again.")
        numbers = np.ascontiguousarray(np.moveaxis(self.values.from_network(made_CHW), 0, -1))
        if isinstance(self.pixels, Image.Image):
            self.pixels.paste(Image.fromarray(numbers), (left, top))
        else:
            self.pixels[top : top + numbers.shape[0], left : left + numbers.shape[1]] = numbers


def _bytes(pixels: Image.Image | NDArray[Any]) -> int:
    if isinstance(pixels, Image.Image):
        return pixels.width * pixels.height * (1 if pixels.mode == "L" else 4)
    return pixels.nbytes


# ------------------------------------------------------------------------------------------------------------- reading


def read(file: SourceFile, model: Model) -> Picture:
    """Decodes a picture, and checks that the generator can read it and that its type can hold the translation.

    Args:
        file: The picture.
        model: The generator.

    Raises:
        UnusableImageError: The file is damaged, cut short, no picture or too large, or holds other numbers than the
            generator reads.
        UserError: A file of its type cannot hold what the generator makes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such pictures are refused
        picture = _decoded(file, model)
    _check_can_hold(picture, file.label)
    return picture


def _decoded(file: SourceFile, model: Model) -> Picture:
    content = decoded(file, lambda content: content)
    held = SourceFile(file.label, file.size, lambda: content)
    if isinstance(model.reads, Planes):
        labels = read_labels(held, num_labels=model.reads.num_labels)
        return Picture(labels, None, model.reads, model.makes, decoded(held, _kind))
    if model.reads.colours:
        return decoded(held, lambda content: _colours(held, content, model.makes))
    numbers = decode_raster(held, channels=model.reads.channels).numbers
    numbers = decoded(held, lambda _: _checked(numbers, model.reads))
    kind, layout = decoded(held, lambda content: (_kind(content), _layout(content, model.reads)))
    return Picture(numbers, None, model.reads, model.makes, kind, layout)


def _kind(content: bytes) -> str:
    if content.startswith(npy.MAGIC_PREFIX):
        return ARRAY
    if content.startswith(TIFF_STARTS):  # Pillow does not know all of them
        return "TIFF"
    with Image.open(io.BytesIO(content)) as image:
        return _SAVED_AS.get(image.format or "", image.format or "")


def _layout(content: bytes, reads: Values | Planes) -> ArrayLayout:
    """Returns how an array is laid out, by the rule of `decode_raster`."""
    if not content.startswith(npy.MAGIC_PREFIX) or isinstance(reads, Planes):
        return "HWC"
    shape = np.load(io.BytesIO(content), allow_pickle=False).shape
    if len(shape) == 2:
        return "HW"
    return "CHW" if shape[2] != reads.channels and shape[0] == reads.channels else "HWC"


def _colours(file: SourceFile, content: bytes, makes: Values) -> Picture:
    """Decodes colours or grey of 8 or 16 bits, with or without alpha."""
    kind = _kind(content)
    if kind != ARRAY:
        try:
            with opened(content) as image:
                if not _is_deep(image):
                    return _colours_8_bit(image, kind, makes)
        except UnidentifiedImageError:
            if kind != "TIFF":
                raise
    numbers = decode_raster(file, channels=RGB.channels).numbers
    alpha = None
    if numbers.shape[2] in (2, 4):
        numbers, alpha = numbers[..., :-1], numbers[..., -1]
    if numbers.shape[2] not in (1, 3):
        raise OtherPixels(f"has {numbers.shape[2]} channels, but this model reads colours", "save it with 3 channels")
    if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() > 65535:
        raise OtherPixels(
            f"holds {numbers.dtype} numbers, but this model reads 8-bit colours",
            "save it with 8 or 16 bits per channel",
        )
    values = RGB if numbers.dtype == np.uint8 else COLOURS_16_BIT
    numbers = np.broadcast_to(numbers, (*numbers.shape[:2], 3)).astype(values.type, copy=False)
    if alpha is not None:
        largest = values.range[1]
        opacity = alpha[..., None] / largest
        numbers = np.rint(numbers * opacity + largest * (1 - opacity)).astype(values.type)
    made = Values(values.type, makes.channels, values.range) if makes.colours else makes
    return Picture(numbers, alpha if makes.colours else None, values, made, kind, _layout(content, RGB))


def _is_deep(image: Image.Image) -> bool:
    """Returns whether an opened image has more than 8 bits per channel, of which Pillow may read only 8."""
    assert isinstance(image, ImageFile)
    args = image.tile[0].args if image.tile else ""
    raw = str(args if isinstance(args, str) else (args or "?")[0])
    return image.mode in {*WIDE_GREY, "F"} or ";16" in raw


def _colours_8_bit(image: Image.Image, kind: str, makes: Values) -> Picture:
    """Converts an opened image as for a training: transparent pixels lie on white."""
    image = ImageOps.exif_transpose(image)  # a copy, which does not hold the content of the file
    alpha = None
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        alpha = image.getchannel("A") if makes.colours else None
        image = _on_background(image)
    return Picture(image if image.mode == "RGB" else image.convert("RGB"), alpha, RGB, makes, kind)


def _on_background(image: Image.Image) -> Image.Image:
    """Blends an RGBA image with the background, in strips, so that large ones are in memory only twice."""
    blended = Image.new("RGB", image.size)
    for top in range(0, image.height, _STRIP):
        strip = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        blended.paste(Image.alpha_composite(Image.new("RGBA", strip.size, BACKGROUND), strip).convert("RGB"), (0, top))
    return blended


def _checked(numbers: NDArray[Any], reads: Values | Planes) -> NDArray[Any]:
    """Returns numbers that a generator of science images can read; raises OtherPixels for others."""
    assert isinstance(reads, Values)
    if numbers.shape[2] != reads.channels:
        raise OtherPixels(f"has {numbers.shape[2]} channels, but this model reads {reads}", "save the others apart")
    if not np.isfinite(numbers).all():
        raise OtherPixels("holds NaN or infinity, which are no values", "replace them by values of the range")
    low, high = reads.range
    if numbers.min() < low or numbers.max() > high:
        raise OtherPixels(
            f"holds values from {numbers.min()} to {numbers.max()}, but this model reads {reads}",
            "scale or clip them into this range as for the training",
        )
    return numbers


def _check_can_hold(picture: Picture, label: str) -> None:
    makes, kind = picture.makes, picture.kind
    if makes.colours and kind != ARRAY:
        Image.init()
        fits = kind in Image.SAVE
    else:
        fits = kind in (ARRAY, "TIFF") or (kind == "PNG" and makes.type != "float32" and makes.channels in _PNG_COLOURS)
    if not fits:
        advice = "save it as TIFF, PNG or .npy" if makes.channels <= 4 else "save it as TIFF or .npy"
        if makes.colours:
            advice = "save it as PNG"
        raise UserError(f"{label}: the model makes {makes}, which cannot be written as {kind}; {advice}.")


# ------------------------------------------------------------------------------------------------------------- writing


def write(path: Path, canvas: Canvas, picture: Picture) -> None:
    """Writes a translated picture as a file of its picture's type, with its picture's alpha.

    Args:
        path: The file to make.
        canvas: The translated picture.
        picture: What it was made from.

    Raises:
        OSError: It cannot be written there, or not as this type.
    """
    pixels, alpha = canvas.pixels, picture.alpha
    if isinstance(pixels, Image.Image):
        if isinstance(alpha, Image.Image):
            pixels.putalpha(alpha)
        pixels.save(path, picture.kind, **_OPTIONS.get(picture.kind, {}))
        return
    if isinstance(alpha, np.ndarray):
        pixels = np.concatenate([pixels, alpha[..., None].astype(pixels.dtype)], axis=2)
    match picture.kind:
        case "PNG":
            _write_png(path, pixels)
        case "TIFF":
            _write_tiff(path, pixels, colours=canvas.values.channels == RGB.channels, has_alpha=alpha is not None)
        case _:
            with path.open("wb") as stream:
                np.save(stream, _laid_out(pixels, picture.layout), allow_pickle=False)


def _laid_out(numbers: NDArray[Any], layout: ArrayLayout) -> NDArray[Any]:
    if layout == "HW" and numbers.shape[2] == 1:
        return numbers[..., 0]
    return np.ascontiguousarray(np.moveaxis(numbers, 2, 0)) if layout == "CHW" else numbers


def _write_tiff(path: Path, numbers: NDArray[Any], *, colours: bool, has_alpha: bool) -> None:
    import tifffile  # takes a while, and most pictures do without

    tifffile.imwrite(
        path,
        numbers[..., 0] if numbers.shape[2] == 1 else numbers,
        photometric="rgb" if colours else "minisblack",
        planarconfig=None if numbers.shape[2] == 1 else "contig",
        extrasamples=["unassalpha"] if has_alpha else None,
        metadata=None,
    )


def _write_png(path: Path, numbers: NDArray[Any]) -> None:
    """Writes 8 or 16 bits per channel, 1 to 4 channels; Pillow writes no colours of 16 bits."""
    height, width, channels = numbers.shape
    header = struct.pack(">IIBBBBB", width, height, 8 * numbers.dtype.itemsize, _PNG_COLOURS[channels], 0, 0, 0)
    packing = zlib.compressobj()
    with path.open("wb") as stream:
        stream.write(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header))
        above = np.zeros(width * channels * numbers.dtype.itemsize, np.uint8)
        for row in numbers.astype(numbers.dtype.newbyteorder(">"), copy=False):
            row_bytes = np.frombuffer(row.tobytes(), np.uint8)
            packed = packing.compress(b"\x02" + (row_bytes - above).tobytes())  # filter "up": what changes from above
            above = row_bytes
            if packed:
                stream.write(_chunk(b"IDAT", packed))
        stream.write(_chunk(b"IDAT", packing.flush()) + _chunk(b"IEND", b""))


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
