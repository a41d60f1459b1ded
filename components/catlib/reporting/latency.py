"""A student's budget in milliseconds: what the table predicted, and what its ONNX file takes."""

from __future__ import annotations

from dataclasses import dataclass

from components.catlib.reporting.comparison import Contender
from components.catlib.reporting.formatting import milliseconds


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
    def of(cls, student: Contender) -> LatencyBudget | None:
        """Returns the times of a student; None if its budget is in MACs."""
        found = student.pruned.read_json("pruning.json").get("latency") if student.pruned else None
        if found is None:
            return None
        timed = student.exported.read_json("export.json")["latency"] if student.exported else {}
        runs = [timed.get(name) for name in ("onnxruntime_one_thread", "onnxruntime")]
        fitting = next((run for run in runs if run and run["threads"] == found["threads"]), None)
        device = timed.get("device", "an unknown machine")
        return cls(
            limit=found["limit"],
            predicted=found["predicted"],
            measured=1e3 * fitting["median"] if fitting else None,
            place=f"{found['device']}, {found['threads']} thread{'s' * (found['threads'] > 1)}",
            elsewhere=device if fitting and device != found["device"] else None,
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
