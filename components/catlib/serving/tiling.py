"""Runs a generator on pictures of any size, in bounded memory where the result is the same to rounding.

A picture is enlarged by reflection to whole size steps, at its lower and right edge, and the result is cut back. What
the network makes of the enlarged picture at once is the definition; tiles only save memory.

A pixel of the result depends on pixels at most the receptive radius R away, unless a norm uses the statistics of the
whole picture. So a tile is read with R more pixels on every side, rounded up to whole steps, and these are cut from the
result: the padding inside the network, at the edges of a tile, reaches none of the pixels that are kept. At the edges
of the picture a tile ends where the picture ends, and so is padded there as the whole picture is.

Suffixes: C channels, H height, W width.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.catlib.errors import UserError
from components.catlib.serving.model import Model, Planes
from components.catlib.serving.pictures import Canvas, Picture
from components.catlib.timing import measure

ALWAYS_WHOLE = 512 * 512
"""Pixels of a picture that is always translated at once."""

MEMORY = 750 * 10**6
"""Bytes that picture, translation and a tile may take together: with Python and libraries less than 1 GB."""

LEAST_FOR_TILE = 128 * 10**6
"""Bytes that a tile may take in any case."""

KEPT_FREE = 0.9
"""Share of the free memory that a picture may take."""

_PROBES = (128, 256)
"""Sides of the squares on which memory per pixel is measured."""

_BYTES_PER_PIXEL = 4096
"""Memory per pixel where the system does not report it: that of a teacher of the paper, rounded up."""


class Tile(NamedTuple):
    """One axis of a tile, in pixels of the enlarged picture: what is read, and the part of it that is kept."""

    start: int
    end: int
    kept_start: int
    kept_end: int


def translate(
    model: Model, picture: Picture, *, shown: Callable[[list[tuple[Tile, Tile]]], Iterable[tuple[Tile, Tile]]] = iter
) -> Canvas:
    """Translates a picture at its own size.

    Args:
        model: The generator.
        picture: The picture, at least as large as the model's smallest.
        shown: Yields the rows and columns of the tiles, and may show how many are done.

    Raises:
        UserError: The model cannot take this size, or memory does not suffice for it.
    """
    height, width = picture.size
    check_size(model, height, width)
    canvas = picture.canvas()
    sides = enlarged(height, model.size_step), enlarged(width, model.size_step)
    rows, columns = plan(model, *sides, held=picture.bytes + canvas.bytes)
    for row, column in shown([(row, column) for row in rows for column in columns]):
        made_CHW = model(_read(picture, row, column))
        top, left = row.kept_start, column.kept_start
        bottom, right = min(row.kept_end, height), min(column.kept_end, width)
        if bottom > top and right > left:  # else it is the enlarged edge alone
            kept = slice(top - row.start, bottom - row.start), slice(left - column.start, right - column.start)
            canvas.put(top, left, made_CHW[:, kept[0], kept[1]])
    return canvas


def check_size(model: Model, height: int, width: int) -> None:
    """Refuses a picture that the generator cannot translate at its own size; raises UserError."""
    if model.fixed_size is not None and (height, width) != model.fixed_size:
        expected = "x".join(map(str, model.fixed_size))
        what = "label maps" if isinstance(model.reads, Planes) else "pictures"
        raise UserError(
            f"has {height}x{width} pixels (height x width), but this model takes {what} of {expected} alone; resize it."
        )
    if min(height, width) < model.smallest_size:
        raise UserError(
            f"has {height}x{width} pixels (height x width), but this model needs at least {model.smallest_size} each "
            "way; enlarge it."
        )


def enlarged(side: int, step: int) -> int:
    """Returns the next multiple of a size step."""
    return -(-side // step) * step


def plan(model: Model, height: int, width: int, *, held: int) -> tuple[list[Tile], list[Tile]]:
    """Returns the rows and columns of tiles for an enlarged picture; one each if it is translated at once.

    Args:
        model: The generator.
        height: In pixels, whole size steps.
        width: In pixels, whole size steps.
        held: Bytes that the picture and its translation take.

    Raises:
        UserError: The picture has to be translated at once, and memory does not suffice.
    """
    whole = [Tile(0, height, 0, height)], [Tile(0, width, 0, width)]
    if height * width <= ALWAYS_WHOLE or model.fixed_size is not None:
        return whole
    per_pixel = bytes_per_pixel(model)
    free = free_memory()
    if model.receptive_radius is None:
        check_memory(height, width, per_pixel, free)
        return whole
    allowed = max(LEAST_FOR_TILE, MEMORY - held)
    allowed = allowed if free is None else min(allowed, KEPT_FREE * free)
    if height * width * per_pixel <= allowed:
        return whole
    context = enlarged(model.receptive_radius, model.size_step)
    side = math.isqrt(int(allowed / per_pixel)) - 2 * context
    side = max(side // model.size_step * model.size_step, 4 * model.size_step)
    return tiles(height, side, context), tiles(width, side, context)


def tiles(length: int, side: int, context: int) -> list[Tile]:
    """Cuts an axis into parts of about equal length, each read with context.

    With a length of 40, sides of 16 and a context of 8, whole steps of 4, parts of 16, 16 and 8 pixels are kept: they
    are read from 0 to 24, from 8 to 40 and from 24 to 40.

    Args:
        length: Of the picture, in pixels; all are whole size steps.
        side: Pixels that are kept of a tile.
        context: Pixels that are read beyond them.
    """
    starts = range(0, length, side)
    ends = [min(start + side, length) for start in starts]
    return [
        Tile(max(0, start - context), min(length, end + context), start, end)
        for start, end in zip(starts, ends, strict=True)
    ]


def _read(picture: Picture, row: Tile, column: Tile) -> NDArray[np.float32]:
    """Returns what a tile reads, [C, H, W]; beyond the edge of the picture, its reflection."""
    height, width = picture.size
    bottom, right = min(row.end, height), min(column.end, width)
    numbers_CHW = picture.region(row.start, bottom, column.start, right)
    beyond = (0, 0), (0, row.end - bottom), (0, column.end - right)
    return np.pad(numbers_CHW, beyond, mode="reflect") if row.end > bottom or column.end > right else numbers_CHW


# -------------------------------------------------------------------------------------------------------------- memory


@functools.cache
def bytes_per_pixel(model: Model) -> float:
    """Returns how much memory a translation takes per pixel, beside the picture and its translation.

    What the network takes is measured: the rise from a small square to a larger one. To that come the numbers that it
    reads and makes, with a copy of each.
    """
    sides = [enlarged(max(side, model.smallest_size), model.size_step) for side in _PROBES]
    channels = model.session.get_inputs()[0].shape[1]
    own = 4 * 4 * (channels + model.makes.channels)
    images = {str(side): np.zeros((channels, side, side), np.float32) for side in sides}
    calls = {name: functools.partial(model, image) for name, image in images.items()}
    found = measure(calls, repeats=1, warmup=0, memory=True)
    small, large = (found[str(side)].host_bytes for side in sides)
    if small is None or large is None or large <= small:
        return float(_BYTES_PER_PIXEL)
    return own + (large - small) / (sides[1] ** 2 - sides[0] ** 2)


def check_memory(height: int, width: int, per_pixel: float, free: int | None) -> None:
    """Refuses a picture that has to be translated at once if memory does not suffice.

    Args:
        height: In pixels.
        width: In pixels.
        per_pixel: Bytes that the network takes per pixel.
        free: Free memory in bytes; None: unknown.

    Raises:
        UserError: It does not; the message names the largest size that fits.
    """
    if free is None or height * width * per_pixel <= KEPT_FREE * free:
        return
    pixels = KEPT_FREE * free / per_pixel
    scale = math.sqrt(pixels / (height * width))
    fitting = f"{int(height * scale)}x{int(width * scale)}"
    raise UserError(
        f"has {height}x{width} pixels (height x width) and needs about {height * width * per_pixel / 1e9:.1f} GB, but "
        f"{free / 1e9:.1f} GB are free; this model's norms use the statistics of the whole picture, so it cannot be "
        f"cut into tiles: the largest size of this shape that fits is {fitting}."
    )


def free_memory() -> int | None:
    """Returns how much more memory this process may take, in bytes; None if the system does not report it.

    This is the smaller of what the machine has left and what the limits of the container leave.
    """
    return min(_free_places(), default=None)


def _free_places() -> Iterator[int]:
    with contextlib.suppress(OSError):
        if found := re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE):
            yield 1024 * int(found[1])
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max", no limit
            yield int(Path(folder, limit).read_text()) - int(Path(folder, used).read_text()) + _cached(folder)
    if not Path("/proc/meminfo").exists():
        with contextlib.suppress(OSError, ValueError):
            yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _cached(folder: str) -> int:
    """Returns the memory that a container has lent to files and gets back when it needs it."""
    with contextlib.suppress(OSError):
        if found := re.search(
            r"^(?:total_)?inactive_file (\d+)", Path(folder, "memory.stat").read_text(), re.MULTILINE
        ):
            return int(found[1])
    return 0
