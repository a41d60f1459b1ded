import io

import numpy as np
import torch
from PIL import Image

from components.catlib.data.pictures import label_colours, labels_in_colour, strip


def opened(picture: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(picture))
    assert image.format == "WEBP"
    return np.asarray(image.convert("RGB"))


def test_labels_have_different_colours():
    colours = label_colours(35)
    assert colours.shape == (35, 3)
    distances = np.abs(colours[:, None].astype(int) - colours[None]).sum(axis=-1)
    assert distances[~np.eye(35, dtype=bool)].min() > 20


def test_classes_are_shown_in_their_colours_and_nothing_else_is_shown():
    planes = torch.zeros(1, 5, 2, 2)  # three classes, don't care, edges
    planes[0, 2, 0, 0] = planes[0, 0, 0, 1] = planes[0, 3, 1, 0] = planes[0, 4] = 1
    image = labels_in_colour(planes, 3)
    assert image.dtype == torch.uint8
    colours = label_colours(3)
    expected = [[colours[2], colours[0]], [np.zeros(3), np.zeros(3)]]
    np.testing.assert_array_equal(image[0].permute(1, 2, 0).numpy(), np.array(expected))


def test_a_strip_puts_every_image_in_its_place():
    rows = [torch.full((2, 3, 16, 24), -1.0), torch.full((1, 3, 16, 24), 255, dtype=torch.uint8)]
    rows[0][1] = 0.0
    pixels = opened(strip(rows, height=128))
    assert pixels.shape == (32, 48, 3)
    for (y, x), grey in {(8, 12): 0, (8, 36): 128, (24, 12): 255, (24, 36): 0}.items():
        assert abs(int(pixels[y, x].mean()) - grey) <= 3


def test_large_images_are_made_smaller():
    assert opened(strip([torch.zeros(3, 3, 64, 128)], height=16)).shape == (16, 96, 3)
