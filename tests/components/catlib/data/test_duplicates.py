import io
import time

import numpy as np
import pytest
from PIL import Image, ImageFilter

from components.catlib.data.duplicates import difference_hashes, find_duplicates, thumbnail


def scene(seed: int, size: int = 128) -> Image.Image:
    """A blurred pattern with an even region, as photographs have them."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    picture = small.resize((size, size), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))
    picture.paste((random.integers(0, 256),) * 3, (0, 0, size, size // 4))
    return picture


def recompressed(picture: Image.Image, size: int, quality: int = 75) -> Image.Image:
    file = io.BytesIO()
    picture.resize((size, size), Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    return Image.open(file)


def texture(seed: int) -> Image.Image:
    """A large picture that looks alike everywhere, such as grass."""
    noise = np.random.default_rng(seed).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((640, 640), Image.Resampling.BICUBIC)


def thumbnails(*pictures: Image.Image) -> np.ndarray:
    return np.stack([thumbnail(picture) for picture in pictures])


def test_the_hash_of_an_example():
    grey = np.zeros((1, 16, 17), dtype=np.uint8)
    grey[0, 0, 1] = 2  # brighter than its left neighbour: the first bit; its right neighbour is darker
    grey[0, 0, 3] = 1  # brighter, but not clearly
    assert np.unpackbits(difference_hashes(grey).view(np.uint8)).tolist() == [1] + [0] * 255


def test_resized_and_recompressed_copies_are_found_and_nothing_else():
    training = thumbnails(*map(scene, range(200)))
    copies = thumbnails(*(recompressed(scene(seed), 96) for seed in range(0, 200, 10)))
    assert find_duplicates(copies, training) == [(row, 10 * row) for row in range(20)]
    assert find_duplicates(thumbnails(*map(scene, range(1000, 1200))), training) == []


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 95])
@pytest.mark.parametrize("size", [64, 128, 200, 256])
def test_copies_are_found_whatever_their_quality_and_size(quality: int, size: int):
    training = thumbnails(*map(scene, range(40)))
    copies = thumbnails(*(recompressed(scene(seed), size, quality) for seed in range(0, 40, 4)))
    assert find_duplicates(copies, training) == [(row, 4 * row) for row in range(10)]


def test_crops_of_one_texture_are_no_copies():
    boxes = [(x, y, x + 128, y + 128) for x in range(0, 513, 64) for y in range(0, 513, 64)]
    crops = [texture(0).crop(box) for box in boxes]
    assert find_duplicates(thumbnails(*crops[::2]), thumbnails(*crops[1::2])) == []


def test_ten_thousand_images_are_compared_in_seconds():
    random = np.random.default_rng(0)
    training, held_out = (random.integers(0, 256, (n, 16, 17), dtype=np.uint8) for n in (10_000, 1_000))
    held_out[7] = training[1234]
    began = time.process_time()
    assert find_duplicates(held_out, training) == [(7, 1234)]
    assert time.process_time() - began < 5


def test_flat_images_of_different_brightness_are_different():
    white, grey = Image.new("RGB", (64, 64), "white"), Image.new("RGB", (64, 64), (200, 200, 200))
    assert find_duplicates(thumbnails(grey), thumbnails(white)) == []
    assert find_duplicates(thumbnails(white), thumbnails(grey, white)) == [(0, 1)]


def test_nothing_is_a_double_of_nothing():
    none = np.zeros((0, 16, 17), dtype=np.uint8)
    assert find_duplicates(none, thumbnails(scene(0))) == find_duplicates(thumbnails(scene(0)), none) == []
