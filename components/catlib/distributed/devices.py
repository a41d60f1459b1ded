"""The device of a training, its precision there, and its place among several processes."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import MethodType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from components.catlib.config import TrainingConfig
from components.catlib.config.resources import ACCELERATORS_VARIABLE
from components.catlib.distributed.ending import joined
from components.catlib.errors import UserError

Precision = Literal["fp32", "bf16", "fp16"]
logger = logging.getLogger(__name__)

_Network = TypeVar("_Network", bound=nn.Module)

LONGEST_WAIT = datetime.timedelta(hours=4)
"""How long processes wait for the first one, which alone scores held-out images and reads and writes files."""

SHORT_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Accelerator:
    """The device of this process, the precision of its networks, and its place among the processes of a training.

    `torchrun` starts several processes; each takes the GPU of its local rank and joins the others. On GPUs they talk by
    NCCL, on CPUs by Gloo.

    Attributes:
        device: The GPU of the local rank; Apple's GPU (MPS), which one process alone uses; or the CPU.
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

        Raises:
            UserError: The task has reserved more accelerators than there are.
        """
        self.precision = precision
        self._measures = False
        self.device = torch.device("cpu") if cpu else _device()
        if self.device.type == "cuda":
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

    @property
    def runs_behind(self) -> bool:
        """Whether the device computes while the program goes on, so that asking for a number waits for it."""
        return self.device.type != "cpu"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Returns a context in which torch uses the short type where it suits; in fp32 the context does nothing."""
        if self.precision == "fp32" or self._measures:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, SHORT_TYPES[self.precision])

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Makes networks compute in float32, without TF32, inside the body, as `measuring_device` does for a stage.

        So scores during a training are those that the stages compute of the same weights.
        """
        tf32, benchmark = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
        self._measures = True
        _set_up_gpus(tf32=False, benchmark=False)
        try:
            yield
        finally:
            self._measures = False
            _set_up_gpus(tf32=tf32, benchmark=benchmark)

    def random_state(self) -> Tensor | None:
        """Returns the state of the device's random numbers, for a checkpoint; None on a CPU."""
        if self.device.type == "cpu":
            return None
        return torch.get_device_module(self.device).get_rng_state(self.device)

    def restore_random_state(self, state: Tensor | None) -> None:
        """Restores what `random_state` returned; that of another kind of device changes nothing."""
        own = self.random_state()
        if own is not None and state is not None and own.shape == state.shape:
            torch.get_device_module(self.device).set_rng_state(state, self.device)

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
    """Takes what there is: the CUDA GPU of this process's local rank, else Apple's GPU (MPS), else the CPU.

    Of several processes, only the first logs below the level of warnings.

    Args:
        config: Supplies `precision`, `tf32`, `cudnn_benchmark`, `compile` and `speed`.

    Raises:
        UserError: The task has reserved more accelerators than there are, or the device cannot do what is asked.
    """
    _set_up_gpus(tf32=config.tf32, benchmark=config.cudnn_benchmark)
    device = _device()
    _check_speed(config, device)
    accelerator = Accelerator(cpu=device.type == "cpu", precision=config.precision)
    if not accelerator.is_main_process:
        logging.getLogger("components").setLevel(logging.WARNING)
    logger.info(
        "trains on %s, in %s%s, by %d process%s",
        _described(device),
        config.precision,
        " with TF32" if config.tf32 and device.type == "cuda" else "",
        accelerator.num_processes,
        "es" if accelerator.num_processes > 1 else "",
    )
    return accelerator


def measuring_device() -> str:
    """Returns where a stage measures images, "cuda" if there is a GPU, else "cpu"; TF32 is off there.

    Raises:
        UserError: The task has reserved more accelerators than there are.
    """
    _set_up_gpus(tf32=False, benchmark=False)
    device = measures_on(_device())
    logger.info("measures on %s", _described(device))
    return device.type


def measures_on(device: torch.device | str) -> torch.device:
    """Returns where images that a device makes are measured: there, but on the CPU for MPS, which lacks float64."""
    device = torch.device(device)
    return torch.device("cpu") if device.type == "mps" else device


def _device() -> torch.device:
    """Returns the GPU of this process's local rank, Apple's GPU, or the CPU of a machine without GPUs."""
    reserved, found = int(os.environ.get(ACCELERATORS_VARIABLE) or 0), torch.cuda.device_count()
    if reserved > found:
        for_gpus = torch.version.cuda or torch.version.hip
        raise UserError(
            f"The task has reserved accelerators ({reserved}), but torch {torch.__version__}, "
            f"{'built for GPUs' if for_gpus else 'built for CPUs alone'}, finds {found}; use the image of flavour "
            "cuda, on a node whose driver serves it, or set resources.profile to cpu."
        )
    if found:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1  # torch has no collective operations for MPS
    return torch.device("mps" if alone and torch.backends.mps.is_available() else "cpu")


def _described(device: torch.device) -> str:
    match device.type:
        case "cuda":
            return f"{torch.cuda.get_device_name(device)} ({device})"
        case "mps":
            return "Apple's GPU (mps)"
        case _:
            threads = torch.get_num_threads()
            return f"the CPU ({threads} thread{'s' * (threads > 1)})"


def _set_up_gpus(*, tf32: bool, benchmark: bool) -> None:
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = benchmark


def _check_speed(config: TrainingConfig, device: torch.device) -> None:
    """Refuses what a device cannot do, before anything is built.

    Raises:
        UserError: `speed: fast` or fp16 without CUDA, or `compile` on MPS or without a compiler.
    """
    if device.type != "cuda" and config.speed == "fast":
        raise UserError(
            f"speed: fast is for CUDA GPUs, and training runs on {_described(device)}; set speed: exact, or use a "
            "machine with such a GPU."
        )
    if device.type != "cuda" and config.precision == "fp16":
        raise UserError("precision fp16 needs a GPU of CUDA, and there is none; use bf16 or fp32.")
    if device.type == "mps" and config.compile:
        raise UserError("compile: true does not work on Apple's GPU (mps); set compile: false.")
    if config.compile:
        _check_compiler(device)


def _check_compiler(device: torch.device) -> None:
    """Refuses to compile networks where nothing can compile the kernels: the first step would fail in a long trace.

    Raises:
        UserError: There is no compiler, or Python's headers are not there.
    """
    variable, usual = ("CC", ("gcc", "clang", "cc")) if device.type == "cuda" else ("CXX", ("g++", "clang++"))
    if not any(shutil.which(command) for command in (os.environ.get(variable), *usual) if command):
        raise UserError(
            f"compile: true needs a compiler ({' or '.join(usual[:2])}), and there is none here; install one, name it "
            f"in {variable}, or set compile: false."
        )
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.is_file():
        raise UserError(
            f"compile: true needs Python's headers, and {headers} does not exist; install them (python3-dev), or set "
            "compile: false."
        )
