"""Settings by dotted name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ("a.b", 1) for {"a": {"b": 1}}; lists and empty mappings are leaves.

    Args:
        value: JSON values.
        path: Name of the whole, in front of all others.
    """
    if isinstance(value, Mapping) and value:
        for key, nested in value.items():
            yield from leaves(nested, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
