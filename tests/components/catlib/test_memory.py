"""An exhausted memory is recognised whoever noticed it, and told with the setting that helps."""

import errno
import multiprocessing
import resource
import sys

import numpy as np
import pytest
import torch

from components.catlib.config import Recipe, StageResources
from components.catlib.config.resources import StageName
from components.catlib.errors import OutOfMemory, UserError
from components.catlib.memory import BATCHED, SECTIONS, out_of_memory, telling_out_of_memory


@pytest.mark.parametrize(
    ("error", "of"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "accelerator"),
        (torch.OutOfMemoryError("Allocation on device 0 would exceed allowed memory."), "accelerator"),
        (RuntimeError("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."), "accelerator"),
        (RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"), "accelerator"),
        (RuntimeError("HIP out of memory. Tried to allocate 1 GiB"), "accelerator"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "accelerator"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "accelerator"),
        (RuntimeError("NCCL Error 1: Cuda failure 2 'out of memory'"), "accelerator"),
        (MemoryError(), "host"),
        (MemoryError("Unable to allocate 1.00 TiB for an array with shape (1099511627776,)"), "host"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), "host"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), "host"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "host"),
        (RuntimeError("bad allocation"), "host"),
        (RuntimeError("process 1 of the training died (SIGKILL); the log says more."), "host"),
    ],
)
@pytest.mark.parametrize("stage", ["teacher", "real-stats", "fetch-teacher"])
def test_it_is_recognised_and_the_setting_named(error: Exception, of: str, stage: str) -> None:
    with pytest.raises(OutOfMemory) as told, telling_out_of_memory(stage):
        raise error
    sentence = str(told.value)
    section = {"teacher": "teacher", "real-stats": "real_stats", "fetch-teacher": "other"}[stage]
    assert sentence.startswith(f"Stage {stage} ")
    assert (f"raise resources.stages.{section}.memory" in sentence) is (of == "host")
    assert ("accelerator with more memory" in sentence) is (of == "accelerator")
    assert (f"lower {section}.batch_size" in sentence) is (section in BATCHED)
    assert "\n" not in sentence
    assert told.value.exit_code == 1
    assert told.value.__cause__ is error


@pytest.mark.parametrize("stage", ["teacher", "distill"])
def test_a_training_names_what_lowers_its_memory(stage: str) -> None:
    """All such settings; where it is known which are open to the training, those."""
    error = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    told, section = out_of_memory(error, stage), getattr(Recipe(name="r", description="d", budgets=("0.5x",)), stage)
    assert told is not None
    for setting in ("recompute_activations: true", "images_per_pass", "precision: bf16", "batch_size"):
        assert f"{stage}.{setting}" in str(told)
        assert setting.partition(":")[0] in section.model_dump()
    savings = f"lower {stage}.batch_size"
    with pytest.raises(OutOfMemory) as exact, telling_out_of_memory(stage), telling_out_of_memory(stage, savings):
        raise error
    assert str(exact.value).endswith(f"take an accelerator with more memory, or {savings}.")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("memory format must be channels_last"),
        RuntimeError("CUDA error: device-side assert triggered"),
        OSError(errno.ENOSPC, "No space left on device"),
        UserError("There is no folder 'out of memory'."),
        RuntimeError("process 1 of the training died (SIGSEGV); the log says more."),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert out_of_memory(error, "teacher") is None
    with pytest.raises(type(error)) as raised, telling_out_of_memory("teacher"):
        raise error
    assert raised.value is error


def test_the_settings_that_are_named_exist() -> None:
    assert set(SECTIONS) == set(StageName.__args__) - {"other"}
    assert "memory" in StageResources.model_fields
    for section in BATCHED:
        assert "batch_size" in getattr(Recipe(name="r", description="d", budgets=("0.5x",)), section).model_dump()


def _exhaust(kind: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    try:
        with telling_out_of_memory("teacher"):
            {
                "torch": lambda: torch.empty(1 << 40),
                "numpy": lambda: np.empty(1 << 40),
                "python": lambda: bytes(1 << 40),
            }[kind]()
    except OutOfMemory as told:
        sys.exit(40 if "resources.stages.teacher.memory" in str(told) else 41)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.parametrize("kind", ["torch", "numpy", "python"])
def test_a_process_that_really_gets_no_memory_says_so(kind: str) -> None:
    process = multiprocessing.get_context("fork").Process(target=_exhaust, args=(kind,))
    process.start()
    process.join(60)
    assert process.exitcode == 40
