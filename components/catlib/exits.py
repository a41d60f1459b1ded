"""How a command ends: its exit code, and SIGTERM, which ends it as Ctrl-C does."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

EXIT_USER_ERROR = 2
"""The user's mistake; one sentence on stderr says what to change."""

EXIT_INTERRUPTED = 75
"""Interrupted, or the object store is away: the same command goes on."""


@contextlib.contextmanager
def sigterm_like_ctrl_c() -> Iterator[None]:
    """Raises KeyboardInterrupt on SIGTERM, which the first process of a container would otherwise ignore.

    Outside the main thread, signals are the host program's business: nothing changes.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        earlier = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)
