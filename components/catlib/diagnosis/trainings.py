"""Rules over the log of a training, of a teacher or of a student, while it runs or once it has ended.

They read what `training/signs.py` notes. All their bounds are ratios: to what a discriminator loses that guesses, to
the variation of real images, to the size of weights, to the beginning of the training.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from components.catlib.diagnosis.causes import (
    BATCH_NORM,
    COLLAPSE,
    CONSTANT_TEACHER,
    DISCRIMINATOR_WINS,
    LEARNING_RATE,
    SMALL_ALIGNMENT_BATCH,
    Cause,
    Diagnosis,
)

STOPPED_BY: dict[Literal["diverged", "collapsed"], tuple[Cause, ...]] = {
    "diverged": (LEARNING_RATE,),
    "collapsed": (COLLAPSE,),
}
"""What each word of the setting `stop_on` means."""

LEAST_SIGNS = 4
"""Before so many records of signs, a training is too young to be judged."""

EARLY = 0.1
"""In this share of a training, a discriminator may be far ahead of its generator."""

SURE = 0.15
"""A discriminator that loses less than this share of what guessing loses is sure of everything."""

CERTAIN = 0.03
"""Below this share a teacher's discriminator teaches nothing, whatever else the generator learns from.

A student's often starts with the teacher's discriminator, which is that sure, and learns from the other losses."""

HEARD = 0.25
"""Share of a generator's loss from which its discriminator decides what it learns."""

ALIKE = 0.1
"""Generated images that vary less than this share of what real ones do are all alike."""

FALLEN = 0.2
"""A generator has collapsed when its variation falls below this share of what it was."""

RISING = 1.2
"""Generated images whose variation grows by this factor between looks are still learning to vary."""

LARGE_STEP = 0.15
"""A first step that moves the weights of a generator by more than this share of their size is large."""

SATURATED = 0.5
"""Images with more than this share of their values at the ends of the range are thrown off course."""

LEAPT = 1.3
"""So is a training in which a loss that compares images rises to this many times its beginning."""

MIXED = 0.05
"""Images that change by more than this share of what real ones vary, with what else is in the batch, depend on it."""

CONSTANT = 0.02
"""Images of a teacher that vary less than this share of what real ones do show nothing to learn."""

FEW_NUMBERS = 10
"""Kernel alignment teaches little if the kernels of a batch have fewer independent numbers than this."""

THROWN = 4.0
"""And one whose discriminator, after the first step, loses this many times what guessing loses."""

TINY_STEP = 1e-4
"""Steps that move weights by less than this share of their size do not train."""

MOVED = 1.5
"""Weights whose steps together are this many times their size have had time to learn something."""

GUESSING = {"lsgan": 0.25, "vanilla": math.log(2), "hinge": 1.0}
"""What a discriminator loses on average on an image if it guesses, by adversarial objective."""

Signs = Mapping[str, float]


def diagnose_training(stage: str, config: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[Diagnosis]:
    """Names what is wrong with a training, causes before what follows from them.

    Args:
        stage: "teacher" or "distill".
        config: Its section of the recipe, as in the manifest.
        records: The lines of its log so far.
    """
    signs = [record for record in records if "signs" in record]
    found: list[Diagnosis | None] = []
    if signs:
        found += [constant_teacher(stage, signs), small_alignment_batch(stage, config, signs), batch_norm(stage, signs)]
    if len(signs) >= LEAST_SIGNS:
        thrown = [learning_rate(stage, config, signs), collapse(stage, signs)]
        # A discriminator is also sure of images that are all alike, or that nothing holds.
        found += thrown if any(thrown) else [discriminator_wins(stage, config, signs)]
    return [each for each in found if each is not None]


def trained_briefly(records: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether a generator had ordinary steps, but too few to make images that differ.

    Args:
        records: The lines of a log.
    """
    signs = [record for record in records if "signs" in record]
    updates = _series(signs, "update").get("generator", [])
    if not updates or statistics.median(size for _, size in updates) < TINY_STEP or _moved(updates) > MOVED:
        return False
    return all(series[-1][1] < CONSTANT for series in _series(signs, "variation").values())


# ------------------------------------------------------------------------------------------------------------ the rules


def constant_teacher(stage: str, signs: Sequence[Mapping[str, Any]]) -> Diagnosis | None:
    """The teacher makes the same image of everything."""
    for variation in _first(signs, "teacher_variation").values():
        if variation < CONSTANT:
            evidence = f"its images vary by {variation:.2%} of what real ones do"
            return CONSTANT_TEACHER.seen(stage, evidence, stage=stage)
    return None


def small_alignment_batch(
    stage: str, config: Mapping[str, Any], signs: Sequence[Mapping[str, Any]]
) -> Diagnosis | None:
    """The kernels of a batch hold few numbers, so that any two networks are aligned.

    A kernel of N images is symmetric and its scale does not count: N(N + 1)/2 − 1 numbers, one row less if centred.
    """
    distiller = config.get("distiller", {})
    if distiller.get("kind") != "kernel_alignment" or not distiller["weight"]:
        return None
    images = config["batch_size"]
    independent = images - 1 if distiller["centred"] else images
    numbers = independent * (independent + 1) // 2 - 1
    if numbers >= FEW_NUMBERS:
        return None
    start = [value for name, value in signs[0]["signs"].items() if name.startswith("mean/misalignment_")]
    begins = f", and its misalignment began at {statistics.fmean(start):.2g}" if start else ""
    return SMALL_ALIGNMENT_BATCH.seen(
        stage, f"the kernel of {images} images has {numbers} independent numbers{begins}", stage=stage
    )


def batch_norm(stage: str, signs: Sequence[Mapping[str, Any]]) -> Diagnosis | None:
    """The image that a generator makes depends on what else is in the batch, even outside of training."""
    for name in ("batch_dependence", "teacher_batch_dependence"):
        for series in _series(signs, name).values():
            largest = max(value for _, value in series)
            if largest > MIXED:
                whose = "the teacher's image" if name.startswith("teacher") else "an image"
                evidence = (
                    f"outside of training, {whose} changes with what else is in the batch, by up to {largest:.0%} of "
                    "what real ones vary"
                )
                return BATCH_NORM.seen(stage, evidence, stage=stage)
    return None


def learning_rate(stage: str, config: Mapping[str, Any], signs: Sequence[Mapping[str, Any]]) -> Diagnosis | None:
    """Steps are large against the weights as they were at first, and images or losses show that they did harm.

    Adam's first step moves every weight by the learning rate. Later its steps look smaller, because weights that are
    thrown about grow. The learning rate alone is no failure: a training may survive large steps.
    """
    step, harm = _first(signs, "update").get("generator", 0.0), _harm(config, signs)
    if step < LARGE_STEP or not harm:
        return None
    evidence = f"the first step moved the weights of the generator by {step:.0%} of their size, and {harm}"
    return LEARNING_RATE.seen(stage, evidence, stage=stage)


def _harm(config: Mapping[str, Any], signs: Sequence[Mapping[str, Any]]) -> str:
    """Returns what shows that a training was thrown off course; empty if nothing does."""
    for series in _series(signs, "saturation").values():
        if (worst := max(value for _, value in series)) > SATURATED:
            return f"at worst {worst:.0%} more of the generated values than of real ones lay at the ends of their range"
    for name, series in _series(signs, "mean").items():
        if name.startswith(COMPARING):
            begin, highest = series[0][1], max(value for _, value in series)
            if begin > 0 and highest > LEAPT * begin:
                return f"the loss {name} rose to {highest / begin:.1f} times its beginning"
    guessing = GUESSING.get(config["adversarial"]["kind"], math.inf)
    for judge, series in _judged(signs).items():
        if (worst := max(value for _, value in series[1:]) / guessing) > THROWN:
            return f"{judge} lost up to {worst:.1f} times what guessing loses"
    for series in _series(signs, "variation").values():
        best = max(value for _, value in series)
        if best > ALIKE and series[-1][1] < FALLEN * best:
            return f"images that varied by {best:.0%} of what real ones do now vary by {series[-1][1]:.1%}"
    return ""


def collapse(stage: str, signs: Sequence[Mapping[str, Any]]) -> Diagnosis | None:
    """Generated images are all alike: they were not before, or a teacher had time enough and makes no progress.

    A student that never made images that differ has other reasons.
    """
    long = _moved(_series(signs, "update").get("generator", [])) > MOVED
    for direction, series in _series(signs, "variation").items():
        values = [value for _, value in series]
        now, best = statistics.fmean(values[-2:]), max(values)
        stands = len(values) > LEAST_SIGNS and now < RISING * statistics.fmean(values[-5:-2])
        fallen, never = now < FALLEN * best, stage == "teacher" and long and stands and now < ALIKE / 2
        if now < ALIKE and (fallen or never):
            evidence = f"images {_words(direction)} vary by {now:.1%} of what real ones do, at best it was {best:.1%}"
            return COLLAPSE.seen(stage, evidence, stage=stage)
    return None


def discriminator_wins(stage: str, config: Mapping[str, Any], signs: Sequence[Mapping[str, Any]]) -> Diagnosis | None:
    """A discriminator is sure of every image, and what it says decides what the generator learns."""
    adversarial = config["adversarial"]
    guessing = GUESSING.get(adversarial["kind"])
    if guessing is None or not adversarial["weight"] or signs[-1]["step"] < EARLY * signs[-1]["of"]:
        return None
    heard = statistics.fmean(_late([(each["step"], _heard(each["signs"])) for each in signs]))
    for judge, series in _judged(signs).items():
        sure = statistics.fmean(_late(series)) / guessing
        if (sure < SURE and heard > HEARD) or (sure < CERTAIN and stage == "teacher"):
            evidence = f"{judge} loses {sure:.1%} of what guessing loses, and makes {heard:.0%} of the generator's loss"
            return DISCRIMINATOR_WINS.seen(stage, evidence, stage=stage)
    return None


# ------------------------------------------------------------------------------------------------------ what they read


def _series(signs: Sequence[Mapping[str, Any]], kind: str) -> dict[str, list[tuple[int, float]]]:
    """Returns (step, value) of the signs of a kind, by what follows the slash in their names."""
    series: dict[str, list[tuple[int, float]]] = {}
    for record in signs:
        for name, value in record["signs"].items():
            if name.startswith(f"{kind}/"):
                series.setdefault(name.removeprefix(f"{kind}/"), []).append((record["step"], value))
    return series


def _first(signs: Sequence[Mapping[str, Any]], kind: str) -> dict[str, float]:
    return {name: series[0][1] for name, series in _series(signs, kind).items()}


def _late(series: Sequence[tuple[int, float]]) -> list[float]:
    """Returns the values of the last third of the steps so far."""
    return [value for step, value in series if 3 * step > 2 * series[-1][0]]


def _moved(updates: Sequence[tuple[int, float]]) -> float:
    """Returns how far an optimiser could have moved its weights so far, relative to their size."""
    steps = [0, *(step for step, _ in updates)]
    return sum(size * (step - before) for (step, size), before in zip(updates, steps, strict=False))


def _judged(signs: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Returns by discriminator what it loses on average on an image."""
    means = _series(signs, "mean")
    if "discriminator_fake" in means:
        pairs = zip(means["discriminator_fake"], means["discriminator_real"], strict=True)
        return {"the discriminator": [(step, (fake + real) / 2) for (step, fake), (_, real) in pairs]}
    return {
        f"the discriminator of {name.removeprefix('discriminator_')} images": series
        for name, series in means.items()
        if name.startswith("discriminator_")
    }


PARTS = ("adversarial", "reconstruction", "cycle", "identity", "feature_matching", "perceptual", "distillation")
"""What the loss of a generator is made of; CycleGAN has each of its parts for two domains."""


COMPARING = ("reconstruction", "cycle", "identity", "perceptual")
"""Parts of the loss that compare images by a measure that does not change; a discriminator's features do."""


def _heard(signs: Signs) -> float:
    """Returns the share of the adversarial parts in the size of a generator's loss."""
    parts = {name: abs(value) for name, value in signs.items() if name.removeprefix("mean/").startswith(PARTS)}
    adversarial = sum(value for name, value in parts.items() if name.startswith("mean/adversarial"))
    return adversarial / max(sum(parts.values()), 1e-12)


def _words(direction: str) -> str:
    return f"from {direction.replace('_', ' ')}"
