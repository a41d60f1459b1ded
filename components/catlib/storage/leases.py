"""Who owns a place in a store: one process at a time, by numbered generations.

The first owner creates `owner-000001.json`, the next one `owner-000002.json`, and so on. A store creates a file only
once, so of several processes that want a number one gets it, and the highest number owns the place. An owner rewrites
its own file as a sign of life, and at last to say that it has ended. It never touches files of higher generations.

A process that wants the place takes the next number when the owner has ended, when the owner was a process of this
machine and is dead (its lock is free), or when the owner's file has not changed for `LEASE_SECONDS`. Only this
process's own clock counts for that, because two machines may disagree about the time.

An owner that was merely cut off for so long may come back. It finds the higher number and stops. Until then it may go
on writing; that is harmless if the names of its files hold its generation and its attempt, as those of checkpoints do.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.catlib.errors import Unavailable, UserError
from components.catlib.storage import retrying
from components.catlib.storage.store import Locks, NotThere, Store

logger = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
"""An owner whose file does not change for this long has lost its place to whoever wants it."""
BEAT_SECONDS = 15.0
"""Time between two signs of life."""
GIVE_BACK_SECONDS = 10.0
"""A place is given back with this much patience: training is over, and the next owner can wait instead."""
WATCH_SECONDS = 2.0
"""Time between two looks at the file of an owner that may be dead."""
MOST_TRIES = 10
"""A place that others take again and again is in use."""

_FILE = re.compile(r"owner-(\d{6,})\.(json|lock)")


class Clock(Protocol):
    """What a lease needs of the module `time`."""

    def monotonic(self) -> float:
        """Returns seconds since some moment; never set back."""
        ...

    def time(self) -> float:
        """Returns seconds since 1970, for people to read."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Returns after some seconds."""
        ...


class Owner(BaseModel):
    """The file of one generation."""

    model_config = ConfigDict(extra="ignore")

    attempt: str = Field(description="name of this owner, which no other has")
    host: str = Field(description="name of its machine")
    pid: int = Field(description="its process")
    machine: str = Field(description="identity of the running machine whose locks tell whether it lives; or empty")
    began: datetime = Field(description="when it took the place, by its clock")
    heartbeat: datetime = Field(description="when it last wrote this file, by its clock")
    beats: int = Field(ge=0, description="how often it has written this file again; a change shows that it lives")
    released: bool = Field(default=False, description="whether it has ended and left the place")

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.began:%Y-%m-%d %H:%M:%S} UTC"


class LeaseLost(Unavailable):
    """Another process has taken the place over, because nothing was heard from this one for too long."""


class Lease:
    """A claim of this process to a place.

    Attributes:
        attempt: Name of this claim, which no other has.
        generation: Its number while it holds the place, else 0.
    """

    def __init__(self, store: Store, *, clock: Clock = time, attempt: str | None = None, thread: bool = True) -> None:
        """Prepares a claim; nothing is asked or written yet.

        Args:
            store: The place.
            clock: Tells the time and waits.
            attempt: A name that no other claim has; None: a random one.
            thread: Whether a thread gives signs of life while the place is held; without it, call `beat`.
        """
        self.attempt = attempt or uuid.uuid4().hex[:8]
        self.generation = 0
        self._store = store
        self._place = store.address
        self._clock = clock
        self._with_thread = thread
        self._record: Owner | None = None
        self._lost: LeaseLost | None = None
        self._lock: IO[bytes] | None = None
        self._files: dict[str, tuple[int, str]] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, *, above: int = 0) -> None:
        """Takes the place; waits up to `LEASE_SECONDS` to learn whether an owner that has not said so is dead.

        Args:
            above: The generation will be higher than this, besides being higher than every earlier one.

        Raises:
            Unavailable: A living process owns the place; the message names it.
            UserError: The store cannot be used.
        """
        assert not self.generation, "the place is held already"
        for _ in range(MOST_TRIES):
            newest = self._newest()
            if newest and not self._has_ended(newest):
                continue  # by now another one has replaced it
            if self._claim(max(newest, above) + 1):
                break
            self._clock.sleep(WATCH_SECONDS)
        else:
            raise self._in_use(None)
        if self._with_thread:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._keep_beating, name="lease", daemon=True)
            self._thread.start()

    def beat(self) -> None:
        """Gives a sign of life, and clears away the files of earlier owners.

        Raises:
            LeaseLost: Another process has taken the place over.
            UserError: The store cannot be used now; the place may still be held.
        """
        self.check()
        assert self._record is not None
        changes = {"beats": self._record.beats + 1, "heartbeat": self._now()}
        self._record = self._record.model_copy(update=changes)
        self._store.write(_file_name(self.generation), _content(self._record))
        try:
            for name, (generation, _) in self._files.items():
                if generation < self.generation:
                    self._store.remove(name)
        except (UserError, OSError) as error:
            logger.info("files of earlier owners stay in %s for now (%s)", self._place, error)

    def check(self) -> None:
        """Asks the store whether this process still owns the place.

        Raises:
            LeaseLost: Another process has taken it over; the message names it.
            UserError: The store cannot be used now; the place may still be held.
        """
        self.check_what_is_known()
        assert self._record is not None
        newest, name = self._newest(), _file_name(self.generation)
        if newest > self.generation:
            self._lose(self._owner(newest))
        own = self._read(name)
        if own is None and not self._store.create(name, _content(self._record)):  # somebody has removed it
            own = self._read(name)
        record = _parsed(own)
        if record is not None and record.attempt != self.attempt:  # the store has lost our file, or creates files twice
            self._lose(record)

    def check_what_is_known(self) -> None:
        """Asks nothing, but fails if an earlier sign of life found the place taken over.

        Raises:
            LeaseLost: Another process has taken it over; the message names it.
        """
        if self._lost is not None:
            raise LeaseLost(str(self._lost))

    def release(self) -> None:
        """Gives the place back, if it is held; the next process then need not wait.

        If the store cannot be used now, there is only a warning, and a next owner waits for `LEASE_SECONDS`.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        giving_up = threading.Event()
        limit = threading.Timer(GIVE_BACK_SECONDS, giving_up.set)
        limit.start()
        try:
            if self.generation and self._lost is None:
                retrying.until(giving_up, self._write_released)
        except LeaseLost:
            pass
        except (UserError, OSError) as error:
            logger.warning("%s is not given back (%s); a next owner waits %.0f s", self._place, error, LEASE_SECONDS)
        finally:
            limit.cancel()
            self._forget()

    def _write_released(self) -> None:
        self.check()
        assert self._record is not None
        record = self._record.model_copy(update={"released": True})
        self._store.write(_file_name(self.generation), _content(record))

    def _keep_beating(self) -> None:
        while True:
            try:
                retrying.until(self._stopping, self.beat)
            except LeaseLost:
                return  # whoever checks hears of it
            except Exception as error:  # whatever it is, the next sign of life may succeed
                logger.warning("no sign of life in %s for now (%s)", self._place, error)
            if self._stopping.wait(BEAT_SECONDS):
                return

    # ------------------------------------------------------------------------------------------------------ taking over

    def _claim(self, generation: int) -> bool:
        """Takes a number; returns whether this process got it and nobody has a higher one."""
        try:
            machine = self._lock_number(generation)
            self._record = Owner(
                attempt=self.attempt,
                host=socket.gethostname(),
                pid=os.getpid(),
                machine=machine,
                began=self._now(),
                heartbeat=self._now(),
                beats=0,
            )
            self.generation = generation
            if self._store.create(_file_name(generation), _content(self._record)):
                self.check()
                return True
        except LeaseLost:
            pass
        except BaseException:
            self._forget()
            raise
        self._forget()
        return False

    def _lock_number(self, generation: int) -> str:
        """Locks a number before it is taken, so that its owner is locked for all of its life.

        Returns:
            The identity of this machine; "" if the store has no locks.
        """
        if not isinstance(self._store, Locks):
            return ""
        try:
            self._lock = self._store.lock(_file_name(generation, "lock"))
        except OSError:  # this file system has no locks, or cannot be written: then creating the file fails too
            return ""
        if self._lock is None:
            raise self._in_use(self._owner(generation))
        return _this_machine()

    def _forget(self) -> None:
        self.generation, self._record, self._lost = 0, None, None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _has_ended(self, generation: int) -> bool:
        """Waits until an owner has ended, or must be dead; returns False if another one has replaced it meanwhile.

        Raises:
            Unavailable: It lives; the message names it.
        """
        name = _file_name(generation)
        first = now = self._read(name)
        silence, looked = 0.0, self._clock.monotonic()
        while now is not None and not self._is_over(now, generation):
            if now != first:
                raise self._in_use(_parsed(now))
            if silence >= LEASE_SECONDS:
                return True
            if not silence:
                logger.info(
                    "%s seems to be in use; waiting up to %.0f s for a sign of life", self._place, LEASE_SECONDS
                )
            self._clock.sleep(WATCH_SECONDS)
            now = self._read(name)
            # While the store was out of reach, the owner could not write either: that time is no silence.
            silence += min(self._clock.monotonic() - looked, 2 * WATCH_SECONDS)
            looked = self._clock.monotonic()
        return now is not None

    def _is_over(self, content: bytes, generation: int) -> bool:
        """Returns whether an owner has certainly ended.

        Raises:
            Unavailable: It is a process of this machine and lives.
        """
        record = _parsed(content)
        if record is None or record.released:
            return record is not None
        if not isinstance(self._store, Locks) or record.machine != _this_machine():
            return False
        try:
            lives = self._store.is_locked(_file_name(generation, "lock"))
        except OSError:
            return False
        if lives:
            raise self._in_use(record)
        return True

    # ------------------------------------------------------------------------------------------------ the store's files

    def _newest(self) -> int:
        """Lists the owners' files; returns the highest generation, 0 if there is none."""
        found = [_FILE.fullmatch(entry.name) for entry in self._store.entries()]
        self._files = {match[0]: (int(match[1]), match[2]) for match in found if match}
        return max((generation for generation, kind in self._files.values() if kind == "json"), default=0)

    def _read(self, name: str) -> bytes | None:
        try:
            return self._store.read(name)
        except NotThere:
            return None

    def _owner(self, generation: int) -> Owner | None:
        return _parsed(self._read(_file_name(generation)))

    def _lose(self, successor: Owner | None) -> None:
        self._lost = LeaseLost(
            f"{self._place} was taken over by {successor or 'another process'}, because nothing was "
            "heard from this process for too long; it stops and leaves the other one's files alone."
        )
        raise self._lost

    def _in_use(self, owner: Owner | None) -> Unavailable:
        who = owner or "another process"
        return Unavailable(
            f"{self._place} is in use by {who}; wait for its end or stop it, then run the same command again."
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.time(), UTC)


def _file_name(generation: int, kind: str = "json") -> str:
    return f"owner-{generation:06d}.{kind}"


def _content(record: Owner) -> bytes:
    return (record.model_dump_json(indent=1) + "\n").encode()


def _parsed(content: bytes | None) -> Owner | None:
    """Returns the owner that a file names; None if there is no file, or it is damaged."""
    try:
        return Owner.model_validate_json(content or b"")
    except ValidationError:
        return None


def _this_machine() -> str:
    """Returns an identity of this machine since its last start; its containers share it, as they do locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()
