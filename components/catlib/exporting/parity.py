"""Checks that an exported generator computes what PyTorch computes, and times both.

Shape suffixes: N images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from components.catlib.distributed.machines import torch_machine
from components.catlib.exporting.onnx_file import INPUT, OUTPUT
from components.catlib.networks.generator import Generator
from components.catlib.timing import Machine, Measured, measure


@dataclass(frozen=True)
class Parity:
    """The difference between ONNX Runtime's and PyTorch's images.

    Attributes:
        largest: Largest absolute difference of a value, images in [-1, 1].
        mean: Mean absolute difference.
        shapes: Shapes of the batches that were compared.
    """

    largest: float
    mean: float
    shapes: tuple[tuple[int, ...], ...]


def cpu_session(model: Path | bytes, threads: int) -> onnxruntime.InferenceSession:
    """Loads an ONNX file, or its content, for a number of CPU threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)


class OnnxGenerator:
    """An exported generator run by ONNX Runtime on the CPU.

    Args:
        model: The file, or its content.
        threads: Number of threads; None: as many as PyTorch uses.
    """

    def __init__(self, model: Path | bytes, *, threads: int | None = None) -> None:
        self._session = cpu_session(model, threads or torch.get_num_threads())

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        """Translates float32 images [N, C, H, W] to images [N, C', H, W] in [-1, 1]."""
        (translated,) = self._session.run([OUTPUT], {INPUT: images_NCHW.numpy()})
        return torch.from_numpy(np.asarray(translated))


def compare(generator: Generator, exported: OnnxGenerator, batches: Sequence[Tensor]) -> Parity:
    """Runs both networks on the same batches.

    Args:
        generator: The original, on the CPU; it is put in eval mode.
        exported: The same generator after export.
        batches: float32 [N, C, H, W] each, of several N and, if the network takes them, several sizes.

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


def batch_dependence(exported: OnnxGenerator, images_NCHW: Tensor, other_NCHW: Tensor) -> float:
    """Returns how much a file's image of each input changes when others are in its batch, at most, in [-1, 1] values.

    Args:
        exported: The generator after export.
        images_NCHW: The inputs, float32, at least one.
        other_NCHW: Further ones of the same size that come with them in the batch, unlike them, at least one.
    """
    within = exported(torch.cat([images_NCHW, other_NCHW]))
    alone = torch.cat([exported(image[None]) for image in images_NCHW])
    return (within[: len(alone)] - alone).abs().max().item()


def parity_batches(images_NCHW: Tensor, *, size_step: int | None) -> list[Tensor]:
    """Returns the batches on which an export is checked: one image, several, and other sizes if the network takes them.

    Args:
        images_NCHW: Inputs to compare on, at least one.
        size_step: Step in pixels between sizes; None if the network takes one size only.
    """
    batches = [images_NCHW[:1], images_NCHW]
    if size_step is not None:
        wider = torch.cat([images_NCHW[:1], images_NCHW[:1, :, :, :size_step]], dim=3)
        taller = torch.cat([images_NCHW, images_NCHW], dim=2)
        batches += [wider, taller[:1]]
    return batches


def time_both(
    generator: Generator, exported: OnnxGenerator, image_NCHW: Tensor, *, repeats: int
) -> dict[str, Measured]:
    """Times PyTorch and ONNX Runtime on the same batch, in turn.

    Args:
        generator: The original, on the CPU; it is put in eval mode.
        exported: The same generator after export.
        image_NCHW: The batch, float32.
        repeats: Number of timed rounds.

    Returns:
        The times of "torch" and "onnxruntime".
    """
    generator.eval()
    with torch.no_grad():
        return measure(
            {"torch": lambda: generator(image_NCHW), "onnxruntime": lambda: exported(image_NCHW)},
            repeats=repeats,
            machine=torch_machine(),
        )


def time_alone(exported: OnnxGenerator, image_NCHW: Tensor, *, repeats: int) -> dict[str, Measured]:
    """Times a generator that has one thread by itself, as its user runs it: what a budget in milliseconds means.

    Args:
        exported: The generator after export, with one thread.
        image_NCHW: The batch, float32.
        repeats: Number of timed rounds.

    Returns:
        The times of "onnxruntime_one_thread".
    """
    return measure(
        {"onnxruntime_one_thread": lambda: exported(image_NCHW)}, repeats=repeats, machine=Machine(threads=1)
    )
