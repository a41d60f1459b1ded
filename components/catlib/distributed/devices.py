"""Which device a training runs on and how it computes there."""

from __future__ import annotations

import datetime
import logging
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from components.catlib.config import TrainingConfig
from components.catlib.errors import UserError

LONGEST_WAIT = datetime.timedelta(hours=4)
"""How long processes wait for the first one, which alone scores held-out images and reads and writes files."""

MIXED_PRECISION: dict[str, Literal["no", "bf16", "fp16"]] = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def open_accelerator(config: TrainingConfig) -> Accelerator:
    """Takes this process's device: a GPU where there is one; with `torchrun`, the one of its local rank.

    Of several processes only the first one logs what is not a warning.

    Args:
        config: `precision` and `tf32`.

    Raises:
        UserError: fp16 is asked for where there is no GPU.
    """
    torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = config.tf32
    wanted = MIXED_PRECISION[config.precision]
    if wanted == "fp16" and not torch.cuda.is_available():
        raise UserError("precision fp16 needs a GPU, and there is none; use bf16 or fp32.")
    # accelerate keeps one precision for a process, but a teacher may be trained in another than its student.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision=wanted,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
    )
    if not accelerator.is_main_process:
        logging.getLogger("components").setLevel(logging.WARNING)
    return accelerator
