"""MACs and parameters of a generator: arithmetic over its table of layers.

MACs are multiply-accumulates of one forward pass for one image. There are two conventions, which are never mixed:

- *paper MACs* are what the published implementation counts; budgets are written in them. A transposed convolution
  counts at its output size. A norm without running statistics counts one MAC per value.
- *true MACs* are the multiply-adds that a device does. A transposed convolution counts at its input size (a quarter at
  stride 2). Norms are free, because they fold into convolutions or cost next to nothing.

In both, biases, padding, activations, resizing and sums are free. A 3x3 convolution from 2 to 4 channels that makes
8x8 pixels costs 2·4·9·64 = 4608 MACs.
"""

from components.catlib.networks.architecture import GeneratorArchitecture
from components.catlib.networks.layers import Layer


def layer_paper_macs(layer: Layer) -> int:
    """Returns the MACs of one layer for one image as the published implementation counts them (method section 5)."""
    if layer.kind == "norm":
        return 0 if layer.tracks_running_stats else layer.out_channels * layer.output_size[0] * layer.output_size[1]
    height, width = layer.input_size if layer.kind == "conv_subpixel" else layer.output_size
    return _weights(layer) * height * width


def layer_true_macs(layer: Layer) -> int:
    """Returns the multiply-adds of one layer for one image: half of what torch's FLOP counter reports."""
    if layer.kind == "norm":
        return 0
    height, width = layer.input_size if layer.kind in ("conv_transpose", "conv_subpixel") else layer.output_size
    return _weights(layer) * height * width


def layer_parameters(layer: Layer) -> int:
    """Returns the number of learned values of one layer."""
    if layer.kind == "norm":
        return 2 * layer.out_channels if layer.affine else 0
    return _weights(layer) + (filters(layer) if layer.affine else 0)


def paper_macs(architecture: GeneratorArchitecture, height: int, width: int) -> int:
    """Returns the MACs of a generator for one image of this size in pixels, as budgets count them.

    Differs: a SPADE block without branches counts as its shortcut alone; the published implementation still reports the
    teacher's MACs for the block's SPADE norm, which no longer runs.
    """
    return sum(map(layer_paper_macs, architecture.layers(height, width)))


def true_macs(architecture: GeneratorArchitecture, height: int, width: int) -> int:
    """Returns the multiply-adds of a generator for one image of this size in pixels."""
    return sum(map(layer_true_macs, architecture.layers(height, width)))


def parameters(architecture: GeneratorArchitecture) -> int:
    """Returns the number of learned values of a generator."""
    any_size = (4, 4)
    return sum(map(layer_parameters, architecture.layers(*any_size)))


def filters(layer: Layer) -> int:
    """Returns the number of filters of a convolution: one per channel made, or four where these become 2x2 pixels."""
    return 4 * layer.out_channels if layer.kind == "conv_subpixel" else layer.out_channels


def _weights(layer: Layer) -> int:
    return layer.in_channels * filters(layer) * layer.kernel_size**2 // layer.groups
