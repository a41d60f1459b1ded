"""How a command ends: its exit code, and its reaction to SIGTERM."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

EXIT_INTERRUPTED = 75
"""The command was interrupted; running it again resumes. `errors` holds the exit codes of errors."""


@contextlib.contextmanager
def on_sigterm(action: Callable[[], None]) -> Iterator[None]:
    """Calls `action` when the process gets SIGTERM, which then does nothing else.

    Outside the main thread this changes nothing, because signals belong to the host program there.
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
