"""Several requests at once."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed, wait

from components.catlib.storage.retrying import until

PARALLEL = 8
"""Largest number of requests at the same time."""


INTERRUPTION_SECONDS = 2.0
"""How long an interruption waits for requests that are under way."""


def in_parallel(tasks: Iterable[Callable[[], object]]) -> None:
    """Runs tasks in threads; the first failure ends the others, which then no longer wait for a server.

    An interruption does not wait long for tasks that have begun.
    """
    stopping = threading.Event()
    pool = ThreadPoolExecutor(PARALLEL)
    futures = [pool.submit(functools.partial(until, stopping, task)) for task in tasks]
    try:
        for future in as_completed(futures):
            future.result()
    except BaseException as error:
        stopping.set()
        pool.shutdown(wait=False, cancel_futures=True)
        begun = [future for future in futures if not future.cancelled()]
        wait(begun, timeout=None if isinstance(error, Exception) else INTERRUPTION_SECONDS)
        raise
    pool.shutdown()
