"""A small world with a clock of its own, workers that take turns, and a store that fails, all decided by one seed.

A worker is a thread that runs our real code. It has the baton from one turn to the next: every request to the store,
and every wait, is a turn. So a seed gives the same story each time. A worker that is killed is refused everything from
that turn on; what its code does about that reaches nobody.
"""

import contextlib
import datetime
import errno
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from unittest import mock

from components.catlib import artifacts
from components.catlib.errors import Unavailable, UserError
from components.catlib.storage import Entry, cache, folders, parallel, published
from components.catlib.storage.folders import FolderStore
from components.catlib.training import checkpoints
from tests.memory_stores import MemoryStore

BEGAN = datetime.datetime(2026, 11, 26, 12, tzinfo=datetime.UTC).timestamp()
MOST_TURNS = 20_000

PASSING = ("lost", "unanswered", "cut", "429", "503", "hangs")
"""Faults that a request survives, because it is repeated."""
LASTING = ("refused", "full")
"""Faults that it does not survive."""
LIES = ("forgotten", "torn", "other bytes")
"""What a broken store does: it loses or tears what it has acknowledged, or returns other bytes."""


class Died(BaseException):
    """The worker was killed."""


class PassingFault(Exception):
    """A request failed and may succeed later."""


class World:
    """Everything that happens, in order.

    Attributes:
        chance: Decides everything.
        now: Seconds since the beginning.
        story: What happened, a line each.
        lies: What the store has lied about.
        calm: Whether nothing fails any more.
        faults: What requests may meet.
        rate: Share of the requests that meet one, and of the writes to the disk that find it full.
        deadliness: Share of the turns at which the worker is killed.
        pauses: Share of the turns at which it stands still for minutes, as on a machine that sleeps.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self.story: list[str] = []
        self.lies: list[str] = []
        self.calm = False
        self.faults: tuple[str, ...] = ()
        self.rate = 0.0
        self.deadliness = 0.0
        self.pauses = 0.0
        self.workers: list[Worker] = []
        self._turns = 0
        self._locks: dict[Path, Worker] = {}

    def tell(self, line: str) -> None:
        worker = self.current
        self.story.append(f"{self.now:8.1f}  {worker.name if worker else '-':10} {line}")

    @property
    def current(self) -> "Worker | None":
        thread = threading.current_thread()
        return thread if isinstance(thread, Worker) else None

    # ----------------------------------------------------------------------------------------------------------- turns

    def run(self) -> None:
        """Lets the workers take turns until all have ended."""
        while alive := [worker for worker in self.workers if not worker.ended]:
            self._turns += 1
            assert self._turns < MOST_TURNS, "the workers do not come to an end"
            self.now = max(self.now, min(worker.wakes for worker in alive))
            worker = self.chance.choice([worker for worker in alive if worker.wakes <= self.now])
            worker.go.release()
            worker.back.acquire()

    def turn(self, seconds: float = 0.0) -> None:
        """Gives the baton away for some time.

        Raises:
            Died: The worker was killed meanwhile, or is dead already.
        """
        worker = self.current
        if worker is None:
            self.now += seconds
            return
        if not worker.is_dead:
            if not self.calm and self.chance.random() < self.pauses:
                seconds += self.chance.uniform(60, 300)
                self.tell(f"stands still for {seconds:.0f} s")
            worker.wakes = self.now + seconds
            worker.back.release()
            worker.go.acquire()
        self.perhaps_die()

    def perhaps_die(self) -> None:
        worker = self.current
        if worker is not None and not worker.is_dead and not self.calm and self.chance.random() < self.deadliness:
            worker.is_dead = True
            self.tell("is killed")
        if worker is not None and worker.is_dead:
            raise Died

    def fault(self, *, writes: bool) -> str | None:
        if self.calm or self.chance.random() >= self.rate:
            return None
        fault = self.chance.choice(self.faults)
        return None if fault in ("full", "forgotten", "torn") and not writes else fault

    def fsync(self, path: Path) -> None:
        """Stands for bytes that reach the disk, if it has room for them."""
        self.turn()
        if not self.calm and self.chance.random() < self.rate:
            self.tell(f"the disk is full at {path.name}")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    @contextlib.contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        """Stands for a lock between processes, which ends with its owner."""
        while (owner := self._locks.get(path)) is not None and not owner.is_dead:
            self.sleep(1.0)
        if self.current is not None:
            self._locks[path] = self.current
        try:
            yield
        finally:
            self._locks.pop(path, None)

    # ------------------------------------------------------------------------------------------------ what `time` has

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return BEGAN + self.now

    def sleep(self, seconds: float) -> None:
        self.turn(seconds)


class Worker(threading.Thread):
    """A process that runs a command.

    Attributes:
        wakes: Time of its next turn.
        is_dead: Whether it was killed.
        ended: Whether it has ended, in one way or another.
        answer: What its command returned.
        refusal: The sentence that it ended with.
        fault: Anything else that it ended with.
    """

    def __init__(self, world: World, name: str, command: Callable[[], object], *, at: float = 0.0) -> None:
        super().__init__(name=name, daemon=True)
        self._world = world
        self._command = command
        self.wakes = at
        self.is_dead = self.ended = False
        self.answer: object = None
        self.refusal: UserError | None = None
        self.fault: BaseException | None = None
        self.go, self.back = threading.Semaphore(0), threading.Semaphore(0)
        world.workers.append(self)
        self.start()

    def run(self) -> None:
        self.go.acquire()
        try:
            self._world.tell("begins")
            self.answer = self._command()
            self._world.tell(f"ends: {self.answer}")
        except Died:
            self.is_dead = True
        except UserError as error:
            self.refusal = error
            self._world.tell(f"is refused: {error}")
        except BaseException as error:
            self.fault = error
        self.ended = True
        self.back.release()


class FaultyStore:
    """A store in the memory of the world, behind a network.

    Attributes:
        inner: The same store without faults.
        address: Its name.
    """

    server = "The store"

    def __init__(self, world: World, address: str, *, patience: float = 120.0) -> None:
        self.world = world
        self.inner: Any = MemoryStore()
        self.inner.address = self.address = address
        self._patience = patience

    def entries(self) -> list[Entry]:
        return self._ask("list", "", self.inner.entries)

    def entry(self, name: str) -> Entry | None:
        return self._ask("look up", name, lambda: self.inner.entry(name))

    def read(self, name: str) -> bytes:
        return self._ask("read", name, lambda: self.inner.read(name))

    def read_part(self, name: str, path: Path, start: int, length: int) -> None:
        content = self._ask("read part of", name, lambda: self.inner.read(name)[start : start + length])
        with path.open("r+b") as file:
            file.seek(start)
            file.write(content)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        content = self.read(name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            path.write_bytes(content)
            yield path

    def write(self, name: str, source: bytes | Path) -> None:
        content = source if isinstance(source, bytes) else source.read_bytes()
        self._ask("write", name, lambda: self.inner.write(name, content), content=content)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            yield path
            self.write(name, path)

    def create(self, name: str, content: bytes) -> bool:
        return self._ask("create", name, lambda: self.inner.create(name, content), content=content, answer=True)

    def remove(self, name: str) -> None:
        self._ask("remove", name, lambda: self.inner.remove(name), writes=True)

    def _ask(
        self,
        what: str,
        name: str,
        action: Callable[[], Any],
        *,
        content: bytes | None = None,
        writes: bool = False,
        answer: object = None,
    ) -> Any:
        """Makes a request, and repeats it while it fails for a passing reason."""
        first_failure = None
        while True:
            self.world.turn(self.world.chance.choice([0.0, 0.01, 0.1]))
            fault = self.world.fault(writes=writes or content is not None)
            if fault is not None:
                self.world.tell(f"{what} {self.address}/{name}: {fault}")
            try:
                result = self._attempt(fault, name, action, content, answer)
                self.world.perhaps_die()  # before anybody hears of the answer
                return result
            except PassingFault as error:
                first_failure = self.world.now if first_failure is None else first_failure
                if self.world.now - first_failure > self._patience:
                    raise Unavailable(f"The store did not answer for {self._patience:.0f} s ({what}).") from error
                self.world.sleep(self.world.chance.uniform(0, 10))

    def _attempt(
        self, fault: str | None, name: str, action: Callable[[], Any], content: bytes | None, answer: object
    ) -> Any:
        match fault:
            case None:
                return action()
            case "slow":
                self.world.sleep(self.world.chance.uniform(1, 90))
                return action()
            case "lost" | "429" | "503":
                raise PassingFault
            case "unanswered" | "cut":
                action()
                raise PassingFault
            case "hangs":
                self.world.sleep(60)
                if self.world.chance.random() < 0.5:
                    action()
                raise PassingFault
            case "refused":
                raise UserError("The store refused; check the rights of this user.")
            case "full":
                raise UserError("The store is full; make room.")
        self.world.lies.append(fault)
        if fault == "forgotten":
            return answer
        if fault == "torn" and content is not None:
            self.inner.write(name, content[: len(content) // 2])
            return answer
        return self._other(action())

    def _other(self, result: Any) -> Any:
        if not isinstance(result, bytes) or not result:
            return result
        at = self.world.chance.randrange(len(result))
        return result[:at] + bytes([result[at] ^ 1 << self.world.chance.randrange(8)]) + result[at + 1 :]


class FaultyFolder(FaultyStore):
    """A folder on a disk that fails; it has locks, which end with their worker."""

    server = "this machine"

    def __init__(self, world: World, folder: Path) -> None:
        super().__init__(world, "state", patience=0.0)
        self.inner = FolderStore(str(folder))

    def lock(self, name: str) -> IO[bytes] | None:
        self.world.turn()
        return self.inner.lock(name)

    def is_locked(self, name: str) -> bool:
        self.world.turn()
        return self.inner.is_locked(name)


class _AtOnce:
    """Runs what it is given at once, in the same thread; stands in for an executor."""

    def __init__(self, *_: object) -> None:
        pass

    def submit(self, action: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(action(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_: bool) -> None:
        pass


@contextlib.contextmanager
def inside(world: World) -> Iterator[None]:
    """Lets our code live in the world: its clock, its chance, one thread per worker."""

    def run(_: object, tasks: Any) -> None:
        tasks = list(tasks)
        world.chance.shuffle(tasks)
        for task in tasks:
            task()

    names = SimpleNamespace(uuid4=lambda: SimpleNamespace(hex=f"{world.chance.getrandbits(128):032x}"))
    clock = SimpleNamespace(
        time=world.time, monotonic=world.monotonic, sleep=world.sleep, strftime=time.strftime, strptime=time.strptime,
        gmtime=lambda: time.gmtime(world.time()),
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        for module, name, stand_in in (
            (parallel, "_run", run),
            (checkpoints, "ThreadPoolExecutor", _AtOnce),
            (published, "uuid", names),
            (published, "time", clock),
            (artifacts, "uuid", names),
            (cache, "filelock", SimpleNamespace(FileLock=world.lock)),
            (artifacts, "fsync", world.fsync),
            (folders, "fsync", world.fsync),
        ):
            stack.enter_context(mock.patch.object(module, name, stand_in))
        yield
