"""Decodes image files: pictures to 8-bit RGB, label maps and instance maps to numbers."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from components.catlib.data.files import SourceFile
from components.catlib.data.packed import DONT_CARE
from components.catlib.data.samples import UnusableImageError
from components.catlib.data.suspicions import ALPHA, SCALED

LARGEST_FILE = 2**28
"""Size of the largest image file that is read, in bytes: 256 MiB."""

BACKGROUND = (255, 255, 255, 255)
"""Colour behind transparent pixels, RGBA: opaque white."""

_WIDE_GREY = {"I", "I;16", "I;16B", "I;16L", "I;16N"}
"""Pillow's modes with one channel of more than 8 bits."""

_WITH_COPIES = {"MPO"}
"""Formats of cameras whose further pictures are previews or depths of the first."""

_TIFF_SUBFILE = 254
"""The tag whose lowest bit says that a page is a smaller copy of another."""

_PNG_END = b"IEND\xae\x42\x60\x82"


def read_picture(file: SourceFile, *, white_point: int = 65535) -> Image.Image:
    """Decodes a picture of any colour type to mode RGB and turns it upright by its EXIF orientation.

    Transparent pixels are blended with white. 16-bit grey is scaled to 8 bits (`white_point` and brighter become 255).
    16-bit colour keeps its upper 8 bits. CMYK is converted without a colour profile.

    Differs: the published implementation ignores transparency, so hidden colours of transparent pixels show, and it
    clips 16-bit grey.

    Args:
        file: The picture.
        white_point: The value of 16-bit grey that becomes white, 1 to 65535.

    Raises:
        UnusableImageError: The file is damaged, cut short, not an image or too large, or has pixels of neither 8 nor
            16 bits per channel.
    """
    return _decode(file, partial(_as_rgb, white_point=white_point))


def read_labels(file: SourceFile, *, num_labels: int) -> Image.Image:
    """Decodes a label map to mode L. In a palette image the labels are the palette indices.

    Differs: the published implementation crashes in the middle of training at a label that is not a class.

    Args:
        file: The label map.
        num_labels: Number of classes. Labels must be 0 … num_labels - 1, or 255 for pixels of no class.

    Raises:
        UnusableImageError: The file is damaged, cut short, not an image or too large, has several channels, or holds
            other labels.
    """
    labels = np.asarray(_decode(file, _as_numbers))
    wrong = labels[((labels < 0) | (labels >= num_labels)) & (labels != DONT_CARE)]
    if wrong.size:
        raise UnusableImageError(
            file.label,
            f"holds the label {wrong[0]}, but num_labels {num_labels} allows 0 … {num_labels - 1}, "
            f"and {DONT_CARE} for pixels of no class",
            f"set dataset.num_labels to the number of classes ({labels.max() + 1} or more)"
            if labels.min() >= 0 and labels.max() < DONT_CARE
            else f"number the classes from 0, and at most to {DONT_CARE - 1}",
        )
    return Image.fromarray(labels.astype(np.uint8))


def read_instances(file: SourceFile) -> Image.Image:
    """Decodes an instance map of up to 32 bits to mode I, which keeps ids above 32767.

    Raises:
        UnusableImageError: The file is damaged, cut short, not an image or too large, or has several channels.
    """
    return _decode(file, _as_numbers)


def split_halves(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Cuts an A|B image into its left and right half; if the width is odd, B gets the middle column."""
    middle = image.width // 2
    return image.crop((0, 0, middle, image.height)), image.crop((middle, 0, image.width, image.height))


def _decode(file: SourceFile, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    if file.size > LARGEST_FILE:
        raise UnusableImageError(file.label, f"has {file.size} bytes, more than the limit of {LARGEST_FILE}")
    try:
        content = file.read()
        with Image.open(io.BytesIO(content)) as image:
            pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
            if limit is not None and pixels > limit:  # Pillow only warns, up to twice its limit
                raise UnusableImageError(file.label, f"has {pixels} pixels, more than the limit of {limit}")
            if image.format == "PNG" and _PNG_END not in content:  # Pillow checks the end of other formats, not of PNG
                raise UnusableImageError(file.label, "image file is truncated (its end is missing)")
            pages = _pages(image)
            if pages > 1:
                raise UnusableImageError(
                    file.label,
                    f"has {pages} pages or frames, of which one alone could be used",
                    "save each as a file of its own, or the wanted one alone",
                )
            return convert(ImageOps.exif_transpose(image))
    except UnusableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnusableImageError(file.label, "not an image of a known kind, or its beginning is damaged") from error
    except OSError as error:
        raise UnusableImageError(file.label, error.strerror or _in_one_line(error)) from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise UnusableImageError(file.label, _in_one_line(error), getattr(error, "advice", "")) from error


class _OtherPixels(ValueError):
    """An image is whole, but its pixels are of another kind."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.advice = advice


def _pages(image: Image.Image) -> int:
    """Returns the number of pictures in a file, without the smaller copies of a picture that some hold beside it."""
    count = getattr(image, "n_frames", 1)
    if count == 1 or image.format in _WITH_COPIES:
        return 1
    if image.format != "TIFF":
        return count
    whole = 0
    for page in range(count):
        image.seek(page)
        whole += not image.tag_v2.get(_TIFF_SUBFILE, 0) & 1  # type: ignore[attr-defined]
    image.seek(0)
    return whole


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _as_rgb(image: Image.Image, *, white_point: int) -> Image.Image:
    if image.mode in _WIDE_GREY:
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("holds grey values of more than 16 bits")
        scaled = Image.fromarray(_to_8_bits(grey, white_point)).convert("RGB")
        scaled.info[SCALED] = True
        return scaled
    if image.mode == "F":
        raise ValueError("has floating-point pixels, which are not supported")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        blended = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image).convert("RGB")
        blended.info[ALPHA] = image.getchannel("A").histogram()
        return blended
    return image.convert("RGB")


def _to_8_bits(grey: NDArray[np.int64], white_point: int) -> NDArray[np.uint8]:
    return ((grey.clip(max=white_point) * 255 + white_point // 2) // white_point).astype(np.uint8)


def _as_numbers(image: Image.Image) -> Image.Image:
    if image.mode not in {"1", "L", "P", *_WIDE_GREY}:
        raise _OtherPixels(
            f"a map of numbers must have one channel, but this image has the mode {image.mode}",
            "replace the colours by numbers, one per class or instance, in grey or palette images",
        )
    return Image.fromarray(np.asarray(image).astype(np.int32))
