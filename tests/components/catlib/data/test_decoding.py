from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from components.catlib.data.decoding import read_instances, read_labels, read_picture, split_halves
from components.catlib.data.files import SourceFile, is_image_path
from components.catlib.data.samples import UnusableImageError
from tests.components.catlib.data.image_folders import file_at, noise, write


def pixels(path: Path) -> np.ndarray:
    picture = read_picture(file_at(path))
    assert picture.mode == "RGB"
    return np.asarray(picture)


def test_grey_becomes_three_equal_channels(tmp_path: Path):
    grey = noise(0)[..., 0]
    assert np.array_equal(pixels(write(tmp_path / "grey.png", grey)), np.stack([grey] * 3, axis=-1))


def test_palette_indices_are_looked_up_in_a_picture_and_kept_in_a_label_map(tmp_path: Path):
    image = Image.new("P", (3, 2))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((2, 1), 1)
    image.save(tmp_path / "palette.png")
    assert pixels(tmp_path / "palette.png")[1].tolist() == [[10, 20, 30], [10, 20, 30], [40, 50, 60]]
    assert np.asarray(read_labels(file_at(tmp_path / "palette.png"), num_labels=2)).tolist() == [[0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_laid_on_white(tmp_path: Path, mode: str):
    image = Image.new(mode, (3, 1), (*(200, 0, 100)[: len(mode) - 1], 255))
    for x, opacity in enumerate((0, 51, 255)):
        image.putpixel((x, 0), (*(200, 0, 100)[: len(mode) - 1], opacity))
    image.save(tmp_path / "x.png")
    clear, fifth, opaque = pixels(tmp_path / "x.png")[0].tolist()
    colour = [200, 0, 100] if mode == "RGBA" else [200] * 3
    assert (clear, opaque) == ([255] * 3, colour)
    assert fifth == [round(255 * 0.8 + value * 0.2) for value in colour]


def test_opaque_colours_keep_every_value(tmp_path: Path):
    rgba = np.dstack([noise(1), np.full((8, 8), 255, np.uint8)])
    assert np.array_equal(pixels(write(tmp_path / "rgba.png", rgba)), rgba[..., :3])


def test_a_transparent_palette_is_laid_on_white_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    image = Image.new("P", (2, 1))
    image.putpalette([1, 2, 3, 4, 5, 6])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png", transparency=b"\x00\xff")
    assert pixels(tmp_path / "palette.png")[0].tolist() == [[255, 255, 255], [4, 5, 6]]
    assert not recwarn.list


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path):
    path = write(tmp_path / "deep.png", [[0, 257, 32768, 65535]], np.uint16)
    assert pixels(path)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_16_bit_colour_is_scaled(tmp_path: Path):
    header = b"P6 2 1 65535\n"
    path = tmp_path / "deep.ppm"
    path.write_bytes(header + np.array([0, 65535, 32896, 65535, 0, 257], dtype=">u2").tobytes())
    assert pixels(path).tolist() == [[[0, 255, 128], [255, 0, 1]]]


def test_cmyk_is_converted(tmp_path: Path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    red, green, blue = pixels(tmp_path / "print.jpg")[0, 0]
    assert red > 240
    assert max(green, blue) < 15


def test_exif_orientation_turns_the_image_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    upright = noise(3, height=6, width=4)
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(pixels(tmp_path / "turned.png"), upright)


def test_a_black_and_white_label_map_has_labels_0_and_1(tmp_path: Path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "mask.png")
    assert np.asarray(read_labels(file_at(tmp_path / "mask.png"), num_labels=2)).tolist() == [[1, 0]]


def test_a_label_that_is_no_class_is_unusable(tmp_path: Path):
    path = write(tmp_path / "map.png", [[0, 5, 255]])
    assert np.asarray(read_labels(file_at(path), num_labels=6)).tolist() == [[0, 5, 255]]
    with pytest.raises(UnusableImageError, match=r"map\.png: holds the label 5, .* 0 … 4"):
        read_labels(file_at(path), num_labels=5)


def test_a_label_beyond_8_bits_is_unusable(tmp_path: Path):
    with pytest.raises(UnusableImageError, match="holds the label 256"):
        read_labels(file_at(write(tmp_path / "map.png", [[0, 256]], np.uint16)), num_labels=255)


def test_a_coloured_label_map_is_unusable(tmp_path: Path):
    with pytest.raises(UnusableImageError, match=r"map\.png: .* has the mode RGB"):
        read_labels(file_at(write(tmp_path / "map.png", noise(0))), num_labels=255)


@pytest.mark.parametrize(("suffix", "dtype", "largest"), [("png", np.uint16, 65535), ("tif", np.int32, 2**31 - 1)])
def test_instance_ids_keep_their_value(tmp_path: Path, suffix: str, dtype: type, largest: int):
    instances = read_instances(file_at(write(tmp_path / f"instances.{suffix}", [[0, 33002, largest]], dtype)))
    assert instances.mode == "I"
    assert np.asarray(instances).tolist() == [[0, 33002, largest]]


def test_of_an_odd_width_the_right_half_is_wider():
    left, right = split_halves(Image.fromarray(noise(0, height=4, width=7)))
    assert (left.size, right.size) == ((3, 4), (4, 4))
    assert np.array_equal(np.hstack([np.asarray(left), np.asarray(right)]), noise(0, height=4, width=7))


@pytest.mark.filterwarnings("ignore")  # Pillow's own remarks about the damage
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp", "ppm"])
@pytest.mark.parametrize("missing", [1, 13, 200, None])
def test_a_file_that_is_cut_short_is_unusable_with_its_name_and_a_reason(
    tmp_path: Path, suffix: str, missing: int | None
):
    path = write(tmp_path / f"cut.{suffix}", noise(0, 32, 32))
    path.write_bytes(path.read_bytes()[:-missing] if missing else b"")
    with pytest.raises(UnusableImageError) as caught:
        read_picture(file_at(path))
    assert caught.value.file == str(path)
    assert caught.value.reason
    assert "0x" not in caught.value.reason


@pytest.mark.filterwarnings("ignore")  # Pillow's own remarks about the damage
@given(
    suffix=st.sampled_from([".png", ".jpg", ".webp", ".tif", ".bmp", ".ppm"]),
    damage=st.dictionaries(st.floats(0, 1, exclude_max=True), st.integers(0, 255), min_size=1, max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_whatever_the_damage_a_file_gives_a_picture_or_is_unusable(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, damage: dict[float, int]
):
    path = write(tmp_path_factory.mktemp("damaged") / f"x{suffix}", noise(0))
    content = bytearray(path.read_bytes())
    for place, value in damage.items():
        content[int(place * len(content))] = value
    path.write_bytes(content)
    try:
        assert read_picture(file_at(path)).mode == "RGB"
    except UnusableImageError as error:
        assert error.file == str(path)


@pytest.mark.parametrize("suffix", ["gif", "jfif", "avif", "tga", "jp2"])
def test_less_common_kinds_are_pictures_too(tmp_path: Path, suffix: str):
    path = write(tmp_path / f"x.{suffix}", np.full((8, 8, 3), (250, 60, 20)))
    assert is_image_path(PurePosixPath(path.name))
    assert np.abs(pixels(path).astype(int) - (250, 60, 20)).max() < 12


def test_a_kind_that_nobody_here_can_decode_is_unusable_by_name(tmp_path: Path):
    path = tmp_path / "phone.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    assert is_image_path(PurePosixPath(path.name))
    with pytest.raises(UnusableImageError, match=r"phone\.heic: not an image of a known kind"):
        read_picture(file_at(path))


def test_a_missing_file_is_unusable(tmp_path: Path):
    with pytest.raises(UnusableImageError, match="No such file"):
        read_picture(file_at(tmp_path / "gone.png"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("share", [0.9, 0.4])
def test_pillows_limit_on_pixels_is_an_error(tmp_path: Path, share: float, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "bomb.png", noise(0, 10, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(100 * share))
    with pytest.raises(UnusableImageError, match=r"limit|decompression bomb"):
        read_picture(file_at(path))


def test_floating_point_pixels_are_unusable(tmp_path: Path):
    with pytest.raises(UnusableImageError, match="floating-point"):
        read_picture(file_at(write(tmp_path / "deep.tif", [[0.5]], np.float32)))


def test_a_file_too_large_to_be_an_image_is_not_read():
    def read() -> bytes:
        raise AssertionError("it was read")

    with pytest.raises(UnusableImageError, match="more than the limit"):
        read_picture(SourceFile("huge.png", 2**40, read))


# --------------------------------------------------------------------------------------------------------------- pages


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp", "png"])
def test_further_pages_are_no_secret(tmp_path: Path, suffix: str):
    first, second = (Image.fromarray(noise(seed)) for seed in (0, 1))
    path = tmp_path / f"pages.{suffix}"
    first.save(path, save_all=True, append_images=[second])
    with pytest.raises(UnusableImageError, match="has 2 pages or frames, of which one alone could be used") as error:
        read_picture(file_at(path))
    assert error.value.advice.startswith("save each as a file of its own")


def test_smaller_copies_of_a_picture_are_no_pages(tmp_path: Path):
    first, second = (Image.fromarray(noise(seed)) for seed in (0, 1))
    copy = TiffImagePlugin.ImageFileDirectory_v2()
    copy[254] = 1
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "a.tif"), new=True) as file:
        first.save(file, format="TIFF")
        file.newFrame()
        second.save(file, format="TIFF", tiffinfo=copy)
        file.newFrame()
    first.save(tmp_path / "b.jpg", format="MPO", save_all=True, append_images=[second], quality=95)
    assert np.array_equal(np.asarray(read_picture(file_at(tmp_path / "a.tif"))), noise(0))
    assert read_picture(file_at(tmp_path / "b.jpg")).size == (8, 8)
