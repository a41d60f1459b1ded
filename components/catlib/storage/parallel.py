"""Several requests at once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed

from components.catlib.storage.retrying import until

PARALLEL = 8
"""Largest number of requests at the same time."""


def in_parallel(tasks: Iterable[Callable[[], object]]) -> None:
    """Runs tasks in threads; the first failure ends the others, which then no longer wait for a server."""
    stopping = threading.Event()
    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = [pool.submit(functools.partial(until, stopping, task)) for task in tasks]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stopping.set()
            pool.shutdown(cancel_futures=True)
            raise
