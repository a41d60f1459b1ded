"""Science images: every number of a file arrives, or the file is refused by name in one sentence."""

import io
import pickle
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from components.catlib.config import ValuesConfig
from components.catlib.data.files import SourceFile
from components.catlib.data.rasters import read_raster
from components.catlib.data.samples import UnusableImageError

WIDE = np.random.default_rng(0).integers(0, 65536, (6, 7, 4), dtype=np.uint16)
FIRST = np.moveaxis(WIDE, 2, 0).copy()
REAL = np.random.default_rng(1).uniform(-2, 2, (6, 7, 3)).astype(np.float32)
PLAIN: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}


def read(content: bytes, channels: int, kind: str = "uint16", limits: tuple[float, float] | None = None) -> np.ndarray:
    values = ValuesConfig.model_validate({"type": kind, "channels": channels, "range": limits})
    file = SourceFile("data/a", len(content), lambda: content)
    return read_raster(file, values=values, setting="dataset.source_values").numbers


def tiff(numbers: np.ndarray, **settings: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, numbers, **settings)
    return file.getvalue()


def planar(numbers: np.ndarray) -> bytes:
    planes = np.moveaxis(numbers, 2, 0).copy()
    return tiff(planes, photometric="minisblack", planarconfig="separate" if len(planes) > 1 else None)


def array(numbers: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, numbers)
    return file.getvalue()


def pages() -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for plane in FIRST:
            writer.write(plane, contiguous=False, metadata=None)
    return file.getvalue()


def lzw(numbers: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(numbers).save(file, "TIFF", compression="tiff_lzw")
    return file.getvalue()


def lzw_colours(numbers: np.ndarray, photometric: str = "rgb") -> bytes:
    """Writes 16-bit colours as LZW, which no writer here does: every byte stands for itself, in codes of 9 bits."""
    clear, end = 256, 257
    codes = [code for byte in numbers.astype("<u2").tobytes() for code in (clear, byte)] + [end]
    bits = "".join(f"{code:09b}" for code in codes)
    packed = int(bits + "0" * (-len(bits) % 8), 2).to_bytes((len(bits) + 7) // 8, "big")
    plain = tiff(numbers, photometric=photometric, planarconfig="contig", metadata=None, rowsperstrip=len(numbers))
    with tifffile.TiffFile(io.BytesIO(plain)) as file:
        tags = file.pages.first.tags  # type: ignore[union-attr]
        content = bytearray(plain + packed)
        for name, value in (("Compression", 5), ("StripOffsets", len(plain)), ("StripByteCounts", len(packed))):
            size = 2 if tags[name].dtype == 3 else 4
            content[tags[name].valueoffset : tags[name].valueoffset + size] = value.to_bytes(size, "little")
    return bytes(content)


def png(numbers: np.ndarray) -> bytes:
    """Writes 16-bit PNG files of 1 to 4 channels, which Pillow does not write; every other row is filtered."""
    height, width, channels = numbers.shape
    rows = numbers.astype(">u2").view(np.uint8).reshape(height, -1)
    shifted = np.pad(rows, ((0, 0), (2 * channels, 0)))[:, : rows.shape[1]]
    lines = (
        bytes([row % 2]) + (line - row % 2 * left).tobytes()
        for row, (line, left) in enumerate(zip(rows, shifted, strict=True))
    )
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, colour, 0, 0, 0])
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b""))
    chunks = (
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big") for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    "content",
    [
        tiff(WIDE),
        tiff(WIDE, **PLAIN),
        tiff(WIDE, byteorder=">", **PLAIN),
        tiff(WIDE, compression="zlib", predictor=True, **PLAIN),
        tiff(WIDE, compression="zlib", tile=(16, 16), **PLAIN),
        tiff(FIRST, photometric="minisblack", planarconfig="separate"),
        tiff(FIRST, imagej=True, metadata={"axes": "CYX"}),
        tiff(FIRST, ome=True, metadata={"axes": "CYX"}),
        pages(),
        png(WIDE),
        array(WIDE),
        array(FIRST),
        array(np.asfortranarray(WIDE)),
        array(WIDE.astype(">u2")),
        array(WIDE.astype(np.int64)),
    ],
)
def test_four_channels_of_16_bits_arrive_bit_by_bit(content: bytes):
    found = read(content, 4)
    assert (found.dtype, found.dtype.isnative) == (np.uint16, True)
    assert np.array_equal(found, WIDE)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("write", [png, array, planar])
def test_every_number_of_channels_arrives(write: Callable[[np.ndarray], bytes], channels: int):
    assert np.array_equal(read(write(WIDE[..., :channels]), channels), WIDE[..., :channels])


def test_sixteen_channels_and_a_single_plane_arrive():
    many = np.tile(WIDE, 4)
    assert np.array_equal(read(tiff(many, **PLAIN), 16), many)
    for content in (tiff(WIDE[..., 0].copy()), array(WIDE[..., 0]), lzw(WIDE[..., 0].copy())):
        assert np.array_equal(read(content, 1), WIDE[..., :1])


@pytest.mark.parametrize(
    "content",
    [tiff(REAL, **PLAIN), tiff(REAL, compression="zlib", **PLAIN), array(REAL), array(REAL.astype(np.float64))],
)
def test_floating_point_numbers_arrive_bit_by_bit(content: bytes):
    found = read(content, 3, "float32", (-2, 2))
    assert found.dtype == np.float32
    assert np.array_equal(found.view(np.uint32), REAL.view(np.uint32))


def test_integers_with_a_sign_arrive_as_floating_point_numbers():
    signed = WIDE.astype(np.int32) - 32768
    assert np.array_equal(read(tiff(signed.astype(np.int16), **PLAIN), 4, "float32", (-32768, 32767)), signed)


def test_compressed_16_bit_colours_arrive_bit_by_bit():
    assert np.array_equal(read(lzw_colours(WIDE[..., :3]), 3), WIDE[..., :3])


def test_8_bit_colours_arrive_without_a_conversion():
    rgba = (WIDE >> 8).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, "PNG")
    assert np.array_equal(read(file.getvalue(), 4, "uint8"), rgba)
    assert np.array_equal(read(lzw(rgba[..., :3]), 3, "uint8"), rgba[..., :3])


def with_value(value: float) -> bytes:
    numbers = REAL.copy()
    numbers[2, 3, 1] = value
    return array(numbers)


def palette() -> bytes:
    file = io.BytesIO()
    Image.new("P", (3, 3)).save(file, "PNG")
    return file.getvalue()


def objects() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([[None]]), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (with_value(np.nan), r"holds NaN"),
        (with_value(np.inf), r"holds infinity"),
        (with_value(2.5), r"holds values from -1\.\d+ to 2\.5, outside of dataset\.source_values\.range \[-2, 2\]"),
        (array(REAL.astype(np.float64) + 1e-12), r"holds float64 numbers that .*type float32 would change"),
        (array(REAL[..., :2]), r"has 2 channels, but dataset\.source_values\.channels is 3"),
        (array(REAL.astype(np.complex64)), r"holds complex64 instead of numbers"),
        (array(np.array([["a"]])), r"holds <U1 instead of numbers"),
        (objects(), r"holds Python objects, which are never unpickled"),
        (pickle.dumps(REAL), r"is neither TIFF nor PNG nor \.npy"),
        (array(REAL[0, 0]), r"is an array of the shape \[3\]"),
        (array(REAL)[:-1], r"has 503 bytes of numbers instead of 504"),
        (array(REAL)[:40], r"EOF"),
        (tiff(REAL, **PLAIN)[:-8], r"truncated"),
        (tiff(np.zeros((2, 6, 7, 3), np.float32), photometric="rgb"), r"has 2 pages or frames"),
        (
            lzw_colours(WIDE, photometric="minisblack"),
            r"is compressed in a way that is not read here \(LZW, 4 channels",
        ),
        (tiff(REAL.astype(np.complex64), **PLAIN), r"holds complex64 instead of numbers"),
        (pages(), r"has 4 pages or frames"),
        (palette(), r"has pixels of Pillow's mode P"),
        (tiff(REAL, extratags=[(274, "H", 1, 6, True)], **PLAIN), r"is stored turned or mirrored \(orientation 6\)"),
        (b"\xff\xd8\xff\xe0 a photograph", r"is neither TIFF nor PNG nor \.npy"),
    ],
)
def test_what_is_no_such_image_is_refused_by_name(content: bytes, sentence: str):
    with pytest.raises(UnusableImageError, match=sentence) as refused:
        read(content, 3, "float32", (-2, 2))
    assert refused.value.file == "data/a"
    assert "\n" not in str(refused.value)


def test_fractions_are_not_rounded_to_whole_numbers():
    with pytest.raises(
        UnusableImageError, match=r"holds float32 numbers that dataset\.source_values\.type uint16 would"
    ):
        read(array(np.abs(REAL)), 3)
