"""The threshold search: from a teacher's norm scales and a budget to the student's architecture (method section 5).

A single threshold τ is compared with the scales |γ| of all prunable norms. A channel survives when |γ| > τ. A norm with
the scales 0.9, -0.1, 0.4, 0.02 keeps channels 0 and 2 at τ = 0.3, whatever the other norms do. A branch without
channels vanishes. A down or up layer never falls below its minimum. The MACs of a candidate are arithmetic over its
table of layers, so the search builds no network and runs no forward pass.

A budget in milliseconds is compared with the latency that a table of layers' times predicts. Latency is a staircase in
the channels, up and down, so halving an interval could miss the largest student that fits: all thresholds are tried,
from the lowest on.

One function, `num_surviving`, decides how many channels a norm keeps, for the candidates and for the result alike. The
channels with the largest scales are kept.

Differs: the published implementation loops forever on an unreachable budget, and fails after the search if the minimum
exceeds a layer's width. It decides the channels of the search and of the cut by two rules, which disagree when scales
are equal.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.catlib.config import PruneConfig
from components.catlib.errors import UserError
from components.catlib.latency.table import LatencyTable
from components.catlib.networks.families import Architecture
from components.catlib.networks.layers import Layer
from components.catlib.networks.macs import (
    layer_paper_macs,
    layer_parameters,
    layer_true_macs,
    paper_macs,
    parameters,
    true_macs,
)
from components.catlib.pruning.limits import Limit
from components.catlib.pruning.surviving import bounds_of, largest_of, num_surviving, with_student_options

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
        cost: What is compared with the limit: these MACs, or predicted milliseconds.
    """

    threshold: np.float32
    widths: dict[str, int]
    architecture: Architecture
    paper_macs: int
    cost: float


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """A student's architecture and how it was found.

    Attributes:
        teacher: The teacher's architecture.
        architecture: The student's architecture.
        input_size: Height and width at which MACs are counted, in pixels.
        budget: The budget as the user gave it.
        limit: The budget in MACs, or in milliseconds with the table that predicts them.
        cost: The student's MACs or its predicted milliseconds, at most the limit.
        uncut_cost: The same of a student of which nothing is cut.
        teacher_macs: The teacher's MACs in the convention of budgets ("paper MACs").
        paper_macs: The student's MACs in the same convention.
        threshold: Channels with |γ| above it survived; None when nothing had to be cut.
        kept: Indices of the surviving channels by the name of every prunable norm of the teacher: int64, ascending.
        steps: Threshold and paper MACs of every step of the search; of a scan the last two.
        notes: Notes for the user, one sentence each.
    """

    teacher: Architecture
    architecture: Architecture
    input_size: tuple[int, int]
    budget: str
    limit: Limit
    cost: float
    uncut_cost: float
    teacher_macs: int
    paper_macs: int
    threshold: float | None
    kept: dict[str, np.ndarray]
    steps: tuple[tuple[float, int], ...]
    notes: tuple[str, ...]

    @property
    def target_macs(self) -> int | None:
        """The budget in MACs; None if it is in milliseconds."""
        return self.limit.macs


def prune(
    architecture: Architecture,
    scales: Mapping[str, np.ndarray],
    *,
    input_size: tuple[int, int],
    budget: str,
    config: PruneConfig,
    table: LatencyTable | None = None,
) -> Pruning:
    """Finds the student that a single threshold over the teacher's norm scales cuts to a budget.

    Args:
        architecture: The teacher's architecture.
        scales: Norm scales γ by the name of every prunable norm, [channels] each.
        input_size: Height and width in pixels at which MACs are counted.
        budget: MACs such as "2.6e9", a share of the teacher's such as "0.05x", or milliseconds such as "15ms".
        config: Bounds on channels, and options of the student.
        table: Times of layers, for a budget in milliseconds.

    Returns:
        The student and the search. A budget that the uncut teacher meets cuts nothing but a first layer above its cap.

    Raises:
        UserError: No student meets the budget, a bound does not fit the teacher's widths, the norms have no scales, the
            scales are not finite, or the table is missing or does not fit.
    """
    architecture.check_size(*input_size, where="The input of the teacher")
    limit = check_budget(architecture, input_size=input_size, budget=budget, config=config, table=table)
    magnitudes = _magnitudes(architecture, scales)
    ascending = {name: np.sort(magnitude).tolist() for name, magnitude in magnitudes.items()}
    bounds = {norm.name: bounds_of(norm, config) for norm in architecture.prunable_norms()}
    uncut_student = with_student_options(architecture, config)

    def candidate(threshold: np.float32) -> Candidate:
        widths = {name: num_surviving(values, threshold, bounds[name]) for name, values in ascending.items()}
        student = uncut_student.resized(widths)
        macs = paper_macs(student, *input_size)
        cost = limit.cost(student, input_size, macs)
        return Candidate(threshold=threshold, widths=widths, architecture=student, paper_macs=macs, cost=cost)

    low = min(magnitude.min() for magnitude in magnitudes.values())
    high = max(magnitude.max() for magnitude in magnitudes.values())
    largest = candidate(np.float32(-1))
    if largest.cost <= limit.value:
        found, steps, threshold = largest, [], None
    else:
        steps = _scan(candidate, magnitudes, limit) if limit.table else _bisect(candidate, low, high, limit.value)
        found, threshold = steps[-1], float(steps[-1].threshold)
    capped = largest.architecture != uncut_student
    notes = _notes(found, threshold, limit, all_equal=bool(low == high), capped=capped)
    for note in notes:
        logger.warning(note)
    return Pruning(
        teacher=architecture,
        architecture=found.architecture,
        input_size=input_size,
        budget=budget,
        limit=limit,
        cost=found.cost,
        uncut_cost=largest.cost,
        teacher_macs=paper_macs(architecture, *input_size),
        paper_macs=found.paper_macs,
        threshold=threshold,
        kept={name: largest_of(magnitude, found.widths[name]) for name, magnitude in magnitudes.items()},
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
    widths = {norm.name: bounds_of(norm, config).least for norm in architecture.prunable_norms()}
    return with_student_options(architecture, config).resized(widths)


def extreme_students(architecture: Architecture, config: PruneConfig) -> tuple[Architecture, Architecture]:
    """Returns the student of which nothing is cut, and the thinnest one in which every branch keeps a channel.

    Args:
        architecture: The teacher's architecture.
        config: Bounds on channels, and options of the student.

    Raises:
        UserError: A bound does not fit the teacher's widths, or an option does not apply to its family.
    """
    student = with_student_options(architecture, config)
    bounds = {norm.name: bounds_of(norm, config) for norm in architecture.prunable_norms()}
    widest = student.resized({name: each.most - each.most % each.multiple for name, each in bounds.items()})
    return widest, student.resized({name: max(1, each.least) for name, each in bounds.items()})


def check_budget(
    architecture: Architecture,
    *,
    input_size: tuple[int, int],
    budget: str,
    config: PruneConfig,
    table: LatencyTable | None = None,
) -> Limit:
    """Checks a budget, which needs no trained teacher.

    Args:
        architecture: The teacher's architecture.
        input_size: Height and width in pixels at which MACs are counted.
        budget: MACs such as "2.6e9", a share of the teacher's such as "0.05x", or milliseconds such as "15ms".
        config: Bounds on channels.
        table: Times of layers, for a budget in milliseconds.

    Raises:
        UserError: The budget is below what any student costs, `smallest_student` refuses the teacher, or the table is
            missing or does not fit.
    """
    smallest = smallest_student(architecture, config)
    smallest_macs, teacher_macs = (paper_macs(each, *input_size) for each in (smallest, architecture))
    limit = Limit.of(budget, teacher_macs=teacher_macs, table=table)
    if limit.table and (least := limit.table.least(smallest, input_size)) > limit.value:
        raise _unreachable(budget, f"on {limit.table}, every student takes at least {limit.text(least)}", config)
    if limit.macs is not None and smallest_macs > limit.macs:
        share = math.ceil(1e4 * smallest_macs / teacher_macs) / 1e4
        raise _unreachable(
            f"{budget} ({limit.macs} MACs)",
            f"the smallest student has {smallest_macs} MACs, {share:g}x of the teacher's",
            config,
        )
    return limit


def _unreachable(budget: str, reason: str, config: PruneConfig) -> UserError:
    return UserError(
        f"Budget {budget} cannot be reached: {reason}; raise the budget or lower prune.min_channels "
        f"({config.min_channels})."
    )


def _scan(
    candidate: Callable[[np.float32], Candidate], magnitudes: Mapping[str, np.ndarray], limit: Limit
) -> list[Candidate]:
    """Tries every threshold that changes anything, from the lowest on, until a student fits.

    MACs never rise with the threshold, so the first that fits is the largest that does.

    Returns:
        The last two candidates; the last one fits and is the result.
    """
    tried: list[Candidate] = []
    for threshold in np.unique(np.concatenate(list(magnitudes.values()))):
        tried.append(candidate(threshold))
        if tried[-1].cost <= limit.value:
            return tried[-2:]
    fastest = min(step.cost for step in tried)
    raise UserError(
        f"No student of this teacher meets the limit of {limit.text(limit.value)} on {limit.table}: the fastest takes "
        f"{limit.text(fastest)}; raise the budget or lower prune.min_channels."
    )


def _bisect(
    candidate: Callable[[np.float32], Candidate], low: np.float32, high: np.float32, most: float
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
        fits = step.cost <= most
        if fits:
            high = step.threshold
        else:
            low = step.threshold
        if fits and (exhausted or high - low <= TOLERANCE * min(low, spread)):
            return steps


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


# ----------------------------------------------------------------------------------------------------------- the report


def _notes(
    found: Candidate, threshold: float | None, limit: Limit, *, all_equal: bool, capped: bool
) -> tuple[str, ...]:
    """Returns notes for the user about the result, one sentence each; without a threshold, the budget needed no cut."""
    if threshold is None:
        cut = "only the first layer was cut, to prune.max_first_channels" if capped else "nothing was cut"
        return (
            f"The whole student fits the budget of {limit.text(limit.value)} with {limit.text(found.cost)}: {cut}.",
        )
    share = found.cost / limit.value
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

    Keys: `budget`, `target_macs` (None for milliseconds), `latency` (only for milliseconds: the `limit`, the student's
    `predicted` and the `uncut` one's milliseconds, and `device`, `runtime`, `threads` and `errors` of the table),
    `input_size`, `threshold` (None: nothing was cut), `notes`, `steps` (threshold and paper MACs of each),
    `teacher` and `student` (each `paper_macs`, `true_macs`, `parameters`), and `layers`. A layer
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
        **_described_latency(pruning),
        "input_size": list(pruning.input_size),
        "threshold": pruning.threshold,
        "notes": list(pruning.notes),
        "steps": [{"threshold": threshold, "paper_macs": macs} for threshold, macs in pruning.steps],
        **totals,
        "layers": layers,
    }


def _described_latency(pruning: Pruning) -> dict[str, Any]:
    table = pruning.limit.table
    if table is None:
        return {}
    times = {"limit": pruning.limit.value, "predicted": pruning.cost, "uncut": pruning.uncut_cost}
    return {"latency": {**times, **table.model_dump(mode="json", include={"device", "runtime", "threads", "errors"})}}


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
