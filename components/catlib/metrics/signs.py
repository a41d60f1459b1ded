"""Signs of a generator's health, measured on a few images: no scores, but what shows why scores are bad.

All are shares or ratios, so that they mean the same for every kind of image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NUM_IMAGES = 8
"""Images that generators are looked at with."""

NEARLY_FULL = 0.98
"""Generated values beyond ±0.98 count as saturated."""


@torch.inference_mode()
def look_at(generator: nn.Module, inputs: Tensor, real: Tensor) -> dict[str, float]:
    """Looks at a generator in eval mode and restores its mode; no random number is drawn.

    Args:
        generator: On the device of the images.
        inputs: Its inputs [N, C, H, W], at least two.
        real: Real images [M, C', H', W'] of the domain that it translates to, at least two, in [-1, 1].

    Returns:
        `variation`: how much generated images differ from each other, relative to how much real ones do.
        `saturation`: share of generated values at the ends of their range, less that of real ones.
        `batch_dependence`: how much an image depends on what else is in its batch, relative to how much real ones
        differ.
    """
    was_training = generator.training
    generator.eval()
    made, alone = generator(inputs).float(), generator(inputs[:1]).float()
    generator.train(was_training)
    spread = real.float().std(dim=0).mean().clamp(min=1e-6)
    signs = {
        "variation": made.std(dim=0).mean() / spread,
        "saturation": (made.abs() > NEARLY_FULL).float().mean() - (real.abs() > NEARLY_FULL).float().mean(),
        "batch_dependence": (made[:1] - alone).abs().mean() / spread,
    }
    return dict(zip(signs, torch.stack(list(signs.values())).tolist(), strict=True))
