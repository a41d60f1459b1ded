"""Label maps: from class and instance numbers to the semantic tensor S, and Cityscapes' training classes.

Suffixes: N images, C planes, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from components.catlib.data.packed import DONT_CARE

CITYSCAPES_TRAIN_IDS = {
    7: 0,  # road
    8: 1,  # sidewalk
    11: 2,  # building
    12: 3,  # wall
    13: 4,  # fence
    17: 5,  # pole
    19: 6,  # traffic light
    20: 7,  # traffic sign
    21: 8,  # vegetation
    22: 9,  # terrain
    23: 10,  # sky
    24: 11,  # person
    25: 12,  # rider
    26: 13,  # car
    27: 14,  # truck
    28: 15,  # bus
    31: 16,  # train
    32: 17,  # motorcycle
    33: 18,  # bicycle
}
"""Cityscapes label id -> one of the 19 classes that are scored; every other id is ignored."""


def semantic_planes(
    labels_NHW: Tensor, instances_NHW: Tensor | None, *, num_labels: int, dont_care_plane: bool = False
) -> Tensor:
    """Makes the input of a SPADE generator (method section 1.2).

    Args:
        labels_NHW: uint8 class numbers, 255 = don't care.
        instances_NHW: Instance ids of any integer type, or None.
        num_labels: Number of classes.
        dont_care_plane: Whether pixels labelled 255 have a plane of their own; otherwise all class planes are 0 there.

    Returns:
        float32 [N, C, H, W] of 0 and 1: one plane per class, then the don't-care plane, then the instance edges.
    """
    classes = [*range(num_labels), DONT_CARE] if dont_care_plane else [*range(num_labels)]
    planes = [one_hot(labels_NHW, classes)]
    if instances_NHW is not None:
        planes.append(instance_edges(instances_NHW).float().unsqueeze(1))
    return torch.cat(planes, dim=1) if len(planes) > 1 else planes[0]


def one_hot(labels_NHW: Tensor, classes: list[int]) -> Tensor:
    """Returns one float32 plane per class, 1 where the uint8 label is that class: [N, C, H, W]."""
    classes_1C11 = torch.tensor(classes, dtype=torch.uint8, device=labels_NHW.device).view(1, -1, 1, 1)
    return (labels_NHW.unsqueeze(1) == classes_1C11).float()


def instance_edges(instances_NHW: Tensor) -> Tensor:
    """Marks pixels with a neighbour (left, right, above, below) of another instance, so both sides of a border.

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


def cityscapes_train_ids(label_ids: ArrayLike) -> NDArray[np.uint8]:
    """Translates Cityscapes label ids into the 19 scored classes.

    Differs: the published implementation maps the licence plate (id −1) to −1, which overflows in 8 bits; it is ignored
    here like every other id that is not scored.

    Args:
        label_ids: Integers of any type and shape.

    Returns:
        uint8 of the same shape: 0 … 18, or 255 for ids that are not scored.
    """
    ids = np.asarray(label_ids)
    train_ids = np.full(ids.shape, DONT_CARE, dtype=np.uint8)
    for label_id, train_id in CITYSCAPES_TRAIN_IDS.items():
        train_ids[ids == label_id] = train_id
    return train_ids
