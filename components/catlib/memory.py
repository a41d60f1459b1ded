"""Recognises that memory has run out, whichever library noticed it, and names the setting that helps."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from components.catlib.errors import OutOfMemory, UserError, one_line

BATCHED = ("real_stats", "teacher", "distill", "evaluate")
"""Sections of a recipe with a `batch_size`."""

TRAININGS = ("teacher", "distill")
"""Those of them that train."""

SECTIONS = ("dataset", "real_stats", "teacher", "prune", "distill", "evaluate", "export", "report", "publish")
"""Stages with a name of their own in `resources.stages`; the others are `other`."""

_ON_ACCELERATOR = re.compile(
    r"(CUDA|HIP|XPU|GPU|MPS|NCCL|cuDNN|cuBLAS)[^\n]*(out of memory|failed to allocate)"
    r"|CU(BLAS|DNN|FFT|SOLVER|SPARSE)_STATUS_ALLOC_FAILED|CUDNN_STATUS_\w*DEVICE_ALLOCATION_FAILED",
    re.IGNORECASE,
)
_ON_HOST = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|failed to allocate memory|out of memory"
    r"|unable to allocate|bad allocation|std::bad_alloc|insufficient shared memory",
    re.IGNORECASE,
)
_KILLED = re.compile(r"killed by signal: (9|Killed)|\(SIGKILL\)")


def out_of_memory(error: BaseException, stage: str, savings: str | None = None) -> OutOfMemory | None:
    """Returns the error of one sentence if memory ran out; None for any other exception.

    Args:
        error: What ended the stage. Libraries raise MemoryError, classes of their own, or a RuntimeError whose text
            alone says it; the kernel kills a process of a training.
        stage: Name of the stage, such as "real-stats".
        savings: What makes it need less, such as "lower real_stats.batch_size"; None: what does in any such stage.
    """
    if isinstance(error, UserError):
        return None
    named = type(error).__name__ == "OutOfMemoryError"  # of torch, which is not loaded here
    text = str(error)
    if named or _ON_ACCELERATOR.search(text):
        return OutOfMemory(
            f"Stage {stage} ran out of memory of the accelerator ({_first_line(error)}); take an accelerator with more "
            f"memory{_or(savings or _accelerator_savings(_section(stage)), _section(stage))}."
        )
    if isinstance(error, MemoryError) or _ON_HOST.search(text):
        return OutOfMemory(
            f"Stage {stage} ran out of memory ({_first_line(error)}); {memory_advice(stage, savings=savings)}."
        )
    return killed(stage, how=_first_line(error), savings=savings) if _KILLED.search(text) else None


def killed(stage: str, *, how: str, savings: str | None = None) -> OutOfMemory:
    """Returns the error of a stage of which a process was killed by SIGKILL.

    Args:
        stage: Name of the stage.
        how: How that is known, in a few words: "SIGKILL".
        savings: As for `out_of_memory`.
    """
    return OutOfMemory(
        f"Stage {stage} was killed, as the kernel does when memory runs out ({how}); "
        f"{memory_advice(stage, savings=savings)}."
    )


@contextlib.contextmanager
def telling_out_of_memory(stage: str, savings: str | None = None) -> Iterator[None]:
    """Raises `OutOfMemory` in place of what libraries raise when memory runs out.

    Args:
        stage: Name of the stage that the body runs.
        savings: As for `out_of_memory`.
    """
    try:
        yield
    except Exception as error:
        if told := out_of_memory(error, stage, savings):
            raise told from error
        raise


def memory_advice(stage: str, *, on_cluster: bool = False, savings: str | None = None) -> str:
    """Returns which setting gives a stage more memory, and which ones let it need less.

    Args:
        stage: Name of the stage.
        on_cluster: Whether it is known to have run on a cluster.
        savings: As for `out_of_memory`.
    """
    section = _section(stage)
    key = f"resources.stages.{section if section in SECTIONS else 'other'}.memory"
    more = f"raise {key}{'' if on_cluster else ' on a cluster, free memory on this machine'}"
    return f"{more}{_or(savings, section)}"


def _accelerator_savings(section: str) -> str | None:
    if section not in TRAININGS:
        return None
    return (
        f"set {section}.recompute_activations: true, {section}.images_per_pass or {section}.precision: bf16, or lower "
        f"{section}.batch_size"
    )


def _or(savings: str | None, section: str) -> str:
    """Returns how a stage needs less, to follow how it gets more."""
    savings = savings or (f"lower {section}.batch_size" if section in BATCHED else "")
    return f", or {savings}" if savings else ""


def _section(stage: str) -> str:
    return stage.replace("-", "_")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return one_line(lines[0] if lines else type(error).__name__)[:200].rstrip(".")
