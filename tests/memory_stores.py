"""A store in memory that fails on demand, behind the same policy of repeating as the real ones."""

import contextlib
import itertools
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from components.catlib.errors import UserError
from components.catlib.storage import Entry, NotThere
from components.catlib.storage.retrying import Retrying, passes, silent

Result = TypeVar("Result")


class MemoryStore:
    """Keeps files in a dict.

    Every attempt of an operation takes the next fault of the script:

    - None: nothing goes wrong;
    - "lost": the request does not arrive;
    - "unanswered": it is done, but the answer does not arrive;
    - "torn": what is read or written breaks off in the middle;
    - "refused": it is not done, and would not be later;
    - "forgotten": it is answered as if done, but nothing was done.

    Attributes:
        files: Content and version of every file.
        modified: When every file was written.
        faults: The script; after its end nothing goes wrong.
        attempts: How many there were.
    """

    server = "The memory"

    def __init__(self, faults: Iterable[str | None] = (), *, patience: float = 5.0) -> None:
        self.address = "memory"
        self.files: dict[str, tuple[bytes, int]] = {}
        self.modified: dict[str, float] = {}
        self.faults = iter(faults)
        self.attempts = 0
        self._versions = itertools.count(1)
        self._lock = threading.Lock()
        self._patiently = Retrying(patience, errors=(OSError,), passes=passes, explain=self._explain)

    def entries(self) -> list[Entry]:
        return self._do("listing", lambda _: [self._entry(name) for name in sorted(self.files)])

    def entry(self, name: str) -> Entry | None:
        return self._do(f"asking for {name}", lambda _: self._entry(name) if name in self.files else None)

    def read(self, name: str) -> bytes:
        return self._do(f"reading {name}", lambda _: self._content(name))

    def read_part(self, name: str, path: Path, start: int, length: int) -> None:
        def copy(torn: bool) -> None:
            part = self._content(name)[start : start + (length // 2 if torn else length)]
            with path.open("r+b") as file:
                file.seek(start)
                file.write(part)

        self._do(f"reading {name}", copy)

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        content = self.read(name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            path.write_bytes(content)
            yield path

    def write(self, name: str, source: bytes | Path) -> None:
        content = source if isinstance(source, bytes) else source.read_bytes()

        def put(torn: bool) -> None:
            if not torn:
                self.files[name] = content, next(self._versions)
                self.modified[name] = time.time() // 1

        self._do(f"writing {name}", put)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            yield path
            self.write(name, path)

    def create(self, name: str, content: bytes) -> bool:
        def put(torn: bool) -> bool:
            if not torn and name not in self.files:
                self.files[name] = content, next(self._versions)
                self.modified[name] = time.time() // 1
            return name in self.files and self.files[name][0] == content

        return self._do(f"creating {name}", put)

    def remove(self, name: str) -> None:
        self._do(f"deleting {name}", lambda _: self.files.pop(name, None))

    def _entry(self, name: str) -> Entry:
        content, version = self.files[name]
        return Entry(name, len(content), str(version), self.modified.get(name, math.inf))

    def _content(self, name: str) -> bytes:
        if name not in self.files:
            raise NotThere(f"There is no file {name} in memory.")
        return self.files[name][0]

    def _do(self, what: str, action: Callable[[bool], Result]) -> Result:
        """Makes an attempt, and others while the faults pass."""

        def attempt() -> Result:
            with self._lock:
                self.attempts += 1
                fault = next(self.faults, None)
                if fault == "lost":
                    raise ConnectionError("nobody there")
                if fault == "refused":
                    raise PermissionError("no")
                before = dict(self.files)
                result = action(fault == "torn")
                if fault == "forgotten":
                    self.files = before
                if fault in ("unanswered", "torn"):
                    raise ConnectionResetError("it broke off")
                return result

        return self._patiently(what, attempt)

    def _explain(self, what: str, error: Exception, seconds: float) -> UserError:
        if passes(error):
            return silent(self.server, what, str(error), seconds)
        return UserError(f"{self.server} refused ({what}: {error}).")
