"""The generator as an ONNX file, and the proof that the file computes what PyTorch computes.

Suffixes: N images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.helper import set_model_props
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from components.catlib.metrics.latency import Latency, measure_latency
from components.catlib.networks.generators import Generator
from components.catlib.networks.inception.generator import InceptionBlock, InceptionGenerator

INPUT = "image"
OUTPUT = "translated"
SIZE_STEP = 4
"""An inception generator takes any height and width that are multiples of this."""


@dataclass(frozen=True)
class OnnxModel:
    """An exported generator.

    Attributes:
        path: The file; it needs no other file.
        opset: Operator set of the standard domain.
        input_shape: Of `image`; a text where a size is free: ("batch", 3, "4*height", "4*width").
        output_shape: Of `translated`.
        operators: How many nodes of each operator.
    """

    path: Path
    opset: int
    input_shape: tuple[int | str, ...]
    output_shape: tuple[int | str, ...]
    operators: dict[str, int]

    @property
    def any_size(self) -> bool:
        """Whether height and width are free."""
        return isinstance(self.input_shape[2], str)


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime's images are from PyTorch's.

    Attributes:
        largest: Largest absolute difference of a value, images in [-1, 1].
        mean: Mean absolute difference.
        shapes: Shapes of the batches that were compared.
    """

    largest: float
    mean: float
    shapes: tuple[tuple[int, ...], ...]


# ---------------------------------------------------------------------------------------------------------- the network


def inference_copy(generator: Generator) -> Generator:
    """Returns a copy that computes the same images with fewer operations, for export.

    In eval mode a norm with running statistics is one multiplication and addition per channel:

    - an instance norm with running statistics becomes the batch norm that it then equals;
    - a batch norm behind a convolution moves into it (the exporter would do so too, in twice the time);
    - the batch norm over the sum of a block's branches moves into the last convolutions of the branches:
      s · Σ (w_j * x + b_j) + t = Σ (s·w_j * x + s·b_j) + t;
    - a bias that an instance norm takes away again is left out: ONNX Runtime's instance norm is imprecise where means
      are large beside deviations (untrained weights at 256x256: off by 2e-4, without those biases by 9e-6);
    - spectral norm becomes plain weights.
    """
    network = copy.deepcopy(generator).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and hasattr(module, "weight_orig"):
            nn.utils.remove_spectral_norm(module)
    for parent in list(network.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, nn.InstanceNorm2d) and norm.track_running_stats:
                parent.add_module(name, _as_batch_norm(norm))
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            _simplify_norms(module)
        elif isinstance(module, InceptionBlock):
            _simplify_output(module)
    return network


def _as_batch_norm(norm: nn.InstanceNorm2d) -> nn.BatchNorm2d:
    batch_norm = nn.BatchNorm2d(norm.num_features, eps=norm.eps, affine=norm.affine)
    batch_norm.load_state_dict(norm.state_dict())
    return batch_norm.eval()


def _simplify_norms(layers: nn.Sequential) -> None:
    """Removes norms behind single convolutions, or the biases that they make superfluous."""
    for (place, layer), (norm_place, norm) in itertools.pairwise(list(layers.named_children())):
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            continue
        if isinstance(norm, nn.InstanceNorm2d):
            layer.bias = None
        elif isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) and norm.running_mean is not None:
            layers.add_module(place, fuse_conv_bn_eval(layer, norm, isinstance(layer, nn.ConvTranspose2d)))
            layers.add_module(norm_place, nn.Identity())


@torch.no_grad()
def _simplify_output(block: InceptionBlock) -> None:
    """Removes from the end of a block's branches what its output norm makes superfluous, or the norm itself."""
    norm = block.pw_bn
    last_layers = [branch[-1] for branch in (*block.res_ops, *block.dw_ops) if isinstance(branch, nn.Sequential)]
    convolutions = [layer for layer in last_layers if isinstance(layer, nn.Conv2d)]
    if isinstance(norm, nn.InstanceNorm2d):
        for convolution in convolutions:
            convolution.bias = None
    elif isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) and norm.running_mean is not None:
        assert norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        shift = -norm.running_mean * scale
        if norm.affine:
            scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
        for convolution in convolutions:
            convolution.weight.mul_(scale[:, None, None, None])
            bias = shift if convolution.bias is None else convolution.bias * scale + shift
            convolution.bias = nn.Parameter(bias)
            shift = torch.zeros_like(shift)  # once is enough
        block.pw_bn = nn.Identity()


# --------------------------------------------------------------------------------------------------------------- export


def export_generator(
    generator: Generator, path: Path, *, input_size: tuple[int, int], opset: int, metadata: Mapping[str, str]
) -> OnnxModel:
    """Writes a generator as one ONNX file with the input `image` and the output `translated`, float32 [N, C, H, W].

    The batch is of any size. An inception generator takes images of any size that is a multiple of 4; a SPADE generator
    paints images of one size.

    Args:
        generator: The network, on the CPU.
        path: The file to write.
        input_size: Height and width in pixels of the images it is made for.
        opset: ONNX operator set.
        metadata: Texts to keep in the file, by name.

    Raises:
        onnx.checker.ValidationError: The file is not valid ONNX.
    """
    network = inference_copy(generator)
    # Two images: the exporter takes a dimension of 1 for a constant.
    example_NCHW = torch.zeros(2, _input_channels(generator), *input_size)
    sizes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if isinstance(generator, InceptionGenerator):
        sizes |= {2: SIZE_STEP * torch.export.Dim("height"), 3: SIZE_STEP * torch.export.Dim("width")}
    with torch.no_grad(), _quiet_exporter():
        program = torch.onnx.export(
            network,
            (example_NCHW,),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(sizes,),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _remove_traces(model)
    set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return OnnxModel(
        path=path,
        opset=next(item.version for item in model.opset_import if not item.domain),
        input_shape=_shape(model.graph.input[0]),
        output_shape=_shape(model.graph.output[0]),
        operators=dict(sorted(collections.Counter(node.op_type for node in model.graph.node).items())),
    )


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silences the exporter's account of its optimisation passes."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _remove_traces(model: onnx.ModelProto) -> None:
    """Removes the exporter's notes on where each node came from: half of a small file, and paths of this machine."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _input_channels(generator: Generator) -> int:
    if isinstance(generator, InceptionGenerator):
        return generator.architecture.in_channels
    return generator.architecture.semantic_channels


# ---------------------------------------------------------------------------------------------------------------- proof


class OnnxGenerator:
    """An exported generator run by ONNX Runtime on the CPU, with as many threads as PyTorch uses."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        """Translates float32 images [N, C, H, W] to images [N, C', H, W] in [-1, 1]."""
        (translated,) = self._session.run([OUTPUT], {INPUT: images_NCHW.numpy()})
        return torch.from_numpy(np.asarray(translated))


def compare(generator: Generator, exported: OnnxGenerator, batches: Sequence[Tensor]) -> Parity:
    """Runs both networks on the same batches.

    Args:
        generator: The original, on the CPU; put in eval mode.
        exported: What came of it.
        batches: float32 [N, C, H, W] each, of several N and, if the network takes any, several sizes.

    Raises:
        RuntimeError: The images differ in shape, or values are not finite.
    """
    generator.eval()
    differences = []
    for batch in batches:
        with torch.no_grad():
            expected = generator(batch)
        found = exported(batch)
        if found.shape != expected.shape:
            raise RuntimeError(
                f"The ONNX model makes images of shape {list(found.shape)} where PyTorch makes {list(expected.shape)}."
            )
        differences.append((found - expected).abs())
        if not torch.isfinite(differences[-1]).all():
            raise RuntimeError("The generator makes values that are not finite; its training diverged, train it again.")
    values = torch.cat([difference.flatten() for difference in differences])
    return Parity(values.max().item(), values.mean().item(), tuple(tuple(batch.shape) for batch in batches))


def parity_batches(images_NCHW: Tensor, *, any_size: bool) -> list[Tensor]:
    """Returns the batches on which an export is checked: one image, several, and other sizes if there may be any.

    Args:
        images_NCHW: Images to compare on, at least one.
        any_size: Whether the network takes images of other sizes.
    """
    batches = [images_NCHW[:1], images_NCHW]
    if any_size:
        wider = torch.cat([images_NCHW[:1], images_NCHW[:1, :, :, :SIZE_STEP]], dim=3)
        taller = torch.cat([images_NCHW, images_NCHW], dim=2)
        batches += [wider, taller[:1]]
    return batches


def noise_images(generator: Generator, *, count: int, input_size: tuple[int, int], seed: int = 0) -> Tensor:
    """Returns noise to compare on, float32 [count, C, H, W]: uniform in [-1, 1], for labels random one-hot planes."""
    random = torch.Generator().manual_seed(seed)
    channels = _input_channels(generator)
    if isinstance(generator, InceptionGenerator):
        return torch.rand(count, channels, *input_size, generator=random) * 2 - 1
    labels_NHW = torch.randint(channels, (count, *input_size), generator=random)
    return nn.functional.one_hot(labels_NHW, channels).permute(0, 3, 1, 2).float().contiguous()


def time_both(generator: Generator, exported: OnnxGenerator, image_NCHW: Tensor, *, repeats: int) -> dict[str, Latency]:
    """Times PyTorch and ONNX Runtime on the same batch, in turn; keys "torch" and "onnxruntime"."""
    generator.eval()
    with torch.no_grad():
        return measure_latency(
            {"torch": lambda: generator(image_NCHW), "onnxruntime": lambda: exported(image_NCHW)}, repeats=repeats
        )
