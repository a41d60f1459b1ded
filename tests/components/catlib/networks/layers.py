"""Reads off a network what an architecture promises about it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from components.catlib.networks.families import Architecture, build_generator
from components.catlib.networks.upsampling import ResizeConvolution, SubpixelConvolution

KINDS: dict[type[nn.Module], tuple[str, int]] = {
    nn.ConvTranspose2d: ("conv_transpose", 1),
    ResizeConvolution: ("conv_resize", 1),
    SubpixelConvolution: ("conv_subpixel", 4),
}
"""Kinds of layers that double the size, and the filters per channel that they make."""


def check_against_table(architecture: Architecture, x: Tensor) -> None:
    """Compares every convolution and norm that runs, by name, shape, options and sizes, with the table."""
    generator = build_generator(architecture).eval()
    found: dict[str, tuple[Any, ...]] = {}

    def record(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, _NormBase):
            sizes = tuple(inputs[0].shape[-2:]), tuple(output.shape[-2:])
            found[name] = ("norm", module.num_features, module.affine, module.track_running_stats, *sizes)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            padded_before = module.kernel_size[0] - 1 - 2 * module.padding[0]  # by a module of its own
            sizes = tuple(size - padded_before for size in inputs[0].shape[-2:]), tuple(output.shape[-2:])
            kind, repeated = KINDS.get(type(module), ("conv", 1))
            if kind in ("conv_resize", "conv_subpixel"):
                sizes = tuple(inputs[0].shape[-2:]), tuple(output.shape[-2:])
            channels = (module.in_channels, module.out_channels // repeated, module.kernel_size[0], module.groups)
            found[name] = (kind, *channels, module.bias is not None, *sizes)

    for name, module in generator.named_modules():
        module.register_forward_hook(lambda module, inputs, output, name=name: record(name, module, inputs, output))
    with torch.no_grad():
        generator(x)
    promised: dict[str, tuple[Any, ...]] = {}
    for layer in architecture.layers(*x.shape[-2:]):
        sizes = layer.input_size, layer.output_size
        if layer.kind == "norm":
            promised[layer.name] = ("norm", layer.out_channels, layer.affine, layer.tracks_running_stats, *sizes)
        else:
            channels = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.groups)
            promised[layer.name] = (layer.kind, *channels, layer.affine, *sizes)
    assert found == promised
    of_layers = {name.rpartition(".")[0] for name in generator.state_dict()}
    parameter_free = {
        layer.name
        for layer in architecture.layers(*x.shape[-2:])
        if layer.kind == "norm" and not layer.affine and not layer.tracks_running_stats
    }
    assert of_layers == set(promised) - parameter_free


def check_gradients(network: nn.Module, output: Tensor) -> None:
    """Checks that a loss on the output gives every parameter a finite gradient, and all but biases one beyond zero."""
    (output * torch.linspace(-1, 1, output.numel()).reshape(output.shape)).sum().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not without
    gradients = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    # Biases in front of a norm have a gradient of zero: the norm removes them.
    zero = [name for name, gradient in gradients.items() if not gradient.any() and not name.endswith(".bias")]
    assert not zero
