"""Several requests at once."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed, wait

from components.catlib.storage.retrying import stopping, until

PARALLEL = 8
"""Largest number of tasks of one call, and of parts that a process moves, at the same time."""


_NESTING = threading.Lock()


class _Stopping(threading.Event):
    """An event that is also set when the one around it is."""

    def __init__(self, outer: threading.Event | None) -> None:
        super().__init__()
        self._inner: weakref.WeakSet[_Stopping] = weakref.WeakSet()
        with _NESTING:
            if isinstance(outer, _Stopping):
                outer._inner.add(self)
        if outer is not None and outer.is_set():
            self.set()

    def set(self) -> None:
        super().set()
        with _NESTING:
            inside = list(self._inner)
        for inner in inside:
            inner.set()


class _Stopped(Exception):
    """A task did not begin, because another one failed."""


def in_parallel(tasks: Iterable[Callable[[], object]]) -> None:
    """Runs tasks in threads; the first failure ends the others, which then no longer wait for a server."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        _run(pool, tasks)


def move_parts(tasks: Iterable[Callable[[], object]]) -> None:
    """Runs tasks like `in_parallel`, in the threads that all transfers of this process share.

    So `PARALLEL` parts, whatever the number of files, are in memory at the same time. The tasks move one part each and
    wait for no others.
    """
    _run(_movers(os.getpid()), tasks)


@functools.cache
def _movers(process: int) -> ThreadPoolExecutor:
    """Returns the threads that move parts; a forked process gets its own."""
    return ThreadPoolExecutor(PARALLEL, f"part-{process}")


def _run(pool: ThreadPoolExecutor, tasks: Iterable[Callable[[], object]]) -> None:
    ending = _Stopping(stopping())

    def begin(task: Callable[[], object]) -> None:
        if ending.is_set():
            raise _Stopped
        until(ending, task)

    futures = [pool.submit(begin, task) for task in tasks]
    try:
        for future in as_completed(futures):
            future.result()
    except BaseException:
        ending.set()
        for future in futures:
            future.cancel()
        wait(futures)
        raise
