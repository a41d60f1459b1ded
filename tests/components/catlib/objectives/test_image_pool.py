"""The pool of past fakes; its traces are in tests/parity/test_image_pool.py."""

import random

import torch

from components.catlib.objectives.image_pool import ImagePool


def test_a_pool_of_size_0_hands_images_through() -> None:
    images = torch.randn(4, 3, 2, 2, requires_grad=True)
    returned = ImagePool(0, random.Random(0)).exchange(images)
    assert torch.equal(returned, images)
    assert not returned.requires_grad


def test_half_of_the_images_are_old_once_the_pool_is_full() -> None:
    pool = ImagePool(10, random.Random(0))
    old = sum(pool.exchange(torch.full((1, 1, 1, 1), float(number))).item() != number for number in range(2010))
    assert 900 < old < 1100


def test_kept_images_do_not_change_with_their_batch() -> None:
    pool, images = ImagePool(2, random.Random(0)), torch.zeros(2, 1, 1, 1)
    pool.exchange(images)
    images += 1
    assert (pool.images() == 0).all()
    assert ImagePool(2, random.Random(0)).images().shape == (0,)
