"""Numbers and settings as people read them."""

from __future__ import annotations

import math
from typing import Any

import yaml


def quantity(count: float) -> str:
    """Writes a large count with three digits: 43527405568 as 43.5 G."""
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= scale:
            digits = max(0, 2 - math.floor(math.log10(count / scale)))
            return f"{count / scale:.{digits}f} {unit}"
    return f"{count:g}"


def file_size(count: int) -> str:
    """Writes a number of bytes: 1400000 as 1.40 MB."""
    return f"{quantity(count)}B" if count >= 1000 else f"{count} B"


def milliseconds(value: float) -> str:
    """Writes a time with three digits: 28.9712 as 29.0 ms."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{digits}f} ms"


def factor(ratio: float) -> str:
    """Writes how many times smaller something is: 4.2 as ÷ 4.2, and 0.5 as × 2.0."""
    return f"÷ {ratio:.1f}" if ratio >= 1 else f"× {1 / ratio:.1f}"


def budget_label(budget: str) -> str:
    """Writes a compute budget: "2.6e+09" as 2.6 G, "0.1x" as 0.1×, "15ms" as 15 ms."""
    if budget.endswith("ms"):
        return f"{budget[:-2]} ms"
    return f"{budget[:-1]}×" if budget.endswith("x") else short_number(float(budget))


def short_number(value: float) -> str:
    """Writes a number in few characters: 1500000 as 1.5 M, 0.00025 as 2.5e−4.

    Args:
        value: Any finite number.
    """
    magnitude = abs(value)
    for limit, scale, unit in ((1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if magnitude >= limit:
            return f"{with_minus(f'{value / scale:.4g}')} {unit}"
    if 0 < magnitude < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{with_minus(mantissa.removesuffix('.0'))}e−{int(exponent[1:])}"
    return with_minus(f"{value:.4g}")


def with_minus(text: str) -> str:
    """Replaces hyphens by minus signs."""
    return text.replace("-", "−")


def words(name: str) -> str:
    """Writes the name of a setting or loss: "images_per_second" as images per second."""
    return name.replace("_", " ")


def as_yaml(value: Any) -> str:
    """Writes settings as YAML."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def as_text(value: Any) -> str:
    """Writes nested facts in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{words(str(key))}: {as_text(nested)}" for key, nested in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(as_text, value))
    return str(value)


def setting_text(key: str, value: Any) -> str:
    """Writes a setting in few words: "mse", "not centred", "distiller weight 0.5", "layer weights 4 0 0 0"."""
    if isinstance(value, str):
        return words(value)
    if isinstance(value, bool):
        return f"{'' if value else 'not '}{words(key.rpartition('.')[2])}"
    numbers = value if isinstance(value, list) else [value]
    text = " ".join(f"{number:g}" if isinstance(number, float) else f"{number}" for number in numbers)
    return f"{words(key.replace('.', ' '))} {text}"
