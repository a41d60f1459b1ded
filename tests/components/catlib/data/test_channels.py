"""How numbers of any range and any number of channels are seen in 8 bits and by threes."""

import numpy as np
import pytest
import torch

from components.catlib.config import RGB, ValuesConfig
from components.catlib.data.batches import channels_first, to_unit_range
from components.catlib.data.channels import as_colours, described, shown_as, threes, to_8_bits
from components.catlib.data.image_conversion import as_pictures, in_threes, mean_of_threes, to_uint8

TWELVE_BITS = ValuesConfig(channels=4, range=(0, 4095))


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(1, [[0, 0, 0]]), (2, [[0, 1, 1]]), (3, [[0, 1, 2]]), (4, [[0, 1, 2], [3, 3, 3]]), (5, [[0, 1, 2], [3, 4, 4]])],
)
def test_channels_are_seen_in_threes(channels: int, expected: list[list[int]]):
    assert threes(channels) == expected
    images = torch.rand(2, channels, 5, 5)
    seen = in_threes(images)
    assert seen.shape == (2 * len(expected), 3, 5, 5)
    assert torch.equal(seen[-1], images[-1, expected[-1]])
    assert torch.allclose(mean_of_threes(seen, 2)[0], images[0, expected].mean(dim=0))


def test_three_channels_are_seen_as_they_are():
    images = torch.rand(2, 3, 5, 5)
    assert in_threes(images) is images
    assert mean_of_threes(images, 2) is images


def test_networks_see_the_ends_of_the_range_as_the_ends_of_theirs():
    packed = np.array([0, 4095, 1000, 2047.5 * 2], np.uint16).reshape(1, 1, 1, 4)
    seen = to_unit_range(channels_first(packed), TWELVE_BITS).ravel()
    assert seen.tolist() == pytest.approx([-1, 1, 1000 / 2047.5 - 1, 1])
    low = ValuesConfig(type="float32", range=(-3, 5))
    numbers = np.array([-3, 1, 5], np.float32).reshape(1, 1, 3, 1)
    assert to_unit_range(channels_first(numbers), low).ravel().tolist() == [-1, 0, 1]
    assert numbers.ravel().tolist() == [-3, 1, 5]


def test_8_bit_colours_keep_their_numbers():
    packed = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    assert to_8_bits(packed, RGB) is packed
    assert np.array_equal(as_colours(packed, RGB), packed)
    assert torch.equal(to_unit_range(channels_first(packed), RGB), to_unit_range(channels_first(packed)))


def test_pictures_and_features_round_packed_and_generated_images_alike():
    packed = np.random.default_rng(0).integers(0, 4096, (2, 4, 4, 4), dtype=np.uint16)
    tensor = to_unit_range(channels_first(packed), TWELVE_BITS)
    assert np.array_equal(to_uint8(tensor).permute(0, 2, 3, 1).numpy(), to_8_bits(packed, TWELVE_BITS))
    assert np.array_equal(as_pictures(tensor).permute(0, 2, 3, 1).numpy(), as_colours(packed, TWELVE_BITS))


def test_a_page_says_what_it_shows():
    assert described(TWELVE_BITS) == "4 channels of uint16, 0 to 4095"
    assert shown_as(TWELVE_BITS) == "channels 1, 2 and 3 of 4 as red, green and blue"
    assert described(ValuesConfig(type="float32", range=(-1.5, 2))) == "1 channel of float32, -1.5 to 2"
    assert [shown_as(ValuesConfig(channels=count)).split()[0] for count in (1, 2, 3)] == ["the", "channel", "channels"]
