"""A student as it may come out of pruning, before there is a teacher: every layer keeps the same share of channels."""

from __future__ import annotations

from components.catlib.networks.architecture import GeneratorArchitecture
from components.catlib.networks.layers import ImageSize
from components.catlib.networks.macs import paper_macs

_HALVINGS = 16
"""How often the interval of shares is halved."""


def evenly_pruned(teacher: GeneratorArchitecture, size: ImageSize, macs: int) -> GeneratorArchitecture:
    """Returns the widest generator of at most this many MACs whose layers all keep one share of their channels.

    Args:
        teacher: The architecture to cut from.
        size: Height and width of the images in pixels.
        macs: MACs for one image; if even one channel per layer needs more, the narrowest generator is returned.
    """
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        fits = paper_macs(_with_share(teacher, share), *size) <= macs
        low, high = (share, high) if fits else (low, share)
    return _with_share(teacher, low)


def _with_share(teacher: GeneratorArchitecture, share: float) -> GeneratorArchitecture:
    widths = {
        norm.name: max(1, int(share * norm.channels / norm.multiple)) * norm.multiple
        for norm in teacher.prunable_norms()
    }
    return teacher.resized(widths)
