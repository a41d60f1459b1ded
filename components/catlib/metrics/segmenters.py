"""Segmenters: networks that read classes off generated images, to compare them with the true classes.

The protocol (method section 7): the image, rounded to 8 bits, is normalised as the segmenter was trained; its logits
are resized bilinearly to the size of the ground truth (Cityscapes: 1024×2048); each pixel gets the class of the largest
logit; pixels are counted in a confusion matrix of 19 classes, pixels without a scored class are not.

Differs: the published implementation truncates colours to 8 bits; here they are rounded.

Shape suffixes: N images, C channels or classes, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from components.catlib.artifacts import file_sha256
from components.catlib.config import SegmenterConfig
from components.catlib.errors import UserError
from components.catlib.metrics import drn
from components.catlib.metrics.segmentation import CITYSCAPES_CLASSES, confusion_matrix
from components.catlib.networks.published.reading import check_file, first_line
from components.catlib.storage import local_copy

Network = Callable[[Tensor], Tensor]
"""From normalised images, float32 [N, 3, H, W], to logits [N, 19, h, w]."""


class SegmenterIdentity(BaseModel):
    """Which segmenter made a number; numbers of different identities must not be compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Literal["drn_d_105", "onnx"] = Field(description="the network")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="digest of the file of its weights")
    input_size: tuple[int, int] | None = Field(
        description="height, width that images are resized to; None: as they are"
    )
    mean: tuple[float, float, float] = Field(description="subtracted from colours in [0, 1]")
    std: tuple[float, float, float] = Field(description="divides them after that")


class Segmenter:
    """A frozen network that gives every pixel one of Cityscapes' scored classes.

    Attributes:
        identity: Which network it is.
    """

    def __init__(self, network: Network, identity: SegmenterIdentity, device: torch.device) -> None:
        """Takes a network; `read_segmenter` makes one from a file."""
        self.identity = identity
        self._network = network
        self._device = device
        self._mean = torch.tensor(identity.mean, device=device).reshape(3, 1, 1)
        self._std = torch.tensor(identity.std, device=device).reshape(3, 1, 1)

    @torch.inference_mode()
    def classes(self, image_CHW: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Reads the classes off one image.

        Args:
            image_CHW: uint8 RGB [3, H, W].
            size: Height and width of the result.

        Returns:
            uint8 [height, width], 0 … 18.

        Raises:
            UserError: The network does not take the image, or does not return 19 finite scores per pixel.
        """
        assert image_CHW.dtype == torch.uint8, f"segmenters take uint8 images, got {image_CHW.dtype}"
        image_NCHW = image_CHW[None].to(self._device).float() / 255
        if self.identity.input_size is not None:
            image_NCHW = _resized(image_NCHW, self.identity.input_size)
        logits_NCHW = self._network((image_NCHW - self._mean) / self._std)
        if logits_NCHW.ndim != 4 or logits_NCHW.shape[:2] != (1, CITYSCAPES_CLASSES):
            raise UserError(
                f"The segmenter gives scores of shape {list(logits_NCHW.shape)} for one image; expected "
                f"[1, {CITYSCAPES_CLASSES}, height, width], a score for each of Cityscapes' scored classes."
            )
        if not torch.isfinite(logits_NCHW).all():
            raise UserError("The segmenter gives scores that hold NaN or infinity; check its weights, mean and std.")
        return _resized(logits_NCHW.float(), size)[0].argmax(dim=0).to(torch.uint8).cpu().numpy()

    def confusions(self, images_NCHW: Tensor, labels: list[NDArray[np.uint8]]) -> NDArray[np.int64]:
        """Counts pixels of generated images by true and seen class.

        Args:
            images_NCHW: uint8 RGB [N, 3, H, W].
            labels: True classes [height, width] of each image; 255 is not counted.

        Returns:
            [N, 19, 19]: row = true class, column = seen class.
        """
        return np.stack([
            confusion_matrix(truth, self.classes(image_CHW, (truth.shape[0], truth.shape[1])))
            for image_CHW, truth in zip(images_NCHW, labels, strict=True)
        ])  # fmt: skip


def read_segmenter(config: SegmenterConfig, device: str | torch.device = "cpu") -> Segmenter:
    """Reads a segmenter from its file.

    Args:
        config: Which network, its file and its normalisation.
        device: Device that it computes on; an ONNX file computes on the CPU.

    Raises:
        UserError: The file is missing, has another digest, or does not hold such a network.
    """
    device = torch.device(device)
    path = local_copy(config.weights.uri)
    match config.architecture:
        case "drn_d_105":
            network: Network = drn.read_drn(path, sha256=config.weights.sha256).to(device)
        case "onnx":
            device = torch.device("cpu")
            network = _OnnxNetwork(path, sha256=config.weights.sha256)
    identity = SegmenterIdentity(
        architecture=config.architecture,
        sha256=config.weights.sha256 or file_sha256(path),
        input_size=config.input_size,
        mean=config.mean or drn.MEAN,
        std=config.std or drn.STD,
    )
    return Segmenter(network, identity, device)


class _OnnxNetwork:
    """A network in an ONNX file."""

    def __init__(self, path: Path, *, sha256: str | None) -> None:
        import onnxruntime  # most runs need no segmenter, and some machines that train have no ONNX Runtime

        check_file(path, sha256=sha256)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors come as exceptions
        try:
            self._session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # an untrusted file can make the reader fail in any way
            raise UserError(f"Segmenter {path} is not an ONNX file of a network ({first_line(error)}).") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._path = path
        self._input = inputs[0].name
        for tensor, channels, what in ((inputs[0], 3, "input"), (outputs[0], CITYSCAPES_CLASSES, "output")):
            fitting = tensor.type == "tensor(float)" and len(tensor.shape) == 4
            if not fitting or (isinstance(tensor.shape[1], int) and tensor.shape[1] != channels) or len(inputs) > 1:
                raise UserError(
                    f"Segmenter {path}: {what} {tensor.name} is {tensor.type} {tensor.shape}, expected "
                    f"tensor(float) [N, {channels}, height, width] and no other input."
                )

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        try:
            outputs: Any = self._session.run(None, {self._input: images_NCHW.cpu().numpy()})
        except Exception as error:  # as above
            raise UserError(
                f"Segmenter {self._path} fails on images of height × width {images_NCHW.shape[2]}×"
                f"{images_NCHW.shape[3]} ({first_line(error)}); set segmenter.input_size to a "
                "size that it takes."
            ) from error
        return torch.from_numpy(outputs[0])


def _resized(x_NCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes bilinearly, half-pixel centres, as Pillow does: smaller with antialiasing."""
    if tuple(x_NCHW.shape[2:]) == tuple(size):
        return x_NCHW
    return functional.interpolate(x_NCHW, size=size, mode="bilinear", align_corners=False, antialias=True)
