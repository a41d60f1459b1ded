"""Which rewrites an export uses, and how much faster they make it on this machine."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from components.catlib.config.student import Rewrite
from components.catlib.errors import UserError
from components.catlib.exporting.onnx_file import family_rewrites, generator_model
from components.catlib.exporting.parity import OnnxGenerator
from components.catlib.networks.generator import Generator
from components.catlib.timing import Machine, Measured, measure, ratio

SECONDS = 1.0
"""No round of the measurement begins later; three are run in any case."""

ROUNDS = 15
"""Timed rounds at most."""

MARGIN = 1.05
"""A part of the rewrites is chosen if it is at least this many times faster than all of them."""

logger = logging.getLogger(__name__)
Rewrites = tuple[Rewrite, ...]


@dataclass(frozen=True)
class Choice:
    """The rewrites of an export.

    Attributes:
        rewrites: Those that it uses.
        measured: Rewrites -> how many times faster than the plain graph they are in ONNX Runtime with one thread.
    """

    rewrites: Rewrites
    measured: Mapping[Rewrites, float] = field(default_factory=dict)

    @property
    def times_faster(self) -> float | None:
        """How many times faster than the plain graph the chosen one is; None if it is the plain graph."""
        return self.measured.get(self.rewrites) if self.rewrites else None


def choose_rewrites(
    generator: Generator, setting: Literal["all", "auto", "none"] | Rewrites, *, image_NCHW: Tensor, opset: int
) -> Choice:
    """Chooses the rewrites of an export by its setting, and times the graphs in turn with one thread.

    Only `auto` depends on the times: of all rewrites, all but one of them, and none, it takes the fastest, and all
    rewrites if none is faster by `MARGIN`.

    Args:
        generator: The network, on the CPU.
        setting: The recipe's `export.rewrites`.
        image_NCHW: The batch to time, float32.
        opset: Version of the ONNX operator set.

    Raises:
        UserError: The setting lists rewrites that the family does not have.
    """
    every = family_rewrites(generator)
    if isinstance(setting, tuple) and (missing := [name for name in setting if name not in every]):
        raise UserError(
            f"export.rewrites lists {', '.join(missing)}, but generators of the family "
            f"{generator.architecture.family} have no rewrites; set export.rewrites to all or none."
        )
    chosen = () if setting == "none" else every if isinstance(setting, str) else _in_order(setting, every)
    if not chosen:
        return Choice(())
    candidates = [chosen]
    if setting == "auto":
        candidates += [_in_order(set(every) - {left_out}, every) for left_out in every]
    measured = _measured(generator, candidates, image_NCHW, opset)
    if setting == "auto":
        chosen = fastest(measured | {(): 1.0}, otherwise=chosen)
    logger.info("rewrites: %s, %.2f times faster", ", ".join(chosen) or "none", measured.get(chosen, 1.0))
    return Choice(chosen, measured)


def fastest(measured: Mapping[Rewrites, float], *, otherwise: Rewrites) -> Rewrites:
    """Returns the fastest rewrites, or those given if none is faster by `MARGIN`."""
    best = max(measured, key=lambda rewrites: measured[rewrites])
    return best if measured[best] >= MARGIN * measured[otherwise] else otherwise


def _in_order(setting: Collection[Rewrite], every: Rewrites) -> Rewrites:
    return tuple(name for name in every if name in setting)


def _measured(
    generator: Generator, candidates: list[Rewrites], image_NCHW: Tensor, opset: int
) -> dict[Rewrites, float]:
    size = (image_NCHW.shape[2], image_NCHW.shape[3])

    def session(rewrites: Rewrites) -> OnnxGenerator:
        model = generator_model(generator, input_size=size, opset=opset, rewrites=rewrites)
        return OnnxGenerator(model.SerializeToString(), threads=1)

    sessions = {rewrites: session(rewrites) for rewrites in [(), *candidates]}
    times: dict[str, Measured] = measure(
        {str(number): lambda run=run: run(image_NCHW) for number, run in enumerate(sessions.values())},
        repeats=ROUNDS,
        warmup=1,
        machine=Machine(threads=1),
        seconds=SECONDS,
    )
    plain, *others = times.values()
    return {rewrites: ratio(plain, each) for rewrites, each in zip(candidates, others, strict=True)}
