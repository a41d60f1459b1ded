"""A table of layers' times on one device, and the latency of a generator that follows from it.

    latency = overhead + Σ (per_layer + scale · time(part))

Between measured channel counts, times are interpolated linearly. Runtimes compute channels in blocks, so a count that
fills no block may take longer than the next larger one that does. Counts that are multiples of `multiple` are therefore
interpolated between such counts alone, and all others between others: the staircase stays.

A table may come from anywhere and is checked as such. docs/operations.md describes the format.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator
from pydantic_core import from_json

from components.catlib.config import Count, NonNegative, Positive, Section, WeightsConfig, validate
from components.catlib.config.student import Rewrite
from components.catlib.disk import check_plain
from components.catlib.errors import UserError
from components.catlib.latency.parts import Kind, Part, parts, traits
from components.catlib.networks.families import Architecture
from components.catlib.networks.layers import ImageSize
from components.catlib.storage import local_copy

LARGEST_FILE = 16_000_000
"""Bytes of a table at most; one that this project measures has a few hundred thousand."""

HOW_TO_MEASURE = "`python -m components measure-latency --recipe RECIPE --output table.json`"
"""The command that measures a table, for messages."""

Text = Annotated[str, Field(max_length=200)]
Channels = Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(min_length=1, max_length=1024)]
Side = Annotated[int, Field(ge=1, le=65536)]


class Times(Section):
    """Times of one kind of layer, by the number of its channels."""

    kind: Kind = Field(description="what the layer is (`components.catlib.latency.parts.Kind`)")
    kernel_size: Count = Field(le=99, description="side of its kernel in pixels; 1 for norms")
    input_size: tuple[Side, Side] = Field(description="height and width read, in pixels")
    output_size: tuple[Side, Side] = Field(description="height and width made, in pixels")
    in_channels: Channels = Field(description="numbers of channels read, ascending")
    out_channels: Channels | None = Field(
        default=None, description="numbers of channels made, ascending; null: as many as are read"
    )
    milliseconds: tuple[tuple[NonNegative, ...], ...] = Field(
        description="median time in milliseconds: a row per number of channels read, in it a number per number of "
        "channels made (one if out_channels is null)"
    )

    @model_validator(mode="after")
    def _check(self) -> Times:
        for axis in (self.in_channels, self.out_channels or ()):
            if any(one >= other for one, other in pairwise(axis)):
                raise ValueError("in_channels and out_channels must be ascending")
        widths = {len(row) for row in self.milliseconds}
        if len(self.milliseconds) != len(self.in_channels) or widths != {len(self.out_channels or (1,))}:
            raise ValueError("milliseconds needs a row per in_channels and in each a number per out_channels")
        return self

    @cached_property
    def grid(self) -> np.ndarray:
        """The times in milliseconds, float64 [in_channels, out_channels or 1]."""
        return np.array(self.milliseconds, np.float64)

    def axes(self, part: Part) -> list[tuple[tuple[int, ...], int]]:
        """Returns the measured counts and the part's count, of channels read and, where it differs, made."""
        made = [(self.out_channels, part.out_channels)] if self.out_channels else []
        return [(self.in_channels, part.in_channels), *made]

    def covers(self, part: Part) -> bool:
        """Whether the part's channels lie within the measured ones."""
        return all(axis[0] <= count <= axis[-1] for axis, count in self.axes(part))


class LatencyTable(Section):
    """Times of a network's layers on a device."""

    format: Literal[1] = Field(description="version of this format")
    device: Text = Field(description="the machine, such as the name of its CPU")
    runtime: Text = Field(description="the program that ran the layers, and its version")
    threads: Count = Field(description="CPU threads that it used")
    opset: Count = Field(description="version of the ONNX operator set")
    rewrites: tuple[Rewrite, ...] = Field(description="rewrites of the exported file (export.rewrites)")
    network: dict[Text, Text] = Field(max_length=16, description="family, norm, activation and padding of the students")
    multiple: int = Field(
        default=1, ge=1, le=64, description="channel counts that are multiples of this are interpolated apart"
    )
    overhead: NonNegative = Field(default=0.0, description="milliseconds that a network takes beside its layers")
    per_layer: NonNegative = Field(
        default=0.0, description="milliseconds that every layer takes within a network beside its own time"
    )
    scale: Positive = Field(default=1.0, description="factor on the times of layers when they run within a network")
    errors: tuple[NonNegative, ...] = Field(
        default=(), max_length=1000, description="relative errors for whole networks that the fit did not see"
    )
    layers: tuple[Times, ...] = Field(min_length=1, max_length=2000, description="times by kind, kernel and size")

    def __str__(self) -> str:
        """Names it for messages: "AMD EPYC, ONNX Runtime 1.32.0, 1 thread"."""
        return f"{self.device}, {self.runtime}, {self.threads} thread{'s' * (self.threads > 1)}"

    def latency(self, architecture: Architecture, size: ImageSize) -> float:
        """Predicts how long a generator takes for one image, in milliseconds.

        Args:
            architecture: The generator.
            size: Height and width of its images in pixels.

        Raises:
            UserError: The table was measured for other networks.
        """
        return self._total([self.time(part) for part in self._parts(architecture, size)])

    def least(self, smallest: Architecture, size: ImageSize) -> float:
        """Returns milliseconds that no generator with at least the channels and branches of another falls below."""
        return self._total([self._least(part) for part in self._parts(smallest, size)])

    def time(self, part: Part) -> float:
        """Returns the time of a part in milliseconds; raises UserError if it lies outside of what was measured."""
        if (known := self._known.get(part)) is None:
            known = self._known[part] = self._interpolated(part)
        return known

    def _total(self, times: list[float]) -> float:
        return self.overhead + self.per_layer * len(times) + self.scale * sum(times)

    def _parts(self, architecture: Architecture, size: ImageSize) -> list[Part]:
        for name, found in traits(architecture).items():
            if (measured := self.network.get(name, found)) != found:
                raise UserError(
                    f"The latency table of {self} was measured for networks with {name} {measured}, but the student "
                    f"has {found}; measure one for it: {HOW_TO_MEASURE}."
                )
        return parts(architecture, size, self.rewrites)

    @cached_property
    def _known(self) -> dict[Part, float]:
        return {}

    @cached_property
    def _by_shape(self) -> dict[tuple[Any, ...], list[Times]]:
        found: dict[tuple[Any, ...], list[Times]] = {}
        for times in self.layers:
            shape = (times.kind, times.kernel_size, times.input_size, times.output_size)
            found.setdefault(shape, []).append(times)
        return found

    def _times(self, part: Part) -> Times:
        for times in self._by_shape.get(part[:4], ()):
            if times.covers(part):
                return times
        raise UserError(
            f"The latency table of {self} has no time of {part}; measure one that fits the teacher: {HOW_TO_MEASURE}."
        )

    def _interpolated(self, part: Part) -> float:
        times = self._times(part)
        value = times.grid
        for axis, count in times.axes(part):  # each takes away the first dimension
            (low, high), share = _neighbours(axis, count, self.multiple)
            value = (1 - share) * value[low] + share * value[high]
        return float(np.sum(value))

    def _least(self, part: Part) -> float:
        times = self._times(part)
        starts = [bisect_right(axis, count) - 1 for axis, count in times.axes(part)]
        # The neighbours of a count in steps of `multiple` may lie below the nearest one.
        starts = [max(0, start - self.multiple) for start in starts]
        return float(times.grid[tuple(slice(start, None) for start in starts)].min())


def _neighbours(axis: tuple[int, ...], count: int, multiple: int) -> tuple[tuple[int, int], float]:
    """Returns the indices of the measured counts around a count, and how far it lies from the first to the second.

    Both are multiples of `multiple` if the count is one, and neither if it is none, where such counts lie around it.
    """
    exact = bisect_left(axis, count)
    if axis[exact] == count:
        return (exact, exact), 0.0
    alike = [index for index, each in enumerate(axis) if (each % multiple == 0) == (count % multiple == 0)]
    if not alike or not axis[alike[0]] < count < axis[alike[-1]]:
        alike = list(range(len(axis)))
    above = next(place for place, index in enumerate(alike) if axis[index] > count)
    low, high = alike[above - 1], alike[above]
    return (low, high), (count - axis[low]) / (axis[high] - axis[low])


def open_table(given: WeightsConfig) -> tuple[LatencyTable, str]:
    """Reads a table from a path or an address; it may come from anywhere.

    Returns:
        The table, and the SHA-256 of its file.

    Raises:
        UserError: There is no such file, it has another digest, or it is no table; the sentence names the first fault.
    """
    path, where = local_copy(given.uri), f"Latency table {given.uri}"
    check_plain(path, what=where)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror}); measure one: {HOW_TO_MEASURE}.") from error
    if len(content) > LARGEST_FILE:
        raise UserError(f"{where} has more than {LARGEST_FILE // 10**6} MB; measure one: {HOW_TO_MEASURE}.")
    digest = hashlib.sha256(content).hexdigest()
    if given.sha256 not in (None, digest):
        raise UserError(f"{where} has the SHA-256 {digest}, expected {given.sha256}; it is another file, or damaged.")
    try:
        document = from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error}); measure one: {HOW_TO_MEASURE}.") from error
    return validate(LatencyTable, document, where=where), digest
