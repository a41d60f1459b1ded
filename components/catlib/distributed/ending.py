"""The processes of a training end together: when one fails, the others stop within seconds, with its exit code.

Processes of a training wait for each other in collective operations, for hours if need be. One that fails never comes
to its next one, so it cannot say there that it failed. It says so in the key-value store by which torch brought the
processes together; a thread of every process watches that. So it does not matter where a process fails: before the
others are there, between two collective operations of a step, or while it writes the result.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from components.catlib.errors import EndedElsewhere, Interrupted, Unavailable
from components.catlib.exits import EXIT_INTERRUPTED, dying_with_parent, ignore_stops, launched

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

LONGEST_START = timedelta(minutes=30)
"""How long processes wait for the others to start."""

LONGEST_MAKING_SECONDS = 14400.0
"""How long processes wait for one of them that makes something for all, such as a download."""

GRACE_SECONDS = 10.0
"""Time in which a process cleans up once another one has failed; after it the process is ended."""

_FIRST_SECONDS = 2.0
"""An error that all processes meet is told by the first one; the others wait this long for it."""

_POLL_SECONDS = 0.2

_END, _NOTICED = "end", "noticed"
"""Keys of the store: the first process that ended, and its exit code; how many others have noticed."""


class _End(NamedTuple):
    rank: int
    code: int


class Processes:
    """What the processes of a training tell each other outside of collective operations.

    Attributes:
        store: Torch's key-value store. It serves one request at a time, so none may wait in it.
        rank: Number of this process.
        size: Number of processes.
    """

    def __init__(self, use: int) -> None:
        """Joins the others, as the environment that `torchrun` makes says; the first process may hold the store.

        Args:
            use: How often the processes have joined before.
        """
        from torch import distributed
        from torch._C._distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        if distributed.is_initialized():
            store: Store = distributed.distributed_c10d._get_default_store()
            self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        else:
            store, self.rank, self.size = next(rendezvous("env://", timeout=LONGEST_START))
        self.store = PrefixStore(f"ending/{use}", store)
        self._watched = self.store.clone()
        self._end: _End | None = None
        self._known, self._finishing, self._gone = threading.Event(), threading.Event(), threading.Event()

    def once(self, what: str, make: Callable[[], str], *, per_machine: bool = False) -> str:
        """Calls a function in the first process, and returns its result in all processes.

        Args:
            what: Name of the result, different from that of every other.
            make: The function.
            per_machine: Whether the first process of each machine calls it, for the processes there.

        Raises:
            Unavailable: There is no result after hours.
        """
        rank = int(os.environ.get("LOCAL_RANK", "0")) if per_machine else self.rank
        key = f"{what}/{os.environ.get('GROUP_RANK', '0')}" if per_machine else what
        if rank == 0:
            made = make()
            self.store.set(key, made)
            return made
        deadline = time.monotonic() + LONGEST_MAKING_SECONDS
        while not self.store.check([key]):
            if time.monotonic() > deadline:
                hours = LONGEST_MAKING_SECONDS / 3600
                raise Unavailable(f"The first process has not made the {what} in {hours:.0f} hours; is it alive?")
            time.sleep(_POLL_SECONDS)
        return self.store.get(key).decode()

    # ---------------------------------------------------------------------------------------------------------- ending

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Raises `EndedElsewhere` in the body as soon as another process has failed."""
        in_main = threading.current_thread() is threading.main_thread()
        earlier = signal.signal(signal.SIGUSR1, self._interrupt) if in_main else None
        threading.Thread(target=self._watch, args=(in_main,), name="other processes", daemon=True).start()
        try:
            yield
        finally:
            self._gone.set()
            if in_main:
                signal.signal(signal.SIGUSR1, signal.SIG_DFL if earlier is None else earlier)

    def finish(self, error: BaseException | None) -> None:
        """Ends with the others.

        The first process speaks for all when they are done, or have stopped together, because then its files are safe.

        Args:
            error: The exception that ends this process; None: it is done.

        Raises:
            EndedElsewhere: Another process ended first, not well, and says why.
        """
        self._finishing.set()
        ignore_stops()  # a launcher stops the others when one has gone; this one must still say why
        together = error is None or isinstance(error, Interrupted)
        if self.rank > 0:
            self._known.wait(None if together else _FIRST_SECONDS)
        if self._end is None:
            self._tell(_exit_code(error))
        if self._end is not None and self._end.code:
            raise EndedElsewhere(self._end.code)

    def _tell(self, code: int) -> None:
        """Says that this process ends, unless another said so before, and waits until all know."""
        with contextlib.suppress(RuntimeError):  # the store has gone with its process; each ends by itself
            end = _End(*json.loads(self.store.compare_set(_END, "", json.dumps([self.rank, code]))))
            if end.rank != self.rank:
                self._end = end
                self._known.wait(GRACE_SECONDS)
                return
            if code:
                _close_collectives()
            deadline = time.monotonic() + GRACE_SECONDS
            while self.store.add(_NOTICED, 0) < self.size - 1 and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)

    def _watch(self, in_main: bool) -> None:
        try:
            while not self._watched.check([_END]):
                if self._gone.wait(_POLL_SECONDS):
                    return
            end = _End(*json.loads(self._watched.get(_END)))
            if end.rank == self.rank:
                return
            self._end = end
            self._watched.add(_NOTICED, 1)
        except RuntimeError:  # the store has gone with its process
            return
        finally:
            self._known.set()
        if end.code:
            self._stop(end.code, in_main)

    def _stop(self, code: int, in_main: bool) -> None:
        """Ends this process, wherever it is."""
        ignore_stops()
        if in_main and (main := threading.main_thread().ident):
            signal.pthread_kill(main, signal.SIGUSR1)
        _free_from_collectives()
        if not self._gone.wait(GRACE_SECONDS):
            os._exit(code)

    def _interrupt(self, *_: object) -> None:
        if self._end is not None and not self._finishing.is_set():
            raise EndedElsewhere(self._end.code)


_uses = itertools.count()
_joined: Processes | None = None


def joined() -> Processes | None:
    """Returns the processes of this training, inside `ending_together`; None if this one is alone."""
    return _joined


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends all processes of a training as soon as one fails, and none before all are done.

    The process that failed raises its own exception, and says it. With one process, or inside another such context,
    nothing happens.

    Raises:
        EndedElsewhere: Another process failed or was interrupted.
    """
    global _joined
    if _joined is not None or not launched():
        yield
        return
    with dying_with_parent():
        _joined = Processes(next(_uses))
        try:
            with _joined.watching():
                error: BaseException | None = None
                try:
                    yield
                except BaseException as raised:
                    error = raised
                _joined.finish(error)
                if error is not None:
                    raise error
        finally:
            _joined = None


def _exit_code(error: BaseException | None) -> int:
    match error:
        case None:
            return 0
        case KeyboardInterrupt():
            return EXIT_INTERRUPTED
        case SystemExit(code=int(code)):
            return code
        case _:
            return getattr(error, "exit_code", 1)


def _free_from_collectives() -> None:
    """Makes NCCL's operations end that wait for a process; gloo's end when that process has gone."""
    from torch import distributed

    with contextlib.suppress(Exception):
        if distributed.is_initialized() and distributed.get_backend() == "nccl":
            distributed.distributed_c10d._get_default_group().abort()


def _close_collectives() -> None:
    from torch import distributed

    if distributed.is_initialized() and distributed.get_backend() == "gloo":
        distributed.destroy_process_group()
