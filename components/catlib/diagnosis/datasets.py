"""Rules over what the dataset stage records: `report.json`, and the summary in the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.catlib.diagnosis.causes import LEAKED_TEST_SPLIT, SWAPPED_DOMAINS, UNLABELLED_CLASS, Diagnosis

WHERE = "dataset"

FEW = 4
"""Fewer images say little about the colours of a domain."""

LEAKED_SHARE = 0.01
"""Share of held-out images that also occur in training from which scores are not to be trusted."""

UNLABELLED_SHARE = 0.5
"""Share of pixels without a class, relative to 1 / num_labels, the share of an average class."""

ABSENT_SHARE = 0.05
"""Share of the classes that may be absent, as one of Cityscapes' 35 is, if held-out images lack them too."""

CROSSED = 0.6
"""Domains are swapped if held-out images are this much nearer to the other domain of training than to their own."""

APART = 0.1
"""Domains whose colours differ less, in total variation distance (0 to 1), cannot be told from each other."""


def diagnose_dataset(report: Mapping[str, Any], summary: Mapping[str, Any]) -> list[Diagnosis]:
    """Names what is wrong with the images of a run.

    Args:
        report: The dataset's `report.json` (`data/inspection.py`).
        summary: The summary in its manifest (`PackedSummary`).
    """
    found = [leaked_test_split(report, summary), swapped_domains(report), unlabelled_class(report, summary)]
    return [each for each in found if each is not None]


def leaked_test_split(report: Mapping[str, Any], summary: Mapping[str, Any]) -> Diagnosis | None:
    """Held-out images also occur in training; of the two domains, the one with more of them counts."""
    duplicates, held_out = report["duplicates"], summary["images"]["test"]
    listed = {role: len({each["test"] for each in duplicates["first"] if each["role"] == role}) for role in held_out}
    unlisted = duplicates["count"] - len(duplicates["first"])
    shares = {
        role: min(1.0, (count + unlisted / 2) / held_out[role]) for role, count in listed.items() if held_out[role]
    }
    share = max(shares.values(), default=0.0)
    if share < LEAKED_SHARE:
        return None
    role = max(shares, key=lambda each: shares[each])
    return LEAKED_TEST_SPLIT.seen(
        WHERE,
        f"{share:.0%} of {held_out[role]} held-out {role} images also occur among the training images",
    )


def unlabelled_class(report: Mapping[str, Any], summary: Mapping[str, Any]) -> Diagnosis | None:
    """A class never occurs in training, or many pixels there have none (label 255) and no plane of their own."""
    training, held_out = (report["images"][split]["source"] for split in ("train", "test"))
    if "classes" not in training:
        return None
    classes, no_class = training["classes"], training["no_class"]
    if no_class * len(classes) >= UNLABELLED_SHARE and not summary["dont_care_plane"]:
        return UNLABELLED_CLASS.seen(
            WHERE,
            f"{no_class:.1%} of the pixels of training label maps have no class (label 255), an average class has "
            f"{(1 - no_class) / len(classes):.1%}",
        )
    absent = [label for label, share in enumerate(classes) if not share]
    unseen = sum(held_out["classes"][label] for label in absent) if "classes" in held_out else 0.0
    if len(absent) < ABSENT_SHARE * len(classes) and not unseen:
        return None
    named = ", ".join(map(str, absent[:8])) + (", …" if len(absent) > 8 else "")
    return UNLABELLED_CLASS.seen(
        WHERE,
        f"of {len(classes)} classes, {len(absent)} never occur in training ({named}); "
        f"{unseen:.1%} of the held-out pixels have them",
    )


def swapped_domains(report: Mapping[str, Any]) -> Diagnosis | None:
    """Held-out images have the colours of the other domain of training."""
    train, test = (
        {role: facts.get("histogram") for role, facts in report["images"][split].items()} for split in ("train", "test")
    )
    if not train["source"] or not train["target"] or train["source"].keys() != train["target"].keys():
        return None  # images of other channels than the domain's were refused
    if distance(train["source"], train["target"]) < APART:
        return None
    other = {"source": "target", "target": "source"}
    there = [role for role in other if test[role] and report["images"]["test"][role]["count"] >= FEW]
    own = sum(distance(test[role], train[role]) for role in there)
    crossed = sum(distance(test[role], train[other[role]]) for role in there)
    if not there or crossed >= CROSSED * own:
        return None
    return SWAPPED_DOMAINS.seen(
        WHERE,
        f"the colours of held-out {' and '.join(there)} images lie {own / len(there):.2f} from those of their own "
        f"domain in training and {crossed / len(there):.2f} from those of the other (total variation distance, 0 to 1)",
    )


def distance(first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]]) -> float:
    """Returns the total variation distance of two histograms, 0 to 1, as the mean over their channels."""
    return sum(
        sum(abs(a - b) for a, b in zip(first[channel], second[channel], strict=True)) / 2 for channel in first
    ) / len(first)
