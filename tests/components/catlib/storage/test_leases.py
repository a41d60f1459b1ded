"""Who owns a place: in a folder, in a real S3 server, and in a store in memory that fails."""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from components.catlib.errors import Unavailable, UserError
from components.catlib.storage import Location, Store, StoreSettings, leases, retrying
from components.catlib.storage.folders import FolderStore
from components.catlib.storage.leases import LEASE_SECONDS, WATCH_SECONDS, Lease, LeaseLost
from components.catlib.storage.objects import Objects, S3Store
from tests.components.catlib.storage.claims import VirtualClock, beats, elsewhere, held, lease, names, wait_until
from tests.memory_stores import MemoryStore
from tests.object_stores import SeaweedServer


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(params=["folder", "s3", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty place, in each kind of store."""
    if request.param == "folder":
        return FolderStore(str(tmp_path / "place"))
    if request.param == "memory":
        return MemoryStore()
    server: SeaweedServer = request.getfixturevalue("object_store")
    settings = StoreSettings.from_environment(server.environment)
    return S3Store(Objects(settings, patience=5), Location("cat", f"leases/{tmp_path.name}"))


def test_a_place_that_was_given_back_is_taken_at_once_with_the_next_number(store: Store, clock: VirtualClock):
    for generation in (1, 2, 3):
        owner = held(store, clock)
        assert owner.generation == generation
        owner.check()
        owner.beat()
        assert names(store) == {f"owner-{generation:06d}.json"}
        owner.release()
        assert owner.generation == 0
    assert clock.now == 0
    owner.release()


def test_a_living_owner_keeps_its_place(store: Store, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch):
    with elsewhere(monkeypatch):
        owner = held(store, VirtualClock(ahead=-1e6))
    second = lease(store, clock)
    clock.meanwhile = lambda: clock.now > 15 and owner.beat()
    since = r"process 4321 on far-away since 2027-01-0\d \d\d:\d\d:\d\d UTC"
    with pytest.raises(Unavailable, match=rf"is in use by {since}; wait for its end or stop it"):
        second.acquire()
    assert 15 < clock.now < 20
    assert second.generation == 0
    second.release()
    owner.check()
    assert json.loads(store.read("owner-000001.json"))["attempt"] == owner.attempt
    assert names(store) == {"owner-000001.json"}


@pytest.mark.parametrize("ahead", [0.0, 1e7, -1e7])
def test_a_silent_owner_is_replaced_and_hears_of_it(
    store: Store, ahead: float, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
):
    """Whatever the two clocks show: only how long the second one has seen nothing counts."""
    with elsewhere(monkeypatch):
        first = held(store, VirtualClock(ahead=ahead))
    second = held(store, clock)
    assert second.generation == 2
    assert LEASE_SECONDS <= clock.now <= LEASE_SECONDS + WATCH_SECONDS
    second.beat()
    record = store.read("owner-000002.json")
    for ask in (first.check, first.beat, first.check_what_is_known):
        with pytest.raises(
            LeaseLost, match=rf"was taken over by process {os.getpid()} on \S+ since 2027\S+ \S+ UTC, because"
        ):
            ask()
    assert LeaseLost.exit_code == 75
    first.release()
    second.check()
    assert names(store) == {"owner-000002.json"}
    assert store.read("owner-000002.json") == record


def test_an_owner_that_ends_while_it_is_watched_is_followed(
    store: Store, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
):
    with elsewhere(monkeypatch):
        first = held(store, clock)
    clock.meanwhile = lambda: clock.now > 20 and first.generation and first.release()
    second = held(store, clock)
    assert 20 < clock.now < 25
    assert second.generation == 2


def test_whoever_replaces_a_watched_owner_is_watched_in_turn(
    store: Store, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
):
    with elsewhere(monkeypatch, "the first"):
        held(store, clock)
    second, third = lease(store, VirtualClock()), lease(store, clock)

    def meanwhile() -> None:
        if clock.now == 10 * WATCH_SECONDS:
            with elsewhere(monkeypatch, "the second, which is faster"):
                second.acquire()
        elif second.generation:
            second.beat()

    clock.meanwhile = meanwhile
    with pytest.raises(Unavailable, match="in use by process 4321"):
        third.acquire()
    assert second.generation == 2
    second.check()
    assert clock.now < LEASE_SECONDS


def test_one_of_many_takes_the_place_of_a_dead_owner(
    store: Store, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
):
    with elsewhere(monkeypatch):
        held(store, clock)

    def take(number: int) -> Lease | None:
        mine = lease(store, VirtualClock(), f"attempt-{number}")
        try:
            mine.acquire()
        except Unavailable:
            return None
        return mine

    with ThreadPoolExecutor(6) as pool:
        owners = [owner for owner in pool.map(take, range(6)) if owner is not None]
    (newest,) = {max(owner.generation for owner in owners)}
    (winner,) = [owner for owner in owners if owner.generation == newest]
    winner.check()
    for loser in owners:
        if loser is not winner:
            with pytest.raises(LeaseLost):
                loser.check()
    if isinstance(store, FolderStore):
        assert len(owners) == 1, "locks show at once who lives"


def test_numbers_go_on_above_those_of_other_files(store: Store, clock: VirtualClock):
    owner = lease(store, clock)
    owner.acquire(above=7)
    assert owner.generation == 8
    owner.release()
    assert held(store, clock).generation == 9


def test_a_damaged_file_counts_as_an_owner_until_it_has_been_still(store: Store, clock: VirtualClock):
    store.write("owner-000004.json", b'{"attempt": "abc", "ho')
    counter = itertools.count()
    clock.meanwhile = lambda: store.write("owner-000004.json", str(next(counter)).encode())
    with pytest.raises(Unavailable, match="in use by another process; wait"):
        held(store, clock)
    clock.meanwhile = lambda: None
    clock.now = 0.0
    assert held(store, clock).generation == 5
    assert clock.now >= LEASE_SECONDS


def test_what_newer_versions_write_besides_is_read(store: Store, clock: VirtualClock):
    owner = held(store, clock)
    owner.release()
    record = json.loads(store.read("owner-000001.json"))
    assert record["released"] is True
    store.write("owner-000001.json", json.dumps(record | {"colour": "blue"}).encode())
    assert held(store, clock).generation == 2
    assert clock.now == 0


def test_an_owner_whose_file_was_removed_writes_it_again(store: Store, clock: VirtualClock):
    owner = held(store, clock)
    for entry in store.entries():
        store.remove(entry.name)
    owner.check()
    assert names(store) == {"owner-000001.json"}


def test_of_two_owners_with_one_number_the_later_one_stays(store: Store, clock: VirtualClock):
    """The store forgot the file of the first one, so the second one got the same number."""
    first = held(store, clock, "first")
    for entry in store.entries():
        store.remove(entry.name)
    second = held(store, clock, "second")
    assert (first.generation, second.generation) == (1, 1)
    for _ in range(2):
        with pytest.raises(LeaseLost, match="taken over by process"):
            first.beat()
    second.check()
    first.release()
    assert json.loads(store.read("owner-000001.json"))["attempt"] == "second"
    assert not json.loads(store.read("owner-000001.json"))["released"]


# ------------------------------------------------------------------------------------------------- stores that fail


@pytest.mark.parametrize("fault", ["lost", "unanswered", "torn"])
def test_answers_that_do_not_arrive_change_nothing(fault: str, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retrying, "FIRST_PAUSE_SECONDS", 0.001)
    store = MemoryStore(itertools.cycle([fault, None]))
    for generation in (1, 2):
        owner = held(store, clock)
        assert owner.generation == generation
        owner.beat()
        owner.check()
        owner.release()
    assert clock.now == 0


@pytest.mark.parametrize("forgotten", range(8))
def test_a_write_that_the_store_forgets_costs_no_place(forgotten: int, clock: VirtualClock):
    store = MemoryStore([*[None] * forgotten, "forgotten"])
    owner = held(store, clock)
    owner.beat()
    owner.check()
    assert json.loads(store.files["owner-000001.json"][0])["attempt"] == owner.attempt


@pytest.mark.parametrize("refused", range(6))
def test_a_claim_that_fails_can_be_made_again(refused: int, clock: VirtualClock):
    store = MemoryStore([*[None] * refused, "refused"])
    owner = lease(store, clock, "stubborn")
    with contextlib.suppress(UserError):
        owner.acquire()
        owner.beat()
    if not owner.generation:
        owner.acquire()
    owner.check()
    assert owner.generation <= 2


def test_a_late_claim_to_an_old_number_is_not_a_claim(clock: VirtualClock):
    """The request to create the file of number 1 arrives when that number's owner has long been replaced."""

    store = MemoryStore()
    store.write("owner-000002.json", b"somebody")
    mine = lease(store, clock)
    assert not mine._claim(1)
    assert mine.generation == 0
    assert store.read("owner-000002.json") == b"somebody"


class CreatesTwice(MemoryStore):
    """A store that does not know conditions."""

    def create(self, name: str, content: bytes) -> bool:
        self.write(name, content)
        return True


def test_a_store_that_creates_a_file_twice_still_has_one_owner(clock: VirtualClock):
    store = CreatesTwice()
    first, second = lease(store, clock, "first"), lease(store, clock, "second")
    assert first._claim(1)
    assert second._claim(1)
    with pytest.raises(LeaseLost):
        first.check()
    second.check()


def test_a_store_that_does_not_list_what_it_has_does_not_keep_anybody_for_ever(clock: VirtualClock):
    class Hides(MemoryStore):
        def entries(self) -> list:
            return []

    store = Hides()
    store.write("owner-000001.json", b"somebody")
    with pytest.raises(Unavailable, match="is in use by another process"):
        held(store, clock)
    assert 0 < clock.now <= LEASE_SECONDS


def test_files_of_earlier_owners_that_cannot_be_removed_cost_nothing(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture
):
    class Keeps(MemoryStore):
        def remove(self, name: str) -> None:
            raise UserError("Nobody may remove anything here.")

    caplog.set_level("INFO")
    store = Keeps()
    for generation in (1, 2):
        owner = held(store, clock)
        owner.beat()
        assert beats(store, generation) == 1
        owner.release()
    assert names(store) == {"owner-000001.json", "owner-000002.json"}
    assert "files of earlier owners stay in memory for now (Nobody may" in caplog.text


def test_time_in_which_the_store_is_away_is_not_silence(clock: VirtualClock):
    """The owner could not write either; once the store is back, it may take a while to do so."""

    class Away(MemoryStore):
        def read(self, name: str) -> bytes:
            if clock.now > 10 and not self.was_away:
                clock.now += 10 * LEASE_SECONDS
                self.was_away = True
            return super().read(name)

        was_away = False

    store = Away()
    owner = held(store, clock)
    clock.meanwhile = lambda: store.was_away and clock.now > 10.6 * LEASE_SECONDS and owner.beat()
    with pytest.raises(Unavailable, match="in use"):
        held(store, clock)
    owner.check()


def test_a_store_that_is_away_at_the_end_is_only_worth_a_warning(
    clock: VirtualClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(leases, "GIVE_BACK_SECONDS", 0.1)
    store = MemoryStore(patience=600)
    owner = held(store, clock)
    store.faults = itertools.repeat("lost")
    began = time.monotonic()
    owner.release()
    assert time.monotonic() - began < 5
    assert "memory is not given back" in caplog.text
    store.faults = iter(())
    assert held(store, clock).generation == 2
    assert clock.now >= LEASE_SECONDS


# ----------------------------------------------------------------------------------------------------- signs of life


def test_a_thread_gives_signs_of_life_until_the_place_is_given_back(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)
    owner = Lease(store)
    owner.acquire()
    wait_until(lambda: beats(store) >= 3)
    owner.check()
    owner.release()
    last = beats(store)
    time.sleep(0.1)
    assert beats(store) == last
    assert json.loads(store.read("owner-000001.json"))["released"]


def test_signs_of_life_go_on_after_an_outage(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)
    store = MemoryStore()
    owner = Lease(store)
    owner.acquire()
    store.faults = itertools.repeat("refused")
    wait_until(lambda: "no sign of life in memory for now" in caplog.text)
    owner.check_what_is_known()
    store.faults = iter(())
    before = beats(store)
    wait_until(lambda: beats(store) > before)
    owner.release()


def test_a_loss_is_known_without_asking(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)
    store = MemoryStore()
    owner = Lease(store)
    owner.acquire()
    owner.check_what_is_known()
    store.write("owner-000002.json", b"somebody")

    def is_known() -> bool:
        try:
            owner.check_what_is_known()
        except LeaseLost as loss:
            return "taken over by another process" in str(loss)
        return False

    wait_until(is_known)
    owner.release()
    assert store.read("owner-000002.json") == b"somebody"


# ------------------------------------------------------------------------------------------- processes of one machine

PROCESS = """
import subprocess, sys, time
from components.catlib.storage.folders import FolderStore
from components.catlib.storage.leases import Lease

lease = Lease(FolderStore(sys.argv[1]))
lease.acquire()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
print(child.pid, flush=True)
time.sleep(30)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the place, and has a child that outlives it."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    yield process
    process.kill()
    process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def test_a_dead_process_of_this_machine_is_recognised_at_once(
    other: subprocess.Popen[str], tmp_path: Path, clock: VirtualClock
):
    store = FolderStore(str(tmp_path))
    with pytest.raises(Unavailable, match=rf"in use by process {other.pid} on "):
        held(store, clock)
    os.kill(other.pid, signal.SIGSTOP)  # it lives, although it says nothing any more
    with pytest.raises(Unavailable, match=rf"in use by process {other.pid} on "):
        held(store, clock)
    other.kill()
    other.wait()
    assert held(store, clock).generation == 2
    assert clock.now == 0


def test_without_locks_signs_of_life_are_watched(tmp_path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch):
    def no_locks(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    store = FolderStore(str(tmp_path))
    first = held(store, clock)
    clock.meanwhile = first.beat
    with pytest.raises(Unavailable, match="in use"):
        held(store, clock)
    clock.meanwhile = lambda: None
    second = held(store, clock)
    assert (second.generation, clock.now >= LEASE_SECONDS) == (2, True)
    with pytest.raises(LeaseLost):
        first.check()


def test_locks_of_another_machine_prove_nothing(tmp_path: Path, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch):
    """Its lock looks free from here, on file systems that do not share locks."""
    store = FolderStore(str(tmp_path))
    with elsewhere(monkeypatch):
        first = held(store, clock)
    assert first._lock is not None
    first._lock.close()
    clock.meanwhile = first.beat
    with pytest.raises(Unavailable, match="far-away"):
        held(store, clock)
    assert clock.now > 0


def test_two_that_begin_at_the_same_moment_do_not_both_begin(tmp_path: Path, clock: VirtualClock):
    store = FolderStore(str(tmp_path))
    number = store.lock("owner-000001.lock")
    assert number is not None
    with pytest.raises(Unavailable, match="is in use by another process"):
        held(store, clock)
    number.close()
    assert held(store, clock).generation == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, clock: VirtualClock):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"file/place cannot be made"):
        held(FolderStore(str(tmp_path / "file" / "place")), clock)
