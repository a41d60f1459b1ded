"""Losses are computed in float32 even where networks run in a shorter type."""

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Widens half-precision values to float32; float32 and float64 pass unchanged.

    Args:
        values: Any shape, floating point.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))
