"""Exact rewrites of an inception generator: the same images from operators that ONNX Runtime computes faster.

Every rewrite is an equation about weights. Sums are taken in another order, so values differ in their last digits. The
fast convolutions of ONNX Runtime on the CPU read and make channels in blocks: few outputs leave blocks empty, and
inputs of no multiple of 4 channels miss these convolutions, unless they are so few that they fit into one block.
docs/operations.md has the measured gains.

Shape suffixes: O outputs, I inputs, K kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from components.catlib.exporting.inception_weights import (
    Block,
    Convolution,
    Depthwise,
    InceptionWeights,
    Norm,
    Residual,
)

PHASES = 4
"""Side of the square of output pixels that the last convolution makes at once; height and width are multiples of it."""

BLOCK = 8
"""Channels of a block of ONNX Runtime's convolutions with AVX2 (16 with AVX-512)."""

MULTIPLE = 4
"""Numbers of channels from a block on must be multiples of this."""


def flipped(weight_OIKK: np.ndarray) -> np.ndarray:
    """Returns the weights of the transposed convolution of stride 1 that equals a convolution.

    The convolution y[o, p] = Σ_i Σ_d w[o, i, d] · x[i, p + d] adds up, at p, the products that a transposed convolution
    of w'[i, o, d'] = w[o, i, K - 1 - d'] makes of the pixel q and puts at p = q + d' - (K - 1). So K - 1 pixels of its
    output are cut off on every side. ONNX Runtime computes it as one matrix product with K² · O rows, however few
    outputs there are.

    Returns:
        float32 [I, O, K, K].
    """
    return np.ascontiguousarray(weight_OIKK.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])


def pays_transposed(convolution: Convolution) -> bool:
    """Whether `flipped` makes a convolution faster: its kernel has neighbours, and its outputs fill no two blocks."""
    return convolution.kernel_size > 1 and convolution.weight.shape[0] < 2 * BLOCK


def output_phases(weight_OIKK: np.ndarray) -> np.ndarray:
    """Returns the weights of the convolution of stride 4 whose channels are the pixels of 4x4 squares of the output.

    y[o, 4p + a] = Σ_i Σ_d w[o, i, d] · x[i, 4p + a + d] becomes, with r = a + d, the channel (o, a) of
    Σ_i Σ_r w'[(o, a), i, r] · x[i, 4p + r], where w'[(o, a), i, r] = w[o, i, r - a], 0 outside the kernel. A pixel
    shuffle (DepthToSpace, CRD) then puts channel (o, a) of square p at pixel 4p + a of channel o. There are
    ((K + 3) / K)² times the products, but 16 times the outputs.

    Returns:
        float32 [16 · O, I, K + 3, K + 3].
    """
    out_channels, in_channels, k, _ = weight_OIKK.shape
    side = k + PHASES - 1
    phases = np.zeros((out_channels, PHASES, PHASES, in_channels, side, side), weight_OIKK.dtype)
    for a in range(PHASES):
        for b in range(PHASES):
            phases[:, a, b, :, a : a + k, b : b + k] = weight_OIKK
    return phases.reshape(out_channels * PHASES**2, in_channels, side, side)


def input_parts(channels: int) -> list[int]:
    """Returns the numbers of channels that convolutions read whose sum is one convolution: w * x = Σ_j w_j * x_j.

    18 channels are read as 2 and 16, because 18 miss the blocks and 24 would be a third too many.
    """
    rest = channels % BLOCK
    return [rest, channels - rest] if rest and channels > BLOCK else [channels]


def merge_depthwise(weights: InceptionWeights, activation: str) -> InceptionWeights:
    """Merges the depthwise branches of every block, and 1x1 residual-conv branches if they are depthwise ones too.

    Args:
        weights: The network.
        activation: "relu" or "leaky_relu", the one inside the blocks.
    """
    return replace(weights, blocks=tuple(_merged_block(block, activation) for block in weights.blocks))


def _merged_block(block: Block, activation: str) -> Block:
    if not block.depthwises:
        return block
    pointwise = [each for each in block.residuals if activation == "relu" and is_pointwise(each)]
    branches = [*map(as_depthwise, pointwise), *block.depthwises]
    rest = tuple(each for each in block.residuals if each not in pointwise)
    return replace(block, residuals=rest, depthwises=(merged_depthwise(branches, f"{block.name}.dw_ops.merged"),))


def is_pointwise(branch: Residual) -> bool:
    """Whether a residual-conv branch is two 1x1 convolutions with nothing but an activation between them."""
    return branch.first.kernel_size == 1 and branch.first.norm is None


def as_depthwise(branch: Residual) -> Depthwise:
    """Returns the depthwise branch that equals a pointwise residual-conv branch with ReLU f.

    out · f(in · x) = out · f(1 * f(in · x)), because f(f(x)) = f(x).
    """
    hidden = branch.out.weight.shape[1]
    bias = None if branch.first.bias is None else np.zeros(hidden, np.float32)
    depthwise = Convolution(f"{branch.first.name}.depthwise", np.ones((hidden, 1, 1, 1), np.float32), bias)
    return Depthwise(branch.first, depthwise, branch.out)


def merged_depthwise(branches: Sequence[Depthwise], name: str) -> Depthwise:
    """Returns one depthwise branch that equals the sum of several.

    Σ_j out_j · f(dw_j * f(in_j · x)) = [out_1 … out_n] · f([dw_1; …; dw_n] * f([in_1; …; in_n] · x)), because norms,
    activations f and depthwise convolutions treat every channel by itself. Smaller depthwise kernels become as large as
    the largest by zeros around them, so that the edge's padding is multiplied by 0. Biases of the outputs add up.
    """
    largest = max(branch.depthwise.kernel_size for branch in branches)
    biases = [branch.out.bias for branch in branches if branch.out.bias is not None]
    return Depthwise(
        _stacked(f"{name}.first", [branch.first for branch in branches]),
        _stacked(f"{name}.depthwise", [_enlarged(branch.depthwise, largest) for branch in branches]),
        Convolution(
            f"{name}.out",
            np.concatenate([branch.out.weight for branch in branches], axis=1),
            reduce(np.add, biases) if biases else None,
        ),
    )


def _enlarged(convolution: Convolution, kernel_size: int) -> Convolution:
    border = (kernel_size - convolution.kernel_size) // 2
    return replace(convolution, weight=np.pad(convolution.weight, ((0, 0), (0, 0), (border, border), (border, border))))


def _stacked(name: str, convolutions: Sequence[Convolution]) -> Convolution:
    """Returns one convolution that makes the channels of several; all have a bias and a norm, or none has."""
    norms = [each.norm for each in convolutions if each.norm is not None]
    biases = [each.bias for each in convolutions if each.bias is not None]
    assert len(norms) in (0, len(convolutions)) and len(biases) in (0, len(convolutions)), name
    norm = None
    if norms:
        scale, shift = (np.concatenate([getattr(each, part) for each in norms]) for part in ("scale", "shift"))
        norm = replace(norms[0], scale=scale, shift=shift)
    weight = np.concatenate([each.weight for each in convolutions])
    return Convolution(name, weight, np.concatenate(biases) if biases else None, norm)


def pad_channels(weights: InceptionWeights, *, transposed: bool = True) -> InceptionWeights:
    """Adds zero channels to down layers, features and depthwise branches, so that convolutions read multiples of 4.

    An added channel has weights, bias, scale and shift 0. It is 0 before its norm, behind it ((0 - 0) · 0 + 0), behind
    the activation, and in the sum of a block: 0 + 0. What reads it multiplies it by weights of 0.

    Args:
        weights: The weights.
        transposed: Whether up layers are transposed convolutions, whose weights have their inputs first.
    """
    first, *others = weights.down
    up = weights.up[0]
    return replace(
        weights,
        down=(_wider(first, outputs=True), *(_wider(each, inputs=True, outputs=True) for each in others)),
        blocks=tuple(_wider_block(block) for block in weights.blocks),
        up=(_wider_transposed(up) if transposed else _wider(up, inputs=True), *weights.up[1:]),
    )


def _wider_block(block: Block) -> Block:
    return replace(
        block,
        residuals=tuple(
            Residual(_wider(each.first, inputs=True), _wider(each.out, outputs=True)) for each in block.residuals
        ),
        depthwises=tuple(
            Depthwise(
                _wider(each.first, inputs=True, outputs=True),
                _wider(each.depthwise, outputs=True),
                _wider(each.out, inputs=True, outputs=True),
            )
            for each in block.depthwises
        ),
        norm=_wider_norm(block.norm),
    )


def _wider(convolution: Convolution, *, inputs: bool = False, outputs: bool = False) -> Convolution:
    weight = _with_zeros(convolution.weight, axis=1) if inputs else convolution.weight
    if not outputs:
        return replace(convolution, weight=weight)
    bias = None if convolution.bias is None else _with_zeros(convolution.bias)
    return replace(convolution, weight=_with_zeros(weight), bias=bias, norm=_wider_norm(convolution.norm))


def _wider_transposed(convolution: Convolution) -> Convolution:
    return replace(convolution, weight=_with_zeros(convolution.weight))  # of a transposed one, inputs come first


def _wider_norm(norm: Norm | None) -> Norm | None:
    return norm and replace(norm, scale=_with_zeros(norm.scale), shift=_with_zeros(norm.shift))


def _with_zeros(values: np.ndarray, axis: int = 0) -> np.ndarray:
    count = values.shape[axis]
    added = -count % MULTIPLE if count > BLOCK else 0
    return np.pad(values, [(0, added if each == axis else 0) for each in range(values.ndim)])
