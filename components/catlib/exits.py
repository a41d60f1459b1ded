"""How a command ends: its exit code, and what it does at SIGTERM."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

EXIT_USER_ERROR = 2
"""The user's mistake; one sentence on stderr says what to change."""

EXIT_INTERRUPTED = 75
"""Interrupted, or the object store is away: the same command goes on."""


@contextlib.contextmanager
def on_sigterm(action: Callable[[], None]) -> Iterator[None]:
    """Calls something when the process gets SIGTERM, which then does nothing else.

    Outside the main thread, signals are the host program's business: nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, lambda *_: action())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def sigterm_like_ctrl_c() -> contextlib.AbstractContextManager[None]:
    """Raises KeyboardInterrupt on SIGTERM, which the first process of a container would otherwise ignore."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    return on_sigterm(interrupt)
