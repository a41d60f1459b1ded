import io

import numpy as np
from PIL import Image, ImageFilter

from components.catlib.data.duplicates import difference_hashes, find_duplicates, thumbnail


def scene(seed: int, size: int = 128) -> Image.Image:
    """A blurred pattern with an even region, as photographs have them."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    picture = small.resize((size, size), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))
    picture.paste((random.integers(0, 256),) * 3, (0, 0, size, size // 4))
    return picture


def recompressed(picture: Image.Image, size: int) -> Image.Image:
    file = io.BytesIO()
    picture.resize((size, size), Image.Resampling.BICUBIC).save(file, "JPEG", quality=75)
    return Image.open(file)


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


def test_flat_images_of_different_brightness_are_different():
    white, grey = Image.new("RGB", (64, 64), "white"), Image.new("RGB", (64, 64), (200, 200, 200))
    assert find_duplicates(thumbnails(grey), thumbnails(white)) == []
    assert find_duplicates(thumbnails(white), thumbnails(grey, white)) == [(0, 1)]


def test_nothing_is_a_double_of_nothing():
    none = np.zeros((0, 16, 17), dtype=np.uint8)
    assert find_duplicates(none, thumbnails(scene(0))) == find_duplicates(thumbnails(scene(0)), none) == []
