"""The table of an export's files by runtime, precision and number of threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.catlib.reporting.formatting import file_size, milliseconds

COLUMNS = ("File", "Precision", "Runtime", "Threads", "Median", "p95", "Memory", "Size", "PSNR to float32")


@dataclass(frozen=True)
class RuntimeTable:
    """Times of a student's files, and of its teacher's if that was given.

    Attributes:
        columns: Headings.
        rows: A text per column.
        notes: Sentences: the fastest file, files that are not published and why, runtimes that are missing.
    """

    columns: tuple[str, ...]
    rows: list[list[str]]
    notes: list[str]


def runtime_table(facts: Mapping[str, Any] | None) -> RuntimeTable | None:
    """Lays out the section `runtimes` of `export.json`; None where an export has none."""
    if facts is None:
        return None
    best = facts["best"]
    notes = [
        f"The fastest file, model.best.onnx, is a copy of {best['file']}: {milliseconds(best['milliseconds'])} in "
        f"{best['runtime']}; threads: {best['threads']}."
    ]
    notes += [f"Not published: {sentence}" for sentence in facts["refused"].values()]
    if facts["in_float"]:
        notes.append(f"Layers of int8 that stay in float32: {len(facts['in_float'])}.")
    notes += facts["notes"]
    return RuntimeTable(COLUMNS, [_cells(row) for row in facts["rows"]], notes)


def _cells(row: Mapping[str, Any]) -> list[str]:
    times, memory, decibels = row["milliseconds"], row["memory_bytes"], row["decibels"]
    teacher = row["precision"] == "teacher"
    return [
        "teacher (not kept)" if teacher else row["file"],
        "float32" if teacher else row["precision"],
        row["runtime"],
        str(row["threads"]),
        milliseconds(times["median"]),
        milliseconds(times["p95"]),
        "unknown" if memory is None else file_size(memory),
        file_size(row["file_bytes"]),
        "–" if teacher else "over 99 dB" if decibels > 99 else f"{decibels:.1f} dB",
    ]
