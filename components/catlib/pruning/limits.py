"""What a budget allows: MACs as published, or milliseconds on the device of a latency table."""

from __future__ import annotations

import math
from dataclasses import dataclass

from components.catlib.config import parse_budget
from components.catlib.errors import UserError
from components.catlib.latency.table import HOW_TO_MEASURE, LatencyTable
from components.catlib.networks.families import Architecture
from components.catlib.networks.layers import ImageSize


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The most that a student may cost.

    Attributes:
        value: MACs in the convention of budgets, or milliseconds for one image.
        table: The times of layers on the device that the milliseconds are for; None: the value is MACs.
    """

    value: float
    table: LatencyTable | None = None

    @classmethod
    def of(cls, budget: str, *, teacher_macs: int, table: LatencyTable | None) -> Limit:
        """Returns the limit of a budget.

        Args:
            budget: MACs such as "2.6e9", a share of the teacher's such as "0.05x", or milliseconds such as "15ms".
            teacher_macs: The teacher's MACs in the convention of budgets.
            table: Times of layers, for milliseconds.

        Raises:
            UserError: The budget is in milliseconds, and there is no table.
        """
        number, unit = parse_budget(budget)
        if unit == "milliseconds":
            if table is None:
                raise no_table(budget)
            return cls(value=number, table=table)
        return cls(value=math.floor(number * teacher_macs if unit == "share" else number))

    @property
    def macs(self) -> int | None:
        """The limit in MACs; None if it is milliseconds."""
        return None if self.table else int(self.value)

    def cost(self, student: Architecture, size: ImageSize, macs: int) -> float:
        """Returns what is compared with the limit: the student's MACs, or its predicted milliseconds."""
        return self.table.latency(student, size) if self.table else macs

    def text(self, cost: float) -> str:
        """Writes a cost for people: "1200 MACs", "14.9 ms"."""
        return f"{cost:.4g} ms" if self.table else f"{cost:.0f} MACs"


def no_table(budget: str) -> UserError:
    """Returns the refusal of a budget in milliseconds without a table."""
    return UserError(
        f"Budget {budget} needs a table of layers' times on the device that it is meant for: measure it there with "
        f"{HOW_TO_MEASURE}, and give it with --set prune.latency_table.uri=table.json."
    )
