"""Which way a generator translates: from the images of one domain to those of the other. Importing this loads no torch.

A generator `source_to_target` reads source images and makes target images; the discriminator of the target domain
judges what it makes. CycleGAN has a second generator, `target_to_source`, which is judged by the source domain's.
"""

from enum import StrEnum


class Domain(StrEnum):
    """One of the two kinds of images of a dataset."""

    SOURCE = "source"
    TARGET = "target"


class Direction(StrEnum):
    """What a generator translates; the value is its name in files and recipes."""

    SOURCE_TO_TARGET = "source_to_target"
    TARGET_TO_SOURCE = "target_to_source"

    @property
    def input(self) -> Domain:
        """The domain whose images the generator reads."""
        return Domain.SOURCE if self is Direction.SOURCE_TO_TARGET else Domain.TARGET

    @property
    def output(self) -> Domain:
        """The domain whose images the generator makes; the discriminator of this domain judges them."""
        return Domain.TARGET if self is Direction.SOURCE_TO_TARGET else Domain.SOURCE
