"""The runs of a workspace on this machine: how they ended, their students' figures side by side, their reports."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.catlib.artifacts import read_manifest
from components.catlib.errors import UserError
from components.catlib.metrics.catalogue import BY_KEY, Metric, measured_among
from components.catlib.reporting.formatting import milliseconds, quantity
from pipelines.local import RunLog
from pipelines.workspaces import check_workspace, out_of_use

_REQUEST = re.compile(r"(?P<recipe>.+)-(?P<began>\d{8}-\d{6})-\d+\.request\.json")


@dataclass(frozen=True)
class Student:
    """A student of a run.

    Attributes:
        name: Its budget or variation, as in the report: "Student 0.2×".
        figures: Its figures as numbers, by the key of a metric, `macs` or `latency_ms`.
    """

    name: str
    figures: Mapping[str, float]


@dataclass(frozen=True)
class LocalRun:
    """A run on this machine.

    Attributes:
        name: RECIPE-DATE-TIME-PROCESS, as its files in `logs/` are named.
        pipeline: Name of its pipeline.
        began: When it began, in local time: "2026-11-26 18:49:32".
        state: RUNNING, SUCCEEDED, FAILED or INTERRUPTED.
        reason: Why it failed; "" if it did not or the log does not tell.
        report: Its report; None if it wrote none or it was removed.
        log: Its full log.
        students: Its students.
    """

    name: str
    pipeline: str
    began: str
    state: str
    reason: str
    report: Path | None
    log: Path
    students: tuple[Student, ...]


def local_runs(workspace: Path, *, name: str | None = None, count: int = 10) -> list[LocalRun]:
    """Reads the newest runs of a workspace, the newest first.

    Args:
        workspace: Its folder.
        name: Name of the only run to read; None: all.
        count: Number of runs.

    Raises:
        UserError: There is no such folder or run, or it is no workspace.
    """
    if not workspace.is_dir():
        raise UserError(f"There is no workspace {workspace}; give the folder of your runs with --workspace.")
    check_workspace(workspace)
    found = {path: named for path in (workspace / "logs").glob("*.request.json")
             if (named := _REQUEST.fullmatch(path.name)) and name in (None, _name(path))}  # fmt: skip
    if name is not None and not found:
        raise UserError(f"There is no run {name!r} in {workspace}; leave the name out to list them.")
    newest = sorted(found, key=lambda path: (found[path]["began"], path.stat().st_mtime), reverse=True)[:count]
    running = False
    if not all(_answer(path).exists() for path in newest):
        with out_of_use(workspace) as free:
            running = not free
    return [_read(path, found[path]["began"], running=running) for path in newest]


def table(runs: Sequence[LocalRun]) -> str:
    """Returns the runs as text: a table of all students, a column per figure, and the reports' addresses below it."""
    measured = measured_among({key for run in runs for student in run.students for key in student.figures})
    keys = ["macs", *(metric.key for metric in measured), "latency_ms"]
    header = ["run", "state", "student", "MACs", *(_heading(metric) for metric in measured), "latency"]
    rows = [
        [run.name, run.state.lower(), student.name, *(_text(key, student.figures) for key in keys)]
        for run in runs
        for student in run.students or (Student("", {}),)
    ]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
             for row in [header, *rows]]  # fmt: skip
    lines += [
        f"{run.name}: {run.reason or run.state.lower()}" for run in runs if run.state in ("FAILED", "INTERRUPTED")
    ]
    lines += [f"{run.name}: {run.report.as_uri()}" for run in runs if run.report]
    return "\n".join(lines)


def facts(run: LocalRun) -> dict[str, Any]:
    """Returns a run as JSON values."""
    return {
        "name": run.name,
        "pipeline": run.pipeline,
        "began": run.began,
        "state": run.state,
        "reason": run.reason,
        "report": str(run.report) if run.report else None,
        "log": str(run.log),
        "students": [{"name": student.name, "figures": dict(student.figures)} for student in run.students],
    }


def _read(request: Path, began: str, *, running: bool) -> LocalRun:
    """Reads a run from the files that it left; `running` tells whether any run of the workspace runs."""
    name = _name(request)
    log, answer, asked = request.with_name(f"{name}.log"), _answer(request), _json(request)
    folder = Path(_json(answer).get("report") or "/nowhere")
    state, reason = "SUCCEEDED", ""
    if not answer.exists():
        state, reason = _end(log)
        if running and (state, reason) == ("INTERRUPTED", "") and _lives(asked.get("parent")):
            state = "RUNNING"
    return LocalRun(
        name=name,
        pipeline=asked.get("pipeline", ""),
        began=time.strftime("%Y-%m-%d %H:%M:%S", time.strptime(began, "%Y%m%d-%H%M%S")),
        state=state,
        reason=reason,
        report=folder / "report.html" if (folder / "report.html").exists() else None,
        log=log,
        students=tuple(_students(folder)),
    )


def _name(request: Path) -> str:
    return request.name.removesuffix(".request.json")


def _answer(request: Path) -> Path:
    return request.with_name(f"{_name(request)}.answer.json")


def _json(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _lives(process: object) -> bool:
    """Returns whether the command that started a run still runs."""
    if not isinstance(process, int) or process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another person's
        return True
    return True


def _end(log: Path) -> tuple[str, str]:
    """Returns how a run ended that left no answer, and why."""
    read = RunLog(lambda line: None)
    with contextlib.suppress(OSError):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            read.read(line)
    if read.user_error is not None:
        return "FAILED", str(read.user_error)
    if read.failed and read.interruption is None:
        return "FAILED", f"{read.failed[0]} {'was killed' if read.killed else 'failed'}; log: {log}"
    return "INTERRUPTED", read.interruption or ""


def _students(report: Path) -> Iterable[Student]:
    try:
        names = read_manifest(report, "report").summary.get("students", {})
    except UserError:
        return
    for folder, name in names.items():
        own = _json(report / "students" / folder / "metrics.json").get("student", {})
        figures = {key: float(own[key]) for key in BY_KEY if isinstance(own.get(key), int | float)}
        with contextlib.suppress(KeyError, TypeError):
            figures["macs"] = float(own["paper_macs"])
        with contextlib.suppress(KeyError, TypeError):
            figures["latency_ms"] = float(own["latency_ms"]["median"])
        yield Student(name, figures)


def _heading(metric: Metric) -> str:
    return f"{metric.label} {metric.arrow}"


def _text(key: str, figures: Mapping[str, float]) -> str:
    if key not in figures:
        return "–"
    match key:
        case "macs":
            return quantity(figures[key])
        case "latency_ms":
            return milliseconds(figures[key])
        case _:
            return BY_KEY[key].text(figures[key])
