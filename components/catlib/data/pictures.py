"""Makes pictures for people: label maps in colour, and strips of sample translations."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from components.catlib.data.colours import label_colours
from components.catlib.data.image_conversion import to_uint8

WEBP_QUALITY = 80


def labels_in_colour(planes: Tensor, num_labels: int) -> Tensor:
    """Shows semantic planes as an image: every class in its colour, and black where there is no class.

    Args:
        planes: float32 [N, C, H, W] of 0 and 1. The first `num_labels` planes are the classes; others are not shown.
        num_labels: Number of classes.

    Returns:
        uint8 [N, 3, H, W].
    """
    colours = torch.from_numpy(label_colours(num_labels)).to(planes.device, torch.float32)
    return torch.einsum("nkhw,kc->nchw", planes[:, :num_labels], colours).to(torch.uint8)


def strip(rows: Sequence[Tensor], *, height: int) -> bytes:
    """Puts images side by side in rows, all at the same size.

    Args:
        rows: Float images in [-1, 1] or uint8 images, each [N, 3, H, W]. Image i of every row goes into column i.
        height: Largest height of an image in the picture, in pixels; smaller images are not enlarged.

    Returns:
        The content of a WebP file.
    """
    scale = min(1.0, height / rows[0].shape[2])
    size = (max(1, round(rows[0].shape[3] * scale)), max(1, round(rows[0].shape[2] * scale)))
    picture = Image.new("RGB", (size[0] * max(len(row) for row in rows), size[1] * len(rows)))
    for y, row in enumerate(rows):
        images = row if row.dtype == torch.uint8 else to_uint8(row)
        for x, image in enumerate(images.permute(0, 2, 3, 1).cpu().numpy()):
            picture.paste(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), (x * size[0], y * size[1]))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=WEBP_QUALITY)
    return file.getvalue()
