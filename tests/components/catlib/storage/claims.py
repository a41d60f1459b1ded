"""Claims to places, with clocks that only waiting moves."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator

import pytest

from components.catlib.storage import Store, leases
from components.catlib.storage.leases import Lease


class VirtualClock:
    """A clock that only waiting moves; something may happen during every wait.

    Attributes:
        now: Seconds since its beginning.
        ahead: By how much its time of day is wrong.
        meanwhile: Called in every wait.
    """

    def __init__(self, *, ahead: float = 0.0) -> None:
        self.now = 0.0
        self.ahead = ahead
        self.meanwhile: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return 500.0 + self.now

    def time(self) -> float:
        return 1.8e9 + self.now + self.ahead

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


def lease(store: Store, clock: VirtualClock, attempt: str | None = None) -> Lease:
    return Lease(store, clock=clock, attempt=attempt, thread=False)


def held(store: Store, clock: VirtualClock, attempt: str | None = None) -> Lease:
    made = lease(store, clock, attempt)
    made.acquire()
    return made


@contextlib.contextmanager
def elsewhere(monkeypatch: pytest.MonkeyPatch, machine: str = "another") -> Iterator[None]:
    """What is taken here is taken on another machine, whose locks tell nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(leases, "_this_machine", lambda: machine)
        patch.setattr(leases.socket, "gethostname", lambda: "far-away")
        patch.setattr(leases.os, "getpid", lambda: 4321)
        yield


def names(store: Store) -> set[str]:
    return {entry.name for entry in store.entries() if entry.name.endswith(".json")}


def beats(store: Store, generation: int = 1) -> int:
    return json.loads(store.read(f"owner-{generation:06d}.json"))["beats"]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
