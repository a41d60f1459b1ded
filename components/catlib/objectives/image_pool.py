"""A pool of past fakes, shown to CycleGAN's discriminators so that they do not forget (method section 4)."""

import random

import torch
from torch import Tensor

_RANDOM_STATE_VERSION = 3
"""Version of the states that `random.Random.getstate()` returns: the Mersenne Twister."""


class ImagePool:
    """Keeps up to `size` generated images; once full, hands out an old one for half of the new ones.

    Example, size 2: the pool takes in images 0 and 1 and returns them. Image 2 then comes back itself with probability
    ½; otherwise image 0 or 1 comes back and 2 takes its place.
    """

    def __init__(self, size: int, random_numbers: random.Random) -> None:
        """Starts empty.

        Args:
            size: How many images are kept; 0 turns the pool off.
            random_numbers: Source of random numbers, which pools may share. Only a full pool draws from it: a uniform
                number per image, and an index if that number exceeds ½.
        """
        self.size = size
        self._random = random_numbers
        self._images: list[Tensor] = []

    def exchange(self, images: Tensor) -> Tensor:
        """Puts images into the pool and returns the same number of images.

        Args:
            images: [N, C, H, W], in order; one stored early in a call may come back later in the same call.

        Returns:
            [N, C, H, W], detached.
        """
        if self.size == 0:
            return images.detach()
        return torch.stack([self._exchange_one(image) for image in images.detach()])

    def _exchange_one(self, image: Tensor) -> Tensor:
        if len(self._images) < self.size:
            self._images.append(image.clone())
            return image
        if self._random.uniform(0, 1) <= 0.5:
            return image
        index = self._random.randint(0, self.size - 1)
        old, self._images[index] = self._images[index], image.clone()
        return old

    def images(self) -> Tensor:
        """Returns the images that are kept, [up to `size`, C, H, W], for a checkpoint; an empty tensor [0] if none."""
        return torch.stack(self._images) if self._images else torch.empty(0)

    def restore(self, images: Tensor) -> None:
        """Restores what `images` returned."""
        self._images = list(images)


def random_state(random_numbers: random.Random) -> Tensor:
    """Returns the state of a random number generator, int64 [625], for a checkpoint."""
    _, numbers, _ = random_numbers.getstate()
    return torch.tensor(numbers, dtype=torch.int64)


def restore_random_state(random_numbers: random.Random, state: Tensor) -> None:
    """Restores what `random_state` returned; the sequence of random numbers continues from there."""
    random_numbers.setstate((_RANDOM_STATE_VERSION, tuple(state.tolist()), None))
