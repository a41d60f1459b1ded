"""Reads batches ahead of a training, in threads: copying out of memory maps lets the interpreter go on."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from components.catlib.data.batches import Batch, TrainingBatches

AHEAD = 3
"""Most batches that wait, packed, while one is used; they bound the memory of reading."""

READERS = 2
"""Threads that read."""


@contextlib.contextmanager
def reading_ahead(
    batches: TrainingBatches,
    steps: range,
    rows: slice,
    *,
    device: torch.device,
    memory_format: torch.memory_format = torch.preserve_format,
) -> Iterator[Iterator[tuple[int, Batch]]]:
    """Yields the steps of a training with their batches, on a device; at the end it waits for the threads.

    Args:
        batches: The training images.
        steps: Numbers of the steps, one after the other.
        rows: The rows of every batch that this process gets.
        device: Where batches go.
        memory_format: Order of their tensors in memory.
    """
    with ThreadPoolExecutor(READERS, "batches") as readers:

        def upcoming() -> Iterator[tuple[int, Batch]]:
            waiting = deque(readers.submit(batches.batch, step, rows) for step in steps[:AHEAD])
            for step in steps:
                packed = waiting.popleft().result()
                if step + AHEAD in steps:
                    waiting.append(readers.submit(batches.batch, step + AHEAD, rows))
                yield step, packed.to(device, memory_format=memory_format)

        try:
            yield upcoming()
        finally:
            readers.shutdown(cancel_futures=True)
