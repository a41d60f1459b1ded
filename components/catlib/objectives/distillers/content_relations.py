"""CRD, content relationship distillation: relations between the parts of an image (You et al. 2022, arXiv:2212.11091).

The images of teacher and student are sliced into strips of rows, strips of columns, and patches. The student learns not
the parts but how they relate, with the two relations of relational knowledge distillation (Park et al., CVPR 2019,
section 3.2). With t_i the pixels of a part and μ the mean distance of all pairs of the image:

    distance  ψ(i, j) = ‖t_i − t_j‖₂ / μ
    angle     ψ(i, j, k) = cos ∠ t_i t_j t_k = ⟨(t_i − t_j) / ‖t_i − t_j‖₂, (t_k − t_j) / ‖t_k − t_j‖₂⟩

The loss is the mean Huber distance (δ = 1) of the teacher's relations to the student's, with angles weighed twice, as
there. Example: strips 0, 1 and 3 of one grey value each have the distances 1, 3 and 2, μ = 2, relations 0.5, 1.5 and 1.

Differs: μ is that of each image, and lengths that divide, μ included, count as at least a tenth of the teacher's μ.
Relations are the same at every contrast, so the gradient of an image grows as 1 / contrast. That of a nearly flat image
would drown every other loss and leave the image flat, as it did with students of label maps. The online teacher
discriminator of the CRD paper is not part of this loss.

Shape suffixes: N batch, P parts of an image, D values of a part, C channels, H height, W width.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from components.catlib.config.distillers import ContentRelationsConfig
from components.catlib.objectives.precision import at_least_float32

ANGLE_WEIGHT = 2.0
"""Weight of angles; that of distances is 1 (Park et al., section 4: 50 and 25)."""

SMALLEST_CONTRAST = 0.1
"""Lengths by which relations divide count as at least this share of the mean distance in the teacher's image."""

SMALLEST_SQUARE = 1e-12
"""Parts whose squared distance is smaller count as equal: rounding decides about their direction."""


class ContentRelations:
    """Compares images by the relations of their strips and patches."""

    def __init__(self, config: ContentRelationsConfig) -> None:
        """Takes the number of strips."""
        self._parts = config.parts

    def __call__(self, image: Tensor, wanted: Tensor) -> Tensor:
        """Returns the loss of images [N, C, H, W] in [-1, 1], summed over strips of rows and of columns, and patches.

        It is a scalar, at least float32.
        """
        with torch.autocast(device_type=image.device.type, enabled=False):
            return torch.stack([_relation_loss(*parts) for parts in self._sliced(image, wanted)]).sum()

    def _sliced(self, image: Tensor, wanted: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        rows, columns = (_dividing(side, self._parts) for side in image.shape[-2:])
        for down, right in ((rows, 1), (1, columns), (rows, columns)):
            if down * right > 1:
                yield sliced(at_least_float32(image), down, right), sliced(at_least_float32(wanted), down, right)


def _dividing(side: int, most: int) -> int:
    """Returns into how many equal parts, at most this many, a side can be cut."""
    return max(parts for parts in range(1, most + 1) if side % parts == 0)


def sliced(image_NCHW: Tensor, rows: int, columns: int) -> Tensor:
    """Cuts images into rows x columns equal parts and returns their values, [N, P, D]."""
    count, channels, height, width = image_NCHW.shape
    grid = image_NCHW.reshape(count, channels, rows, height // rows, columns, width // columns)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(count, rows * columns, -1)


def relations(parts_NPD: Tensor, smallest_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Returns the distances [N, P, P] and angles [N, P, P, P], the latter as cosines at their second index.

    A part has no distance to itself, and no angle with it: both are 0.

    Args:
        parts_NPD: The parts of images.
        smallest_N: What lengths that divide count as at least, by image; None: nothing.
    """
    gram, energy, distances = _distances(parts_NPD)
    smallest_N11 = distances.new_zeros(len(distances), 1, 1) if smallest_N is None else smallest_N[:, None, None]
    smallest_N11 = smallest_N11.clamp_min(SMALLEST_SQUARE**0.5)
    lengths = distances.maximum(smallest_N11)
    # ⟨t_i − t_j, t_k − t_j⟩ without the differences, which would take P times the memory of the parts.
    products = gram[:, :, None, :] - gram[:, :, :, None] - gram[:, None, :, :] + energy[:, None, :, None]
    apart = distances > 0
    seen = apart[:, :, :, None] & apart[:, None, :, :]
    cosines = torch.where(seen, products / (lengths[:, :, :, None] * lengths[:, None, :, :]), 0.0)
    return distances / mean_distance(distances)[:, None, None].maximum(smallest_N11), cosines


def _distances(parts_NPD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the products of centred parts [N, P, P], their squares [N, P], and the distances of parts [N, P, P]."""
    centred = parts_NPD - parts_NPD.mean(dim=1, keepdim=True)
    gram = centred @ centred.mT
    energy = gram.diagonal(dim1=1, dim2=2)
    squares = energy[:, :, None] + energy[:, None, :] - 2 * gram
    apart = squares > SMALLEST_SQUARE
    return gram, energy, torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0)


def mean_distance(distances_NPP: Tensor) -> Tensor:
    """Returns the mean distance of all pairs of different parts, by image [N]."""
    parts = distances_NPP.shape[1]
    return distances_NPP.sum(dim=(1, 2)) / (parts * (parts - 1))


def _relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    smallest_N = SMALLEST_CONTRAST * mean_distance(_distances(teacher)[2])
    (distances, angles), (wanted_distances, wanted_angles) = (
        relations(student, smallest_N),
        relations(teacher, smallest_N),
    )
    return functional.huber_loss(distances, wanted_distances) + ANGLE_WEIGHT * functional.huber_loss(
        angles, wanted_angles
    )
