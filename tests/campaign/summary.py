"""Turns a folder of results into Markdown for docs/benchmarks.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.benchmarks.report import duration, markdown
from tests.campaign.parts import PARTS


def summary(folder: Path) -> str:
    """Returns a section per part; a part without a result is "not yet run"."""
    texts = []
    for name, part in PARTS.items():
        path = folder / f"{name}.json"
        if not path.exists():
            texts.append(f"### {name}: {part.what}\n\nNot yet run.")
            continue
        found = json.loads(path.read_text())
        size = ", tiny: a trial of the command, no measurement" if found["tiny"] else ""
        head = (
            f"{found['machine']}, torch {found['torch']}, Python {found['python']}, {found['date']}, "
            f"{found['seconds']:.0f} s{size}."
        )
        texts.append(f"### {name}: {part.what}\n\n{head}\n\n{_shown(name, found['result'])}")
    return "\n\n".join(texts) + "\n"


def _shown(name: str, result: dict[str, Any]) -> str:
    if name == "tests":
        counts = ", ".join(f"{result[state]} {state}" for state in ("passed", "skipped", "failure", "error"))
        return "\n".join([counts + ".", *(f"- {test}: {state}" for test, state in result["not passed"].items())])
    if name.startswith(("bench", "growth")):
        return markdown(result)
    if name.startswith("memory"):
        return _table(("step", "batch", "memory", "time"), [_memory(step, each) for step, each in result.items()])
    if name.startswith("exactness"):
        header = ("step", "arithmetic", "first step", "largest of 20 steps")
        return _table(header, [row for step, each in result.items() for row in _exactness(step, each)])
    times = "; ".join(f"{stage} {seconds:.0f} s" for stage, seconds in result["seconds"].items())
    figures = [
        f"- {stage}: {key} {value:.4g}"
        for stage, facts in result["summaries"].items()
        for key, value in facts.get("metrics", {}).items()
        if isinstance(value, int | float)
    ]
    return "\n".join([f"Recipe {result['recipe']}: {times}.", "", *figures])


def _memory(step: str, found: dict[str, Any]) -> tuple[str, ...]:
    if not found["fits"]:
        return step, str(found["batch_size"]), "does not fit", ""
    used = found["device_bytes"] or found["host_bytes"] or 0
    return step, str(found["batch_size"]), f"{used / 2**30:.2f} GiB", duration(found["seconds"])


def _exactness(step: str, found: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for arithmetic, losses in found.items():
        if arithmetic != "float64":
            first = max(each["first"] for each in losses.values())
            largest = max(each["largest"] for each in losses.values())
            rows.append((step, arithmetic, f"{first:.1e}", f"{largest:.1e}"))
    return rows


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
