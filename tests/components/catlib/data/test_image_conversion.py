import pytest
import torch

from components.catlib.data.image_conversion import to_uint8


def test_every_grey_value_survives_a_round_trip():
    greys = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(greys / 127.5 - 1), greys)


def test_the_nearest_grey_value_is_taken_and_the_rest_clipped():
    step = 2 / 255
    values = torch.tensor([-1 + 0.49 * step, -1 + 0.51 * step, 1 - 0.49 * step, -7.0, 1.2])
    assert to_uint8(values).tolist() == [0, 1, 255, 0, 255]


def test_the_input_is_left_alone_and_half_precision_is_taken():
    values = torch.linspace(-1, 1, 9)
    before = values.clone()
    assert torch.equal(to_uint8(values), to_uint8(values.half()))
    assert torch.equal(values, before)


def test_the_wrong_kind_of_numbers_is_refused():
    with pytest.raises(AssertionError, match="floating point"):
        to_uint8(torch.zeros(1, dtype=torch.uint8))
