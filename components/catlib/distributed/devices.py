"""The device of a training, its precision there, and its place among several processes."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
from types import MethodType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from components.catlib.config import TrainingConfig
from components.catlib.distributed.ending import joined
from components.catlib.errors import UserError

Precision = Literal["fp32", "bf16", "fp16"]
_Network = TypeVar("_Network", bound=nn.Module)

LONGEST_WAIT = datetime.timedelta(hours=4)
"""How long processes wait for the first one, which alone scores held-out images and reads and writes files."""

SHORT_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Accelerator:
    """The device of this process, the precision of its networks, and its place among the processes of a training.

    `torchrun` starts several processes; each takes the GPU of its local rank and joins the others. On GPUs they talk by
    NCCL, on CPUs by Gloo.

    Attributes:
        device: The GPU of the local rank, or the CPU.
        precision: `fp32`: networks compute as they are; `bf16`, `fp16`: networks compute in the short type, and their
            weights, outputs and losses stay float32.
        num_processes: Number of processes that train together.
        process_index: Number of this process, from 0.
        scaler: Multiplies losses, so that small gradients do not vanish in fp16; None in other precisions.
    """

    def __init__(self, *, cpu: bool = False, precision: Precision = "fp32") -> None:
        """Takes the device and joins the other processes, if there are any.

        Args:
            cpu: Whether to compute on the CPU even where there is a GPU.
            precision: Precision of networks, as the attribute describes.
        """
        self.precision = precision
        if cpu or not torch.cuda.is_available():
            self.device = torch.device("cpu")
        else:
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)
        self.num_processes = int(os.environ.get("WORLD_SIZE", "1"))
        if self.num_processes > 1 and not distributed.is_initialized():
            backend, others = "gloo" if self.device.type == "cpu" else "nccl", joined()
            place = {"store": others.store, "rank": others.rank, "world_size": others.size} if others else {}
            distributed.init_process_group(backend, timeout=LONGEST_WAIT, **place)
        self.process_index = distributed.get_rank() if self.num_processes > 1 else 0
        self.scaler = torch.amp.GradScaler(self.device.type) if precision == "fp16" else None

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the first one, which reads and writes for all."""
        return self.process_index == 0

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Returns a context in which torch uses the short type where it suits; in fp32 the context does nothing."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, SHORT_TYPES[self.precision])

    def prepare(self, network: _Network) -> _Network:
        """Moves a network to the device and makes its calls compute in the precision and return float32.

        Args:
            network: Changed in place.

        Returns:
            The network.
        """
        network.to(self.device)
        if self.precision != "fp32":
            in_full = type(network).forward

            def forward(network: nn.Module, *arguments: Any, **keywords: Any) -> Any:
                with self.autocast():
                    outputs = in_full(network, *arguments, **keywords)
                return _widened(outputs)

            # A method of the instance, so that a deep copy of the network calls its own layers.
            network.forward = MethodType(forward, network)
        return network

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a scalar, scaled in fp16, to the parameters that it depends on."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, optimizer: Optimizer) -> None:
        """Takes an optimiser's step; in fp16 it unscales gradients first, and skips the step if one has overflowed."""
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()

    def mean(self, values: Tensor) -> Tensor:
        """Returns the mean over the processes of values that each of them has."""
        if self.num_processes == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total / self.num_processes


def _widened(outputs: Any) -> Any:
    """Returns a network's outputs with bfloat16 and float16 tensors as float32; containers keep their kind."""
    match outputs:
        case Tensor(dtype=torch.bfloat16 | torch.float16):
            return outputs.float()
        case dict():
            return {name: _widened(output) for name, output in outputs.items()}
        case list():
            return [_widened(output) for output in outputs]
        case tuple():
            return tuple(_widened(output) for output in outputs)
        case _:
            return outputs


def open_accelerator(config: TrainingConfig) -> Accelerator:
    """Takes this process's device: a GPU if there is one; with `torchrun`, the GPU of its local rank.

    Of several processes, only the first logs below the level of warnings.

    Args:
        config: Supplies `precision` and `tf32`.

    Raises:
        UserError: The precision is fp16, and there is no GPU.
    """
    torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = config.tf32
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise UserError("precision fp16 needs a GPU, and there is none; use bf16 or fp32.")
    accelerator = Accelerator(precision=config.precision)
    if not accelerator.is_main_process:
        logging.getLogger("components").setLevel(logging.WARNING)
    return accelerator
