"""What every loader promises: it answers, or it refuses in one sentence, in bounded time and memory."""

import contextlib
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from components.catlib.errors import UserError
from tests.faults.mutations import Kind

LONGEST_MESSAGE = 1000
MOST_SECONDS = 10.0
"""Processor time; files of the tests are small."""
MOST_MEMORY = 3 * 2**30


class Loader(NamedTuple):
    """A reader of files or texts from outside.

    Attributes:
        kind: What such a file holds.
        seeds: Makes whole files.
        read: Reads a file, given its content and an empty folder; raises one of `refusals` if it is damaged.
        refusals: The exceptions that carry a sentence.
    """

    kind: Kind
    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], object]
    refusals: tuple[type[Exception], ...] = (UserError,)


class BrokenPromiseError(AssertionError):
    """A loader did something else than answer or refuse in one sentence."""


def judge(loader: Loader, content: bytes, folder: Path) -> str | None:
    """Lets a loader read a file, and returns the sentence of its refusal; None if it answered.

    Args:
        loader: The loader.
        content: The file.
        folder: An empty folder.

    Raises:
        BrokenPromiseError: The sentence has line breaks, is no sentence or too long, or reading took too long.
        Exception: Whatever else the loader raised.
    """
    began, message = time.process_time(), None
    try:
        loader.read(content, folder)
    except loader.refusals as refusal:
        message = str(refusal)
        if len(message.splitlines()) != 1 or "Traceback" in message:
            raise BrokenPromiseError(f"not one line: {message!r}") from refusal
        if not all(character.isprintable() for character in message):
            raise BrokenPromiseError(f"holds what no terminal shows: {message!r}") from refusal
        if len(message) >= LONGEST_MESSAGE:
            raise BrokenPromiseError(f"{len(message)} characters: {message[:200]!r}…") from refusal
    seconds = time.process_time() - began
    if seconds > MOST_SECONDS:
        raise BrokenPromiseError(f"{seconds:.1f} s of processor time: {message}")
    return message


@contextlib.contextmanager
def limited_memory(size: int = MOST_MEMORY) -> Iterator[None]:
    """Lets this process have so many further bytes; then Python raises MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
