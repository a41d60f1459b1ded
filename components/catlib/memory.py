"""Recognises that memory has run out, whichever library noticed it, and names the setting that helps."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from components.catlib.errors import OutOfMemory, UserError, one_line

BATCHED = ("real_stats", "teacher", "distill", "evaluate")
"""Sections of a recipe with a `batch_size`."""

SECTIONS = ("dataset", "real_stats", "teacher", "prune", "distill", "evaluate", "export", "report")
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


def out_of_memory(error: BaseException, stage: str) -> OutOfMemory | None:
    """Returns the error of one sentence if memory ran out; None for any other exception.

    Args:
        error: What ended the stage. Libraries raise MemoryError, classes of their own, or a RuntimeError whose text
            alone says it; the kernel kills a process of a training.
        stage: Name of the stage, such as "real-stats".
    """
    if isinstance(error, UserError):
        return None
    named = type(error).__name__ == "OutOfMemoryError"  # of torch, which is not loaded here
    text = str(error)
    if named or _ON_ACCELERATOR.search(text):
        return OutOfMemory(
            f"Stage {stage} ran out of memory of the accelerator ({_first_line(error)}); {_accelerator_advice(stage)}."
        )
    if isinstance(error, MemoryError) or _ON_HOST.search(text):
        return OutOfMemory(f"Stage {stage} ran out of memory ({_first_line(error)}); {memory_advice(stage)}.")
    return killed(stage, how=_first_line(error)) if _KILLED.search(text) else None


def killed(stage: str, *, how: str) -> OutOfMemory:
    """Returns the error of a stage of which a process was killed by SIGKILL.

    Args:
        stage: Name of the stage.
        how: How that is known, in a few words: "SIGKILL".
    """
    return OutOfMemory(
        f"Stage {stage} was killed, as the kernel does when memory runs out ({how}); {memory_advice(stage)}."
    )


@contextlib.contextmanager
def telling_out_of_memory(stage: str) -> Iterator[None]:
    """Raises `OutOfMemory` in place of what libraries raise when memory runs out.

    Args:
        stage: Name of the stage that the body runs.
    """
    try:
        yield
    except Exception as error:
        if told := out_of_memory(error, stage):
            raise told from error
        raise


def memory_advice(stage: str, *, on_cluster: bool = False) -> str:
    """Returns which setting gives a stage more memory, and which one lets it need less.

    Args:
        stage: Name of the stage.
        on_cluster: Whether it is known to have run on a cluster.
    """
    section = _section(stage)
    key = f"resources.stages.{section if section in SECTIONS else 'other'}.memory"
    return f"raise {key}{'' if on_cluster else ' on a cluster, free memory on this machine'}{_smaller_batches(section)}"


def _accelerator_advice(stage: str) -> str:
    return f"take an accelerator with more memory{_smaller_batches(_section(stage))}"


def _smaller_batches(section: str) -> str:
    return f", or lower {section}.batch_size" if section in BATCHED else ""


def _section(stage: str) -> str:
    return stage.replace("-", "_")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return one_line(lines[0] if lines else type(error).__name__)[:200].rstrip(".")
