"""Decodes image files: pictures to 8-bit RGB, label maps and instance maps to numbers."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from components.catlib.data.files import SourceFile
from components.catlib.data.samples import DONT_CARE, DecodedImage, UnusableImageError

LARGEST_FILE = 2**28
"""Size of the largest image file that is read, in bytes: 256 MiB."""

ALPHA = "alpha histogram"
"""Where decoding leaves the histogram of a picture's fourth channel (`Image.info`)."""

SCALED = "scaled to 8 bits"
"""Where decoding notes that a picture had more than 8 bits: then few grey values mean a dark picture."""

BACKGROUND = (255, 255, 255, 255)
"""Colour behind transparent pixels, RGBA: opaque white."""

WIDE_GREY = {"I", "I;16", "I;16B", "I;16L", "I;16N"}
"""Pillow's modes with one channel of more than 8 bits."""

_WITH_COPIES = {"MPO"}
"""Formats of cameras whose further pictures are previews or depths of the first."""

_TIFF_SUBFILE = 254
"""The tag whose lowest bit says that a page is a smaller copy of another."""

_TIFF_CHANNELS = 277
"""The tag that counts the channels of a page."""

STATE_VALUES = (
    "state type, channels and range of the images in dataset.source_values or dataset.target_values, or save them with "
    "8 bits"
)
"""What to do about numbers that are no 8-bit colours."""

_PNG_END = b"IEND\xae\x42\x60\x82"

Decoded = TypeVar("Decoded")


class OtherPixels(ValueError):
    """A file is whole, but its pixels are of another kind than expected."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.advice = advice


def read_picture(file: SourceFile) -> Image.Image:
    """Decodes a picture of any colour type to mode RGB and turns it upright by its EXIF orientation.

    Transparent pixels are blended with white. 16-bit grey is scaled to 8 bits. 16-bit colour keeps its upper 8 bits.
    CMYK is converted without a colour profile. `rasters.py` reads numbers as they are.

    Differs: the published implementation ignores transparency, so hidden colours of transparent pixels show, and it
    clips 16-bit grey.

    Args:
        file: The picture.

    Raises:
        UnusableImageError: The file is damaged, cut short, not an image or too large, or has pixels of neither 8 nor
            16 bits per channel.
    """
    return decoded(file, lambda content: with_pillow(content, _as_rgb))


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
    labels = np.asarray(decoded(file, lambda content: with_pillow(content, _as_numbers)))
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
    return decoded(file, lambda content: with_pillow(content, _as_numbers))


def split_halves(image: DecodedImage) -> tuple[DecodedImage, DecodedImage]:
    """Cuts an A|B image into its left and right half; if the width is odd, B gets the middle column."""
    middle = image.width // 2
    return image.crop((0, 0, middle, image.height)), image.crop((middle, 0, image.width, image.height))


def decoded(file: SourceFile, decode: Callable[[bytes], Decoded]) -> Decoded:
    """Reads and decodes a file.

    Args:
        file: The file.
        decode: From the content of the file; it may raise any exception.

    Raises:
        UnusableImageError: The file cannot be read, is too large, or `decode` failed.
    """
    if file.size > LARGEST_FILE:
        raise UnusableImageError(file.label, f"has {file.size} bytes, more than the limit of {LARGEST_FILE}")
    try:
        return decode(file.read())
    except UnusableImageError:  # of a `decode` that itself uses this function
        raise
    except UnidentifiedImageError as error:
        advice = STATE_VALUES if file.label.lower().endswith((".npy", ".tif", ".tiff")) else ""
        reason = "not an image of a known kind, or its beginning is damaged"
        raise UnusableImageError(file.label, reason, advice) from error
    except OSError as error:
        raise UnusableImageError(file.label, error.strerror or _in_one_line(error)) from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise UnusableImageError(file.label, _in_one_line(error), getattr(error, "advice", "")) from error


def with_pillow(content: bytes, convert: Callable[[Image.Image], Decoded]) -> Decoded:
    """Opens the content of an image file, turns the image upright, and converts it; raises what `opened` raises."""
    with opened(content) as image:
        return convert(ImageOps.exif_transpose(image))


@contextlib.contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """Opens the content of an image file; its pixels are not decoded yet.

    Raises:
        ValueError: The image is cut short, too large, one of several, or has channels that Pillow would leave out.
            Pillow may raise other exceptions.
    """
    with Image.open(io.BytesIO(content)) as image:
        check_pixels(image.width * image.height)
        if image.format == "PNG" and _PNG_END not in content:  # Pillow checks the end of other formats, not of PNG
            raise ValueError("image file is truncated (its end is missing)")
        check_pages(_pages(image))
        channels = getattr(image, "tag_v2", {}).get(_TIFF_CHANNELS, 1)
        if channels > 1 and len(image.getbands()) == 1:
            raise OtherPixels(f"has {channels} channels, which are no colours", STATE_VALUES)
        yield image


def check_pixels(pixels: int) -> None:
    """Refuses images of more pixels than Pillow's limit, up to twice of which Pillow only warns."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:
        raise ValueError(f"has {pixels} pixels, more than the limit of {limit}")


def check_pages(pages: int) -> None:
    """Refuses files of several pictures."""
    if pages > 1:
        raise OtherPixels(
            f"has {pages} pages or frames, of which one alone could be used",
            "save each as a file of its own, or the wanted one alone",
        )


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


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in WIDE_GREY:
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise OtherPixels("holds grey values of more than 16 bits", STATE_VALUES)
        scaled = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
        scaled.info[SCALED] = True
        return scaled
    if image.mode == "F":
        raise OtherPixels("has floating-point pixels, which are no colours", STATE_VALUES)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        blended = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), image).convert("RGB")
        blended.info[ALPHA] = image.getchannel("A").histogram()
        return blended
    return image.convert("RGB")


def _as_numbers(image: Image.Image) -> Image.Image:
    if image.mode not in {"1", "L", "P", *WIDE_GREY}:
        raise OtherPixels(
            f"a map of numbers must have one channel, but this image has the mode {image.mode}",
            "replace the colours by numbers, one per class or instance, in grey or palette images",
        )
    return Image.fromarray(np.asarray(image).astype(np.int32))
