"""A student's budget in milliseconds: what the table predicted, and what its ONNX file takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from components.catlib.reporting.comparison import Contender, Together
from components.catlib.reporting.formatting import milliseconds
from components.catlib.reporting.lineage import Artifact


def _runs(exported: Artifact, together: Together | None) -> Iterator[tuple[float, int, str]]:
    """Yields seconds, threads and device of each time of an ONNX file, the most comparable first."""
    if together is not None:
        yield together.seconds[exported.digest], together.threads, together.cpu
    timed = exported.read_json("export.json")["latency"]
    for name in ("onnxruntime_one_thread", "onnxruntime"):
        if run := timed.get(name):
            yield run["median"], run["threads"], timed.get("device", "an unknown machine")


@dataclass(frozen=True)
class LatencyBudget:
    """Times for one image in milliseconds.

    Attributes:
        limit: The budget.
        predicted: The time by the table.
        measured: The time of the ONNX file where it was exported, with as many threads as the table has; None if
            it was not exported or not timed so.
        place: Device and threads of the table, as words.
        elsewhere: The device on which the file was timed, if it is not the table's.
    """

    limit: float
    predicted: float
    measured: float | None
    place: str
    elsewhere: str | None

    @classmethod
    def of(cls, student: Contender, together: Together | None) -> LatencyBudget | None:
        """Returns the times of a student; None if its budget is in MACs.

        Args:
            student: The student.
            together: The times of all students' files, where one task measured them; None: that of its export counts.
        """
        found = student.pruned.read_json("pruning.json").get("latency") if student.pruned else None
        if found is None:
            return None
        runs = list(_runs(student.exported, together)) if student.exported else []
        median, device = next(((run, at) for run, threads, at in runs if threads == found["threads"]), (None, ""))
        return cls(
            limit=found["limit"],
            predicted=found["predicted"],
            measured=None if median is None else 1e3 * median,
            place=f"{found['device']}, {found['threads']} thread{'s' * (found['threads'] > 1)}",
            elsewhere=device if median is not None and device != found["device"] else None,
        )

    @property
    def measured_text(self) -> str:
        """What was measured, and where: "14.8 ms"."""
        if self.measured is None:
            return "not measured"
        return milliseconds(self.measured) + (f" on {self.elsewhere}" if self.elsewhere else "")

    def caveat(self, name: str) -> str | None:
        """Returns a sentence on a student that takes longer than its budget; None if it does not.

        Args:
            name: Name of the student.
        """
        if self.measured is None or self.elsewhere or self.measured <= self.limit:
            return None
        return (
            f"{name} takes {milliseconds(self.measured)} as an ONNX file, more than its budget of "
            f"{milliseconds(self.limit)}; the table of {self.place} predicted {milliseconds(self.predicted)}. A busy "
            "machine slows down the measurement; otherwise give a smaller budget or measure the table again."
        )
