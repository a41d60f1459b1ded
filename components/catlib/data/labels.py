"""Turns label maps and instance maps into the semantic tensor S.

Suffixes: N images, C planes, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.catlib.data.samples import DONT_CARE


def semantic_planes(
    labels_NHW: Tensor, instances_NHW: Tensor | None, *, num_labels: int, dont_care_plane: bool = False
) -> Tensor:
    """Makes the input of a SPADE generator (method section 1.2).

    Args:
        labels_NHW: uint8 class numbers; 255 means "don't care".
        instances_NHW: Instance ids of any integer type, or None.
        num_labels: Number of classes.
        dont_care_plane: Whether pixels labelled 255 get a plane of their own. All class planes are 0 there either way.

    Returns:
        float32 [N, C, H, W] of 0 and 1: one plane per class, then the don't-care plane, then the instance edges; the
        last two only if requested.
    """
    num_images, *size = labels_NHW.shape
    num_planes = num_labels + dont_care_plane + (instances_NHW is not None)
    planes = torch.empty((num_images, num_planes, *size), dtype=torch.float32, device=labels_NHW.device)
    # Made on the device: a list of Python's would have to be copied there, and the program would wait for it.
    classes_1C11 = torch.arange(num_labels, dtype=torch.uint8, device=labels_NHW.device).view(1, -1, 1, 1)
    torch.eq(labels_NHW.unsqueeze(1), classes_1C11, out=planes[:, :num_labels])
    if dont_care_plane:
        planes[:, num_labels] = labels_NHW == DONT_CARE
    if instances_NHW is not None:
        planes[:, -1] = instance_edges(instances_NHW)
    return planes


def instance_edges(instances_NHW: Tensor) -> Tensor:
    """Marks pixels whose left, right, upper or lower neighbour belongs to another instance: both sides of a border.

    Args:
        instances_NHW: Instance ids of any integer type.

    Returns:
        bool [N, H, W].
    """
    edges_NHW = torch.zeros_like(instances_NHW, dtype=torch.bool)
    across = instances_NHW[:, :, 1:] != instances_NHW[:, :, :-1]
    down = instances_NHW[:, 1:, :] != instances_NHW[:, :-1, :]
    edges_NHW[:, :, 1:] |= across
    edges_NHW[:, :, :-1] |= across
    edges_NHW[:, 1:, :] |= down
    edges_NHW[:, :-1, :] |= down
    return edges_NHW
