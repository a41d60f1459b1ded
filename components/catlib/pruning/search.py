"""The threshold search: from a teacher's norm scales and a MAC budget to the student's architecture (method section 5).

A single threshold τ is compared with the scales |γ| of all prunable norms. A channel survives when |γ| > τ. A norm with
the scales 0.9, -0.1, 0.4, 0.02 keeps channels 0 and 2 at τ = 0.3, whatever the other norms do. A branch without
channels vanishes. A down or up layer never falls below its minimum. The MACs of a candidate are arithmetic over its
table of layers, so the search builds no network and runs no forward pass.

One function, `_num_surviving`, decides how many channels a norm keeps, for the candidates and for the result alike. The
channels with the largest scales are kept.

Differs: the published implementation loops forever on an unreachable budget, and fails after the search if the minimum
exceeds a layer's width. It decides the channels of the search and of the cut by two rules, which disagree when scales
are equal.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from components.catlib.config import PruneConfig, parse_budget
from components.catlib.errors import UserError
from components.catlib.networks.families import Architecture
from components.catlib.networks.layers import Layer, PrunableNorm
from components.catlib.networks.macs import (
    layer_paper_macs,
    layer_parameters,
    layer_true_macs,
    paper_macs,
    parameters,
    true_macs,
)

TOLERANCE = np.float32(1e-3)
"""The search ends when its interval is at most this share of its lower end."""

NOTEWORTHY_SHARE = 0.9
"""A student that uses less than this share of its budget gets a note."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The student that a threshold cuts from the teacher.

    Attributes:
        threshold: Channels with a larger |γ| survive.
        widths: Number of surviving channels by the name of every prunable norm of the teacher.
        architecture: The student's architecture.
        paper_macs: The student's MACs in the convention of budgets.
    """

    threshold: np.float32
    widths: dict[str, int]
    architecture: Architecture
    paper_macs: int


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """A student's architecture and how it was found.

    Attributes:
        teacher: The teacher's architecture.
        architecture: The student's architecture.
        input_size: Height and width at which MACs are counted, in pixels.
        budget: The budget as the user gave it.
        target_macs: The budget in MACs.
        teacher_macs: The teacher's MACs in the convention of budgets ("paper MACs").
        paper_macs: The student's MACs in the same convention, at most `target_macs`.
        threshold: Channels with |γ| above it survived; None when nothing had to be cut.
        kept: Indices of the surviving channels by the name of every prunable norm of the teacher: int64, ascending.
        steps: Threshold and paper MACs of every step of the search.
        notes: Notes for the user, one sentence each.
    """

    teacher: Architecture
    architecture: Architecture
    input_size: tuple[int, int]
    budget: str
    target_macs: int
    teacher_macs: int
    paper_macs: int
    threshold: float | None
    kept: dict[str, np.ndarray]
    steps: tuple[tuple[float, int], ...]
    notes: tuple[str, ...]


def prune(
    architecture: Architecture,
    scales: Mapping[str, np.ndarray],
    *,
    input_size: tuple[int, int],
    budget: str,
    config: PruneConfig,
) -> Pruning:
    """Finds the student that a single threshold over the teacher's norm scales cuts to a budget.

    Args:
        architecture: The teacher's architecture.
        scales: Norm scales γ by the name of every prunable norm, [channels] each.
        input_size: Height and width in pixels at which MACs are counted.
        budget: MACs such as "2.6e9", or a share of the teacher's such as "0.05x".
        config: Bounds on channels, and options of the student.

    Returns:
        The student and the search. A budget that the uncut teacher meets cuts nothing but a first layer above its cap.

    Raises:
        UserError: The budget is below the smallest reachable MACs, a bound does not fit the teacher's widths, the norms
            have no scales, or the scales are not finite.
    """
    architecture.check_size(*input_size, where="The input of the teacher")
    target_macs = check_budget(architecture, input_size=input_size, budget=budget, config=config)
    magnitudes = _magnitudes(architecture, scales)
    ascending = {name: np.sort(magnitude).tolist() for name, magnitude in magnitudes.items()}
    bounds = {norm.name: _bounds(norm, config) for norm in architecture.prunable_norms()}
    uncut_student = _with_student_options(architecture, config)

    def candidate(threshold: np.float32) -> Candidate:
        widths = {name: _num_surviving(values, threshold, bounds[name]) for name, values in ascending.items()}
        student = uncut_student.resized(widths)
        return Candidate(
            threshold=threshold, widths=widths, architecture=student, paper_macs=paper_macs(student, *input_size)
        )

    low = min(magnitude.min() for magnitude in magnitudes.values())
    high = max(magnitude.max() for magnitude in magnitudes.values())
    largest = candidate(np.float32(-1))
    if largest.paper_macs <= target_macs:
        found, steps, threshold = largest, [], None
    else:
        steps = _bisect(candidate, low, high, target_macs)
        found, threshold = steps[-1], float(steps[-1].threshold)
    capped = largest.architecture != uncut_student
    notes = _notes(found, threshold, target_macs, all_equal=bool(low == high), capped=capped)
    for note in notes:
        logger.warning(note)
    return Pruning(
        teacher=architecture,
        architecture=found.architecture,
        input_size=input_size,
        budget=budget,
        target_macs=target_macs,
        teacher_macs=paper_macs(architecture, *input_size),
        paper_macs=found.paper_macs,
        threshold=threshold,
        kept={name: _largest(magnitude, found.widths[name]) for name, magnitude in magnitudes.items()},
        steps=tuple((float(step.threshold), step.paper_macs) for step in steps),
        notes=notes,
    )


def smallest_student(architecture: Architecture, config: PruneConfig) -> Architecture:
    """Returns the student that the highest threshold leaves; it does not depend on the scales.

    Args:
        architecture: The teacher's architecture.
        config: Bounds on channels, and options of the student.

    Raises:
        UserError: The norms have no scales, a bound does not fit the teacher's widths, or an option does not apply to
            its family.
    """
    if not architecture.norm.affine:
        raise UserError(
            "The teacher's norms have no scales to prune by (norm.affine: false); train it with "
            "teacher.generator.norm.affine: true."
        )
    widths = {norm.name: _bounds(norm, config).least for norm in architecture.prunable_norms()}
    return _with_student_options(architecture, config).resized(widths)


def check_budget(architecture: Architecture, *, input_size: tuple[int, int], budget: str, config: PruneConfig) -> int:
    """Checks a budget, which needs no trained teacher.

    Args:
        architecture: The teacher's architecture.
        input_size: Height and width in pixels at which MACs are counted.
        budget: MACs such as "2.6e9", or a share of the teacher's such as "0.05x".
        config: Bounds on channels.

    Returns:
        The budget in MACs.

    Raises:
        UserError: The budget is below the smallest reachable MACs, or `smallest_student` refuses the teacher.
    """
    smallest_macs = paper_macs(smallest_student(architecture, config), *input_size)
    teacher_macs = paper_macs(architecture, *input_size)
    target_macs = _target_macs(budget, teacher_macs)
    if smallest_macs > target_macs:
        share = math.ceil(1e4 * smallest_macs / teacher_macs) / 1e4
        raise UserError(
            f"Budget {budget} ({target_macs} MACs) cannot be reached: the smallest student has {smallest_macs} MACs, "
            f"{share:g}x of the teacher's; raise the budget or lower prune.min_channels ({config.min_channels})."
        )
    return target_macs


def _bisect(
    candidate: Callable[[np.float32], Candidate], low: np.float32, high: np.float32, target_macs: int
) -> list[Candidate]:
    """Halves the interval of thresholds until it is narrow and the last candidate fits the budget (method section 5).

    Numbers are float32, as in the published implementation, to land on the same student. `high` must fit the budget.

    Differs: a step that finds no float32 between the ends takes the upper one, which fits, and ends the search. Scales
    may spread less than their size: those of a barely trained teacher all lie near 1. Then the tolerance is a share of
    the spread, because a share of the size would end the search at its first guess.

    Returns:
        Every candidate in the order of the search; the last one fits and is the result.
    """
    spread = high - low
    steps: list[Candidate] = []
    while True:
        threshold = (low + high) / np.float32(2)
        exhausted = threshold in (low, high)
        step = candidate(high if exhausted else threshold)
        steps.append(step)
        fits = step.paper_macs <= target_macs
        if fits:
            high = step.threshold
        else:
            low = step.threshold
        if fits and (exhausted or high - low <= TOLERANCE * min(low, spread)):
            return steps


# ----------------------------------------------------------------------------------------------- which channels survive


class _Bounds(NamedTuple):
    """Bounds on the number of surviving channels of a norm: at least, at most, in multiples of."""

    least: int
    most: int
    multiple: int


def _num_surviving(ascending: list[float], threshold: np.float32, bounds: _Bounds) -> int:
    """Decides how many channels of one norm survive.

    Args:
        ascending: The norm's |γ|, sorted.
        threshold: Channels above it survive.
        bounds: Bounds on the number of surviving channels.
    """
    above = len(ascending) - bisect_right(ascending, float(threshold))
    count = min(max(above, bounds.least), bounds.most)
    return count - count % bounds.multiple


def _largest(magnitude: np.ndarray, count: int) -> np.ndarray:
    """Returns the channels of the `count` largest |γ|, the first ones among equals: indices, int64, ascending."""
    return np.sort(np.argsort(-magnitude, kind="stable")[:count])


def _bounds(norm: PrunableNorm, config: PruneConfig) -> _Bounds:
    """Returns the bounds on a norm's channels, checked against its width."""
    if norm.floor is None:
        return _Bounds(0, norm.channels, 1)
    setting, minimum = "min_channels", config.min_channels
    if norm.floor == "min_feature_channels" and (config.min_feature_channels or 0) > minimum:
        setting, minimum = norm.floor, config.min_feature_channels or minimum
    least = math.ceil(minimum * norm.unit / norm.multiple) * norm.multiple
    if least > norm.channels:
        largest = norm.channels // norm.multiple * norm.multiple // norm.unit
        raise UserError(
            f"prune.{setting} is {minimum}, which keeps {least} channels, but the teacher's layer {norm.name} has only "
            f"{norm.channels}; set prune.{setting} to at most {largest}."
        )
    most = norm.channels
    if norm.capped and config.max_first_channels is not None:
        most = min(most, config.max_first_channels * norm.unit)
        if most < least:
            raise UserError(
                f"prune.max_first_channels is {config.max_first_channels}, below the {least // norm.unit} that "
                f"prune.{setting} keeps in {norm.name}; raise prune.max_first_channels or lower prune.{setting}."
            )
    return _Bounds(least, most, norm.multiple)


def _with_student_options(architecture: Architecture, config: PruneConfig) -> Architecture:
    """Returns the teacher's architecture with the student's norm, padding and activation."""
    options = {
        "norm": config.student_norm,
        "padding": config.student_padding,
        "activation": config.student_activation,
    }
    chosen = {name: value for name, value in options.items() if value is not None}
    idle = [f"student_{name}" for name in chosen if name not in type(architecture).model_fields]
    if config.min_feature_channels is not None and all(
        norm.floor != "min_feature_channels" for norm in architecture.prunable_norms()
    ):
        idle.append("min_feature_channels")
    if idle:
        raise UserError(f"prune.{idle[0]} does not apply to a generator of family {architecture.family}; leave it out.")
    return architecture.model_copy(update=chosen)


# --------------------------------------------------------------------------------------------------- the user's numbers


def _magnitudes(architecture: Architecture, scales: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns |γ| in float32 by the name of every prunable norm."""
    magnitudes = {}
    for norm in architecture.prunable_norms():
        given = scales.get(norm.name)
        if given is None or np.shape(given) != (norm.channels,):
            found = "none" if given is None else f"shape {np.shape(given)}"
            raise UserError(f"The teacher's norm {norm.name} needs {norm.channels} scales, found {found}.")
        magnitude = np.abs(np.asarray(given, dtype=np.float32))
        # The limit is half of the largest float32, because the search adds two of them. NaN fails the comparison too.
        if not (magnitude < np.finfo(np.float32).max / 2).all():
            raise UserError(
                f"The teacher's norm {norm.name} has scales that are not finite; its training diverged, train it again."
            )
        magnitudes[norm.name] = magnitude
    return magnitudes


def _target_macs(budget: str, teacher_macs: int) -> int:
    value, is_share = parse_budget(budget)
    return math.floor(value * teacher_macs if is_share else value)


# ----------------------------------------------------------------------------------------------------------- the report


def _notes(
    found: Candidate, threshold: float | None, target_macs: int, *, all_equal: bool, capped: bool
) -> tuple[str, ...]:
    """Returns notes for the user about the result, one sentence each.

    Args:
        found: The result.
        threshold: The threshold of the result; None when the budget needed no cut.
        target_macs: The budget in MACs.
        all_equal: Whether all scales are equal.
        capped: Whether the first layer was cut to its cap.
    """
    if threshold is None:
        cut = "only the first layer was cut, to prune.max_first_channels" if capped else "nothing was cut"
        return (f"The whole student fits the budget of {target_macs} MACs with {found.paper_macs} MACs: {cut}.",)
    share = found.paper_macs / target_macs
    if all_equal:
        return (
            f"All scales of the teacher equal {threshold:g}, so no threshold separates its channels: the student is "
            f"the smallest one that the bounds allow and uses {share:.1%} of its budget.",
        )
    if share < NOTEWORTHY_SHARE:
        return (
            f"The student uses only {share:.1%} of its budget: too many channels have a scale close to the threshold "
            f"{threshold:g}, and a slightly lower one exceeds the budget.",
        )
    return ()


def describe(pruning: Pruning) -> dict[str, Any]:
    """Returns the search and the fate of every layer as JSON values.

    Keys: `budget`, `target_macs`, `input_size`, `threshold` (None: nothing was cut), `notes`, `steps` (threshold and
    paper MACs of each), `teacher` and `student` (each `paper_macs`, `true_macs`, `parameters`), and `layers`. A layer
    of the teacher has its `name`, its `student_name` (None: it vanished), its `kind`, the `group` of a prunable norm
    with the `kept` channels (else None), and channels made, MACs in both conventions and parameters, each for teacher
    and student.
    """
    height, width = pruning.input_size
    students = {layer.identity: layer for layer in pruning.architecture.layers(height, width)}
    groups = {norm.name: norm.group for norm in pruning.teacher.prunable_norms()}
    layers = [
        _describe_layer(layer, students.get(layer.identity), groups.get(layer.name), pruning.kept.get(layer.name))
        for layer in pruning.teacher.layers(height, width)
    ]
    totals = {
        role: {
            "paper_macs": paper_macs(architecture, height, width),
            "true_macs": true_macs(architecture, height, width),
            "parameters": parameters(architecture),
        }
        for role, architecture in (("teacher", pruning.teacher), ("student", pruning.architecture))
    }
    return {
        "budget": pruning.budget,
        "target_macs": pruning.target_macs,
        "input_size": list(pruning.input_size),
        "threshold": pruning.threshold,
        "notes": list(pruning.notes),
        "steps": [{"threshold": threshold, "paper_macs": macs} for threshold, macs in pruning.steps],
        **totals,
        "layers": layers,
    }


def _describe_layer(layer: Layer, student: Layer | None, group: str | None, kept: np.ndarray | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": layer.name,
        "student_name": student.name if student else None,
        "kind": layer.kind,
        "group": group,
        "kept": kept.tolist() if kept is not None and student else None,
    }
    for role, there in (("teacher", layer), ("student", student)):
        described |= {
            f"{role}_channels": there.out_channels if there else 0,
            f"{role}_paper_macs": layer_paper_macs(there) if there else 0,
            f"{role}_true_macs": layer_true_macs(there) if there else 0,
            f"{role}_parameters": layer_parameters(there) if there else 0,
        }
    return described
