"""What `du` measures and `gc` removes, whole: a checkpoint place, an artifact, a log, a download. And how old it is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from components.catlib.errors import UserError

BUSY_SECONDS = 3600.0
"""What changed within this time is never removed: a process may be writing to it, or be about to read it."""

CHECKPOINT_FILE = re.compile(r"step-\d{9,}[\w.-]*\.(pt|json)|owner-\d{6,}\.(json|lock)")
"""The files of a checkpoint place: states of a training, and the claims of its owners."""

REFUSAL_FILE = re.compile(r"(?:.+/)?refused/[^/]+\.[^/]+\.[^/]+\.json")
"""What a refused task leaves beside the checkpoints for its next attempt."""

_UNITS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


@dataclass(frozen=True)
class Thing:
    """Something that is measured and removed as a whole.

    Attributes:
        kind: What it is, in the plural: "checkpoints".
        address: Its folder, file or s3:// address.
        bytes: Its size.
        used: When it last changed or was last used: Unix time.
        remove: Removes it; raises `InUse` if it has been used meanwhile.
        kept: Why its age does not count and it stays; "" if its age counts.
    """

    kind: str
    address: str
    bytes: int
    used: float
    remove: Callable[[], None] = field(repr=False)
    kept: str = ""


class InUse(Exception):
    """A thing is used, or has changed since it was measured; the message says how."""


def outermost(things: Iterable[Thing]) -> list[Thing]:
    """Leaves out what lies inside another thing."""
    things = list(things)
    places = {Path(thing.address) for thing in things}
    return [thing for thing in things if places.isdisjoint(Path(thing.address).parents)]


def stays() -> None:
    """Is the `remove` of what is never removed."""
    raise AssertionError("this is never removed")


@dataclass(frozen=True)
class Made:
    """An artifact as a step from its inputs to what is made from it.

    Attributes:
        digest: Digest of its manifest.
        inputs: Digests of its inputs' manifests.
        used: When it was made or used: Unix time; infinity if it must stay.
    """

    digest: str
    inputs: frozenset[str]
    used: float


def last_uses(artifacts: Iterable[Made]) -> dict[str, float]:
    """Returns, by digest, when each artifact or anything that was made from it was last made or used.

    A teacher of last year whose students were made yesterday was used yesterday.
    """
    inputs: dict[str, frozenset[str]] = {}
    newest_first = sorted(artifacts, key=lambda made: -made.used)
    for made in newest_first:
        inputs[made.digest] = inputs.get(made.digest, frozenset()) | made.inputs
    uses: dict[str, float] = {}
    for made in newest_first:
        waiting = [made.digest]
        while waiting:
            digest = waiting.pop()
            if digest not in uses:  # else something newer has led here
                uses[digest] = made.used
                waiting += inputs.get(digest, ())
    return uses


def parse_age(text: str) -> float:
    """Reads an age such as 30d, 12h or 2w.

    Returns:
        Seconds.

    Raises:
        UserError: It is of another form.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text)
    if not found:
        raise UserError(f"--older-than {text!r} is not an age; give hours, days or weeks, such as 12h, 30d or 2w.")
    return float(found[1]) * _UNITS[found[2]]


def age_text(seconds: float) -> str:
    """Returns an age in one unit: "41 d"."""
    if not math.isfinite(seconds) or seconds < 3600:
        return "< 1 h"
    return f"{seconds / 86400:.0f} d" if seconds >= 2 * 86400 else f"{seconds / 3600:.0f} h"


def size_text(count: float) -> str:
    """Returns a size in one unit: "1.2 GB"."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"
