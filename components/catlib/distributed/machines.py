"""What the measurement of times and memory needs to know of torch's devices."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import torch

from components.catlib.timing import Machine, cpu_name


def torch_machine(device: str | torch.device = "cpu", *, threads: int | None = None) -> Machine:
    """Describes a device on which torch computes.

    Args:
        device: The CPU, or a GPU, whose work is waited for and whose memory is measured.
        threads: CPU threads that torch uses; None: as many as it uses now.
    """
    device = torch.device(device)
    threads = threads or torch.get_num_threads()
    if device.type != "cuda":
        return Machine(threads=threads, pinned=partial(_with_threads, threads))
    return Machine(
        threads=threads,
        pinned=partial(_with_threads, threads),
        synchronise=partial(torch.cuda.synchronize, device),
        reset_peak=partial(torch.cuda.reset_peak_memory_stats, device),
        peak=partial(torch.cuda.max_memory_allocated, device),
    )


def device_name(device: str | torch.device, *, threads: int) -> str:
    """Returns the name of a device, such as "NVIDIA H100 80GB HBM3" or "AMD EPYC, 2 threads"."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {threads} thread{'s' * (threads > 1)}"


@contextlib.contextmanager
def _with_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
