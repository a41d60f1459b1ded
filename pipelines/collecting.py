"""The commands `du` and `gc`: what takes space on this machine or in the object store, and what of it is old."""

from __future__ import annotations

import argparse
import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.catlib.errors import Unavailable, UserError
from components.catlib.recipes import load_recipe
from components.catlib.storage import is_in_object_store, open_store
from components.catlib.storage.cache import user_folder
from components.catlib.storage.retrying import first_line
from pipelines.collectable import BUSY_SECONDS, InUse, Thing, age_text, outermost, parse_age, size_text
from pipelines.workspaces import check_workspace, out_of_use, things_in_downloads, things_in_workspace

OF_RUNS = ("artifacts", "cache", "logs")
"""Kinds of things of which a run that is running may use any at any time."""


@dataclass(frozen=True)
class Place:
    """A workspace, the downloads or an address of the store.

    Attributes:
        address: Where it is.
        measure: Returns what is there; the argument is the Unix time before which things are old.
        workspace: Its folder if it is a workspace.
    """

    address: str
    measure: Callable[[float], Iterable[Thing]]
    workspace: Path | None = None


def add_commands(commands: Any) -> None:
    """Adds the two commands to those of `python -m pipelines`."""
    du = commands.add_parser(
        "du",
        help="Show what takes space: results, artifacts, checkpoints, logs, downloads.",
        description="Show what takes space on this machine, or in the object store: how much, and how old.",
    )
    du.set_defaults(command=_du)
    gc = commands.add_parser(
        "gc",
        help="List, and with --delete remove, what is old and no longer needed.",
        description="List what is old: checkpoints, artifacts with their cache entries, logs, downloads, half-written "
        "leftovers. With --delete, remove it. Results (WORKSPACE/RECIPE), what they were made from, and what a "
        "running process uses always stay.",
    )
    gc.add_argument(
        "--older-than",
        default="30d",
        metavar="AGE",
        help="age since the last change or use, in hours, days or weeks: 12h, 30d, 2w (default: 30d)",
    )
    gc.add_argument("--delete", action="store_true", help="remove what is listed")
    gc.set_defaults(command=_gc)
    for command in (du, gc):
        command.add_argument(
            "--workspace", type=Path, default=Path("runs"), help="folder of artifacts, cache and logs (default: runs)"
        )
        elsewhere = command.add_mutually_exclusive_group()
        elsewhere.add_argument("--store", metavar="URI", help="look below this s3:// address, not on this machine")
        elsewhere.add_argument(
            "--recipe", help="look below the resources.checkpoints of this recipe (a name or a .yaml file)"
        )


# ---------------------------------------------------------------------------------------------------------------- show


def _du(options: argparse.Namespace) -> tuple[str, dict[str, object]]:
    now, lines, places = time.time(), [], []
    for place in _places(options):
        things = outermost(place.measure(0.0))
        kinds = {kind: [thing for thing in things if thing.kind == kind] for kind in sorted({t.kind for t in things})}
        total = sum(thing.bytes for thing in things)
        lines.append(f"{place.address}: {size_text(total)}")
        for kind, found in kinds.items():
            ages = [now - thing.used for thing in found]
            size = size_text(sum(thing.bytes for thing in found))
            lines.append(f"  {kind:18} {len(found):6} {size:>10}   {age_text(min(ages)):>6} to {age_text(max(ages))}")
        places.append(
            {"address": place.address, "bytes": total, "kinds": {k: _totals(f, now) for k, f in kinds.items()}}
        )
    return "\n".join(lines), {"places": places}


def _totals(things: Sequence[Thing], now: float) -> dict[str, float]:
    ages = [max(0.0, now - thing.used) / 86400 for thing in things]
    return {
        "count": len(things),
        "bytes": sum(thing.bytes for thing in things),
        "newest_days": round(min(ages), 2),
        "oldest_days": round(max(ages), 2),
    }


# ------------------------------------------------------------------------------------------------------------- collect


def _gc(options: argparse.Namespace) -> tuple[str, dict[str, object]]:
    older, now = parse_age(options.older_than), time.time()
    before = min(now - older, now - BUSY_SECONDS)
    lines: list[str] = []
    answer: dict[str, Any] = {"deleted": options.delete, "things": [], "bytes": 0, "kept": [], "failed": []}
    for place in _places(options):
        with _without_runs(place) as free:
            things = _guarded(place.measure(before), free=free)
            answer["kept"] += [_facts(thing) | {"reason": thing.kept} for thing in things if thing.kept and thing.bytes]
            for thing in outermost(thing for thing in things if thing.used < before and not thing.kept):
                _collect(thing, now, options.delete, lines, answer)
    size = size_text(answer["bytes"])
    lines += sorted(_reasons(answer["kept"]))
    lines.append(f"{size} removed" if options.delete else f"{size} to remove; --delete removes it")
    if answer["failed"]:
        lines.append(f"{len(answer['failed'])} could not be removed")
    return "\n".join(lines), answer


def _collect(thing: Thing, now: float, delete: bool, lines: list[str], answer: dict[str, Any]) -> None:
    """Removes a thing, or says that it would be removed."""
    facts = _facts(thing)
    try:
        if delete:
            thing.remove()
    except InUse as reason:
        answer["kept"].append(facts | {"reason": str(reason)})
        return
    except Unavailable:
        raise
    except (OSError, UserError) as error:
        answer["failed"].append(facts | {"reason": first_line(error)})
        lines.append(f"failed: {thing.address}: {first_line(error)}")
        return
    answer["things"].append(facts | {"days": round((now - thing.used) / 86400, 2)})
    answer["bytes"] += thing.bytes
    lines.append(f"{thing.kind:18} {size_text(thing.bytes):>10} {age_text(now - thing.used):>6}   {thing.address}")


def _facts(thing: Thing) -> dict[str, Any]:
    return {"kind": thing.kind, "address": thing.address, "bytes": thing.bytes}


@contextlib.contextmanager
def _without_runs(place: Place) -> Iterator[bool]:
    """Keeps runs from starting in a workspace; gives False if one is running there."""
    if place.workspace is None or not place.workspace.is_dir():
        yield True
        return
    with out_of_use(place.workspace) as free:
        yield free


def _guarded(things: Iterable[Thing], *, free: bool) -> list[Thing]:
    """Keeps what a run that is running may use."""
    return [
        thing if free or thing.kept or thing.kind not in OF_RUNS else replace(thing, kept="a run is running there")
        for thing in things
    ]


def _reasons(kept: Iterable[dict[str, Any]]) -> set[str]:
    kinds = {(each["kind"], each["reason"]) for each in kept}
    return {f"kept: {kind}: {reason}" for kind, reason in kinds}


def _places(options: argparse.Namespace) -> list[Place]:
    """Returns where to look: below an address of the store, or on this machine."""
    address = options.store
    if options.recipe is not None:
        address = load_recipe(options.recipe).resources.checkpoints
        if address is None:
            raise UserError(f"Recipe {options.recipe} has no resources.checkpoints; give the address with --store.")
    if address is None:
        check_workspace(options.workspace)
        workspace, downloads = options.workspace.resolve(), user_folder()
        return [
            Place(str(workspace), functools.partial(things_in_workspace, workspace), workspace),
            Place(str(downloads), lambda _: things_in_downloads(downloads)),
        ]
    if not is_in_object_store(address):
        raise UserError(
            f"--store {address} is not an address of the form s3://BUCKET/FOLDER; for folders: --workspace."
        )
    from pipelines.stored import things_in_store

    return [Place(address, lambda _: things_in_store(open_store(address)))]
