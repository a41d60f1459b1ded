"""Compute budgets, in MACs or as a share of the teacher's."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from components.catlib.errors import UserError


def parse_budget(text: str | float) -> tuple[float, bool]:
    """Reads a compute budget.

    Args:
        text: MACs such as `2.6e9`, or a share of the teacher's MACs such as `"0.05x"`.

    Returns:
        The number, and whether it is a share of the teacher's MACs.

    Raises:
        UserError: The text is neither, or not positive and finite.
    """
    written = str(text).strip()
    ratio = written.lower().endswith("x")
    try:
        value = float(written[:-1] if ratio else written)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise UserError(
            f"Budget {written!r} is not a compute budget: give MACs such as 2.6e9, "
            "or a share of the teacher's MACs such as 0.05x."
        )
    return value, ratio


def _budget_text(value: str | float) -> str:
    number, ratio = parse_budget(value)
    short = f"{number:g}"
    return (short if float(short) == number else repr(number).removesuffix(".0")) + "x" * ratio


Budget = Annotated[str, BeforeValidator(_budget_text)]
"""A compute budget as text: `2.6e+09` MACs or `0.05x` of the teacher's MACs."""
