"""What a case of the bench consists of: forms of one computation, and how far their results are apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Forms:
    """Ways to compute the same.

    Attributes:
        calls: Name -> function that computes it once; "plain" is the straightforward form, "ours" the pipeline's.
        difference: Returns the largest relative difference of the forms' results.
        tolerance: Largest difference at which forms still compute the same.
        flops: Floating-point operations of one call; None where they do not matter.
        facts: What else the JSON says about the case.
    """

    calls: dict[str, Callable[[], object]]
    difference: Callable[[], float]
    tolerance: float = 1e-3
    flops: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A line of the bench.

    Attributes:
        what: What is computed, in a few words.
        plain: How the plain form computes it.
        make: Makes its forms for a device and a scale ("tiny", "normal", "full").
        grows: Makes its forms with one property multiplied by a factor: "size", "batch" or "width".
        heavy: Whether it is timed in few rounds.
    """

    what: str
    plain: str
    make: Callable[[str, str], Forms]
    grows: Callable[[str, str, str, float], Forms] | None = None
    heavy: bool = False
