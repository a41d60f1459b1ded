"""Pictures of every type come back as files of that type, with their size, bits, channels and alpha."""

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from components.catlib.config import ValuesConfig
from components.catlib.data.batches import to_unit_range
from components.catlib.data.decoding import read_picture
from components.catlib.data.files import SourceFile
from components.catlib.data.rasters import decode_raster
from components.catlib.data.samples import UnusableImageError
from components.catlib.errors import UserError
from components.catlib.serving.model import RGB, Model, Values, open_model
from components.catlib.serving.pictures import read, write
from components.catlib.serving.tiling import translate
from tests.components.catlib.serving.models import negative, science

RANDOM = np.random.default_rng(5)


def file(path: Path) -> SourceFile:
    return SourceFile(path.name, path.stat().st_size, path.read_bytes)


def negative_of(path: Path, model: Model) -> Path:
    """Translates a picture; returns the file that was made."""
    picture = read(file(path), model)
    made = path.with_name(f"made{path.suffix}")
    write(made, translate(model, picture), picture)
    return made


def colours(*shape: int, largest: int = 255, type_: str = "uint8") -> np.ndarray:
    return RANDOM.integers(0, largest + 1, shape).astype(type_)


@pytest.mark.parametrize("kind", ["png", "bmp", "ppm", "tga", "tif", "webp", "gif", "jpg", "avif", "jp2", "pcx"])
def test_8_bit_colours_keep_their_type(kind: str, negative_model: Model, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{kind}"
    given = np.kron(colours(4, 5, 3), np.ones((8, 8, 1), np.uint8))
    options: dict[str, Any] = {"webp": {"lossless": True}, "jpg": {"quality": 100}, "avif": {"quality": 100}}
    Image.fromarray(given).save(path, **options.get(kind, {}))
    with Image.open(path) as image:
        expected, format_ = 255 - np.asarray(image.convert("RGB")).astype(int), image.format
    with Image.open(negative_of(path, negative_model)) as made:
        assert (made.format, made.size) == (format_, (40, 32))
        difference = np.abs(np.asarray(made.convert("RGB")).astype(int) - expected)
    if kind in ("jpg", "avif"):
        assert difference.mean() < 6
    elif kind != "gif":  # 256 colours: the palette is made anew
        assert difference.max() == 0


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_other_colour_types_are_read_as_in_a_training(mode: str, negative_model: Model, tmp_path: Path) -> None:
    path = tmp_path / "picture.tif"
    Image.fromarray(colours(9, 14, 3)).convert(mode).save(path)
    expected = 255 - np.asarray(read_picture(file(path)))
    with Image.open(negative_of(path, negative_model)) as made:
        assert np.array_equal(np.asarray(made), expected)


@pytest.mark.parametrize("kind", ["png", "webp", "tif"])
def test_alpha_is_kept_and_transparent_pixels_lie_on_white(kind: str, negative_model: Model, tmp_path: Path) -> None:
    path, given = tmp_path / f"icon.{kind}", colours(8, 12, 4)
    given[0, 0], given[0, 1] = (9, 9, 9, 0), (9, 9, 9, 255)
    Image.fromarray(given).save(path, **({"lossless": True, "exact": True} if kind == "webp" else {}))
    on_white = np.asarray(read_picture(file(path)))
    with Image.open(negative_of(path, negative_model)) as made:
        assert made.mode == "RGBA"
        found = np.asarray(made)
    assert np.array_equal(found[..., 3], given[..., 3])
    assert tuple(on_white[0, 0]) == (255, 255, 255)
    visible = given[..., 3] > 0
    assert np.array_equal(found[visible, :3], 255 - on_white[visible])


def test_a_transparent_palette_keeps_its_alpha(negative_model: Model, tmp_path: Path) -> None:
    given = Image.fromarray(np.tile(np.arange(4, dtype=np.uint8), (8, 2))).convert("P")
    given.save(tmp_path / "icon.png", transparency=2)
    with Image.open(negative_of(tmp_path / "icon.png", negative_model)) as made:
        assert made.mode == "RGBA"
        assert np.array_equal(np.asarray(made.getchannel("A"))[0], [255, 255, 0, 255] * 2)


def test_exif_turns_the_picture_and_is_gone_afterwards(negative_model: Model, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    given = np.kron(colours(2, 3, 3), np.ones((8, 8, 1), np.uint8))
    Image.fromarray(given).save(tmp_path / "phone.jpg", exif=exif, quality=95, subsampling=0)
    with Image.open(negative_of(tmp_path / "phone.jpg", negative_model)) as made:
        assert made.size == (16, 24)
        assert made.getexif().get(0x0112, 1) == 1
        difference = np.asarray(made).astype(int) - (255 - np.rot90(given, -1).astype(int))
    assert np.abs(difference).mean() < 10


def test_16_bit_colours_come_back_with_16_bits(negative_model: Model, tmp_path: Path) -> None:
    given = colours(9, 13, 4, largest=65535, type_="uint16")
    given[..., 3] |= 0x8000
    tifffile.imwrite(tmp_path / "rgb.tif", given[..., :3], photometric="rgb")
    tifffile.imwrite(tmp_path / "grey.tif", given[..., 0])
    np.save(tmp_path / "rgb.npy", given[..., :3])
    np.save(tmp_path / "first.npy", np.ascontiguousarray(given[..., :3].transpose(2, 0, 1)))
    Image.fromarray(given[..., 0]).save(tmp_path / "grey.png")
    expected = 65535 - given[..., :3].astype(int)
    for name in ("rgb.tif", "rgb.npy"):
        made = decode_raster(file(negative_of(tmp_path / name, negative_model)), channels=3).numbers
        assert made.dtype == np.uint16
        assert np.abs(made - expected).max() <= 1, name
    for name in ("grey.tif", "grey.png"):
        made = decode_raster(file(negative_of(tmp_path / name, negative_model)), channels=3).numbers
        assert (made.dtype, made.shape) == (np.uint16, (9, 13, 3))
        assert np.abs(made - expected[..., :1]).max() <= 1, name
    assert np.load(negative_of(tmp_path / "first.npy", negative_model)).shape == (3, 9, 13)


def test_16_bit_png_with_alpha_comes_back_as_one(negative_model: Model, tmp_path: Path) -> None:
    picture = read(_npy_of_16_bits(tmp_path), negative_model)
    made = tmp_path / "first.png"
    write(made, translate(negative_model, picture), type(picture)(**(vars(picture) | {"kind": "PNG"})))
    with Image.open(made) as image:
        image.load()
        assert image.format == "PNG"
    again = negative_of(made, negative_model)
    first, second = (decode_raster(file(path), channels=4).numbers for path in (made, again))
    assert first.dtype == second.dtype == np.uint16
    assert np.array_equal(first[..., 3], second[..., 3])
    opaque = first[..., 3] == 65535
    assert opaque.any()
    assert np.abs(first[opaque, :3].astype(int) + second[opaque, :3] - 65535).max() <= 1


def _npy_of_16_bits(folder: Path) -> SourceFile:
    given = colours(9, 13, 4, largest=65535, type_="uint16")
    given[::2, :, 3] = 65535
    np.save(folder / "given.npy", given)
    return file(folder / "given.npy")


@pytest.mark.parametrize(("kind", "type_", "channels"), [
    ("tif", "uint16", 6), ("tif", "float32", 2), ("npy", "float32", 1), ("npy", "uint8", 5), ("png", "uint16", 1),
    ("png", "uint16", 2), ("tif", "uint16", 1),
])  # fmt: skip
def test_science_images_keep_type_channels_and_range(kind: str, type_: str, channels: int, tmp_path: Path) -> None:
    low, high = {"uint16": (0, 4095), "uint8": (0, 255), "float32": (-2, 6)}[type_]
    values = science(type_, channels, low, high)
    model = open_model(negative(tmp_path / "model.onnx", reads=values, makes=values))
    given = RANDOM.uniform(low, high, (9, 13, channels)).round(0 if type_ != "float32" else 6).astype(type_)
    path = tmp_path / f"image.{kind}"
    if kind == "npy":
        np.save(path, given[..., 0] if channels == 1 else given)
    elif kind == "png":
        path.write_bytes(_png(given))
    else:
        options = {} if channels == 1 else {"planarconfig": "contig"}
        tifffile.imwrite(path, given[..., 0] if channels == 1 else given, photometric="minisblack", **options)
    made = negative_of(path, model)
    found = decode_raster(file(made), channels=channels).numbers
    assert (found.dtype, found.shape) == (given.dtype, given.shape)
    assert np.abs(found.astype(float) - (low + high - given.astype(float))).max() <= (1e-5 if type_ == "float32" else 0)
    if kind == "npy":
        assert np.load(made).ndim == (2 if channels == 1 else 3)


def _png(numbers: np.ndarray) -> bytes:
    """Writes a PNG of 16 bits without filters, by the letter of its specification."""
    height, width, channels = numbers.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in numbers)
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, {1: 0, 2: 4}[channels], 0, 0, 0])

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_photos_become_science_images_where_their_type_can_hold_them(tmp_path: Path) -> None:
    makes = science("uint16", 1, 0, 1000)
    model = open_model(negative(tmp_path / "model.onnx", makes=makes))
    Image.new("RGB", (12, 10), (255, 255, 255)).save(tmp_path / "photo.png")
    made = decode_raster(file(negative_of(tmp_path / "photo.png", model)), channels=1).numbers
    assert (made.dtype, made.shape, made.max()) == (np.uint16, (10, 12, 1), 0)
    Image.new("RGB", (12, 10)).save(tmp_path / "photo.jpg")
    with pytest.raises(
        UserError,
        match=r"photo.jpg: the model makes 1 channel of uint16, 0 to 1000, which cannot be written as JPEG; save",
    ):
        read(file(tmp_path / "photo.jpg"), model)


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        (np.zeros((9, 9, 3), np.uint16), "has 3 channels, but this model reads 2 channels of uint16, 0 to 4095"),
        (
            np.full((9, 9, 2), 4096, np.uint16),
            "holds values from 4096 to 4096, but this model reads 2 channels of uint16",
        ),
        (np.full((9, 9, 2), np.nan, np.float32), "holds NaN or infinity"),
    ],
)
def test_science_images_of_another_kind_are_refused(numbers: np.ndarray, sentence: str, tmp_path: Path) -> None:
    model = open_model(negative(tmp_path / "m.onnx", reads=science("uint16", 2, 0, 4095)))
    np.save(tmp_path / "image.npy", numbers)
    with pytest.raises(UnusableImageError, match=f"image.npy: {sentence}"):
        read(file(tmp_path / "image.npy"), model)


@pytest.mark.filterwarnings("error")
def test_hostile_pictures_are_refused(negative_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = io.BytesIO()
    Image.fromarray(colours(40, 40, 3)).save(whole, "PNG")
    frames = [Image.new("L", (9, 9), shade) for shade in (0, 99)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:-40])
    (tmp_path / "text.jpg").write_text("no picture")
    np.save(tmp_path / "floats.npy", np.zeros((9, 9, 3), np.float32))
    for name, reason in (
        ("moving.gif", "has 2 pages or frames"), ("cut.png", "truncated"), ("text.jpg", "not an image of a known kind"),
        ("floats.npy", "holds float32 numbers, but this model reads 8-bit colours"),
    ):  # fmt: skip
        with pytest.raises(UnusableImageError, match=reason):
            read(file(tmp_path / name), negative_model)
    (tmp_path / "bomb.png").write_bytes(whole.getvalue())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnusableImageError, match="has 1600 pixels, more than the limit of 1000"):
        read(file(tmp_path / "bomb.png"), negative_model)


def test_label_maps_become_planes(tmp_path: Path) -> None:
    planes = {"num_labels": 3, "dont_care_plane": True, "instances": False}
    model = open_model(negative(tmp_path / "m.onnx", planes=planes, fixed_size=[9, 12]))
    labels = np.tile(np.array([0, 1, 2, 255], np.uint8), (9, 3))
    Image.fromarray(labels).save(tmp_path / "map.png")
    picture = read(file(tmp_path / "map.png"), model)
    found = picture.region(2, 5, 1, 9)
    assert np.array_equal(found, (labels[2:5, 1:9] == np.array([0, 1, 2, 255])[:, None, None]).astype(np.float32))
    Image.fromarray(labels % 200).save(tmp_path / "wrong.png")
    with pytest.raises(UnusableImageError, match="holds the label 55, but num_labels 3 allows"):
        read(file(tmp_path / "wrong.png"), model)
    with pytest.raises(UserError, match="takes label maps of 9x12 alone"):
        Image.fromarray(labels[:8]).save(tmp_path / "small.png")
        translate(model, read(file(tmp_path / "small.png"), model))


@pytest.mark.parametrize("values", [RGB, Values("uint16", 2, (0.0, 4095.0)), Values("float32", 1, (-3.0, 9.5))])
def test_numbers_reach_the_network_as_in_a_training(values: Values) -> None:
    low, high = values.range
    numbers = RANDOM.uniform(low, high, (5, 6, values.channels)).astype(values.type)
    config = ValuesConfig.model_validate(vars(values))
    expected = to_unit_range(numbers.transpose(2, 0, 1)[None].copy(), config)[0].numpy()
    seen = values.to_network(np.moveaxis(numbers, -1, 0))
    assert np.array_equal(seen, expected)
    back = values.from_network(seen)
    np.testing.assert_allclose(np.moveaxis(back, 0, -1), numbers, atol=1e-5 if values.type == "float32" else 0)
