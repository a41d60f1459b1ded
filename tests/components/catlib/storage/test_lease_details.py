"""What leases promise in numbers, and what they leave as it was; all in memory or in a folder."""

import errno
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from components.catlib.errors import Unavailable, UserError
from components.catlib.storage import leases
from components.catlib.storage.folders import FolderStore
from components.catlib.storage.leases import Lease, LeaseLost
from tests.components.catlib.storage.claims import VirtualClock, beats, elsewhere, held, lease, names, wait_until
from tests.memory_stores import MemoryStore

OPERATIONS = Path(__file__).parents[4] / "docs" / "operations.md"


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


class FakeTimer:
    """Stands for `threading.Timer`: notes what it is made and cancelled for, and never goes off.

    Attributes:
        made: Intervals of all timers, in seconds.
        waiting: How many have not been cancelled.
    """

    made: list[float]
    waiting: int

    def __init__(self, interval: float, action: Callable[[], object]) -> None:
        FakeTimer.made.append(interval)

    def start(self) -> None:
        FakeTimer.waiting += 1

    def cancel(self) -> None:
        FakeTimer.waiting -= 1


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> type[FakeTimer]:
    FakeTimer.made, FakeTimer.waiting = [], 0
    monkeypatch.setattr(leases.threading, "Timer", FakeTimer)
    return FakeTimer


def record(store: MemoryStore | FolderStore, generation: int = 1) -> dict[str, Any]:
    return json.loads(store.read(f"owner-{generation:06d}.json"))


# -------------------------------------------------------------------------------------------------------------- numbers


def test_the_guide_names_the_times_of_leases() -> None:
    text = " ".join(OPERATIONS.read_text(encoding="utf-8").split())
    found = re.search(r"no sign of life for (\d+) s; a living one gives one every (\d+) s", text)
    assert found is not None
    assert [float(number) for number in found.groups()] == [leases.LEASE_SECONDS, leases.BEAT_SECONDS]


def test_a_silent_owner_is_replaced_after_a_minute_to_the_second(clock: VirtualClock):
    store = MemoryStore()
    held(store, clock)
    assert held(store, clock).generation == 2
    assert clock.now == 60


def test_a_minute_without_the_store_counts_as_two_looks(clock: VirtualClock):
    class Away(MemoryStore):
        reads = 0

        def read(self, name: str) -> bytes:
            self.reads += 1
            if self.reads == 8:
                clock.now += 600
            return super().read(name)

    store = Away()
    held(store, clock)
    store.reads = 0
    assert held(store, clock).generation == 2
    assert clock.now == 600 + 60 - 2, "this look took 602 s and counts as 4 s"


@pytest.mark.parametrize("ended_at", [8.5, 9.5, 18.5, 30.5])
def test_an_end_is_noticed_within_two_seconds(ended_at: float, clock: VirtualClock):
    class FineClock(VirtualClock):
        def sleep(self, seconds: float) -> None:
            for _ in range(int(seconds * 2)):
                super().sleep(0.5)

    store, fine = MemoryStore(), FineClock()
    first = held(store, clock)
    fine.meanwhile = lambda: fine.now == ended_at and first.release()
    assert held(store, fine).generation == 2
    assert 0 < fine.now - ended_at <= 2


def test_a_place_that_ten_others_take_first_is_in_use(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch):
    store, claimed = MemoryStore(), []
    mine = lease(store, clock)
    monkeypatch.setattr(mine, "_claim", lambda generation: claimed.append(generation))
    with pytest.raises(Unavailable, match="in use by another process"):
        mine.acquire()
    assert (claimed, clock.now) == ([1] * 10, 20)


def test_giving_back_has_ten_seconds(clock: VirtualClock, timer: type[FakeTimer]):
    held(MemoryStore(), clock).release()
    assert (timer.made, timer.waiting) == ([10], 0)


def test_a_claim_has_a_short_name_of_its_own():
    attempts = {Lease(MemoryStore()).attempt for _ in range(20)}
    assert len(attempts) == 20
    assert all(re.fullmatch(r"[0-9a-f]{8}", attempt) for attempt in attempts)
    assert Lease(MemoryStore(), attempt="mine").attempt == "mine"


# ------------------------------------------------------------------------------------------------------------- records


def test_a_sign_of_life_has_the_time_of_day_and_a_number(clock: VirtualClock):
    store = MemoryStore()
    owner = held(store, clock)
    began = record(store)
    assert began["machine"] == "", "a store without locks tells nothing about machines"
    assert began["began"] == began["heartbeat"]
    clock.now = 15
    owner.beat()
    later = record(store)
    assert later["began"] == began["began"]
    assert later["heartbeat"] == "2027-01-15T08:00:15Z"
    assert (began["beats"], later["beats"]) == (0, 1)


def test_a_folder_without_locks_tells_nothing_about_machines(
    tmp_path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FolderStore, "lock", fail)
    store = FolderStore(str(tmp_path))
    held(store, clock)
    assert record(store)["machine"] == ""


def test_locks_that_cannot_be_asked_prove_nothing(tmp_path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, "No locks available")

    store = FolderStore(str(tmp_path))
    first = held(store, clock)
    monkeypatch.setattr(FolderStore, "is_locked", fail)
    clock.meanwhile = first.beat
    with pytest.raises(Unavailable, match=f"in use by process {os.getpid()}"):
        held(store, clock)
    assert clock.now == 2


def test_a_machine_is_known_by_its_last_start(monkeypatch: pytest.MonkeyPatch):
    identity = Path("/proc/sys/kernel/random/boot_id")
    if identity.is_file():
        assert leases._this_machine() == identity.read_text().strip()

    def fail(*_: object, **__: object) -> NoReturn:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", fail)
    assert leases._this_machine() == socket.gethostname()


def test_waiting_is_announced_once(clock: VirtualClock, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    store = MemoryStore()
    held(store, clock)
    held(store, clock)
    assert caplog.text.count("memory seems to be in use; waiting up to 60 s for a sign of life") == 1


# ---------------------------------------------------------------------------------------------------- losing and taking


def test_a_lost_place_stays_lost(clock: VirtualClock):
    store = MemoryStore()
    owner = held(store, clock)
    store.write("owner-000002.json", b"somebody")
    with pytest.raises(LeaseLost):
        owner.check()
    store.remove("owner-000002.json")
    attempts = store.attempts
    for ask in (owner.check, owner.beat):
        with pytest.raises(LeaseLost):
            ask()
    assert store.attempts == attempts, "nobody needs to ask the store about that"


def test_giving_back_leaves_the_file_of_another_owner_alone(clock: VirtualClock, timer: type[FakeTimer]):
    store = MemoryStore()
    first = held(store, clock, "first")
    store.remove("owner-000001.json")
    held(store, clock, "second")
    first.release()
    assert (record(store)["attempt"], record(store)["released"]) == ("second", False)
    assert timer.waiting == 0


def test_an_owner_whose_file_another_one_writes_first_has_lost(clock: VirtualClock):
    """The store lost the file. When the owner wants to write it again, another one has just taken the number."""

    class Races(MemoryStore):
        other = b""

        def create(self, name: str, content: bytes) -> bool:
            if self.other:
                self.write(name, self.other)
            return super().create(name, content)

    store = Races()
    owner = held(store, clock, "first")
    store.other = store.read("owner-000001.json").replace(b'"first"', b'"second"')
    store.remove("owner-000001.json")
    with pytest.raises(LeaseLost, match="taken over by process"):
        owner.check()
    assert record(store)["attempt"] == "second"


def test_a_check_lists_and_reads_and_writes_nothing(clock: VirtualClock):
    store = MemoryStore()
    owner = held(store, clock)
    before, attempts = dict(store.files), store.attempts
    owner.check()
    assert store.files == before
    assert store.attempts == attempts + 2


def test_a_claim_that_fails_leaves_no_trace(tmp_path: Path, clock: VirtualClock):
    class Refuses(FolderStore):
        def create(self, name: str, content: bytes) -> bool:
            raise UserError("Nobody may write here.")

    mine = lease(Refuses(str(tmp_path)), clock)
    with pytest.raises(UserError, match="Nobody may write here"):
        mine.acquire()
    assert mine.generation == 0
    assert held(FolderStore(str(tmp_path)), clock).generation == 1


def test_a_place_that_changed_hands_and_was_given_back_is_taken_at_once(clock: VirtualClock):
    store = MemoryStore()
    held(store, clock)

    def meanwhile() -> None:
        if clock.now == 10:
            store.remove("owner-000001.json")
            ended = lease(store, VirtualClock())
            ended.acquire(above=1)
            ended.release()

    clock.meanwhile = meanwhile
    assert held(store, clock).generation == 3
    assert clock.now == 10


def test_locks_of_another_machine_are_not_asked(tmp_path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch):
    store = FolderStore(str(tmp_path))
    with elsewhere(monkeypatch):
        held(store, clock)
    assert held(store, clock).generation == 2
    assert clock.now == 60
    assert names(store) == {"owner-000001.json", "owner-000002.json"}


# -------------------------------------------------------------------------------------------------------------- threads


def test_a_place_is_given_back_after_the_last_sign_of_life():
    """Else a sign of life that is on its way might arrive later, and the place would look taken."""

    class Slow(MemoryStore):
        beating = threading.Event()

        def write(self, name: str, source: bytes | Path) -> None:
            if threading.current_thread().name == "lease":
                self.beating.set()
                time.sleep(0.3)
            super().write(name, source)

    store = Slow()
    owner = Lease(store)
    owner.acquire()
    assert store.beating.wait(20)
    owner.release()
    assert record(store)["released"]
    assert record(store)["beats"] == 1


def test_signs_of_life_go_on_when_a_claim_is_made_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)
    store = MemoryStore()
    owner = Lease(store)
    for generation in (1, 2):
        owner.acquire()
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "lease"]
        assert thread.daemon, "it keeps no process alive"
        wait_until(lambda generation=generation: beats(store, generation) >= 3)
        owner.release()
        assert not thread.is_alive()
