"""Compute budgets: MACs, a share of the teacher's MACs, or milliseconds on a device."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator

from components.catlib.errors import UserError


class Amount(NamedTuple):
    """A compute budget: a number and what it counts; "share" is of the teacher's MACs."""

    number: float
    unit: Literal["macs", "share", "milliseconds"]


_SUFFIXES: dict[str, Literal["share", "milliseconds"]] = {"ms": "milliseconds", "x": "share"}


def parse_budget(text: str | float) -> Amount:
    """Reads a compute budget.

    Args:
        text: MACs such as `2.6e9`, a share of the teacher's MACs such as `"0.05x"`, or milliseconds such as `"15ms"`.

    Raises:
        UserError: The text is none of these, or not positive and finite.
    """
    written = str(text).strip()
    suffix = next((each for each in _SUFFIXES if written.lower().endswith(each)), "")
    try:
        value = float(written[: len(written) - len(suffix)])
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise UserError(
            f"Budget {written!r} is not a compute budget: give MACs such as 2.6e9, a share of the teacher's MACs such "
            "as 0.05x, or milliseconds such as 15ms."
        )
    return Amount(value, _SUFFIXES.get(suffix, "macs"))


def in_milliseconds(budget: str) -> bool:
    """Whether a budget is a latency, which needs a table of layers' times."""
    return parse_budget(budget).unit == "milliseconds"


def _budget_text(value: str | float) -> str:
    number, unit = parse_budget(value)
    suffix = next((each for each, meaning in _SUFFIXES.items() if meaning == unit), "")
    short = f"{number:g}"
    return (short if float(short) == number else repr(number).removesuffix(".0")) + suffix


Budget = Annotated[str, BeforeValidator(_budget_text)]
"""A compute budget as text: `2.6e+09` MACs, `0.05x` of the teacher's MACs, or `15ms`."""
