"""The prune stage: cuts a trained teacher to a compute budget, within seconds.

No network is built and torch is not loaded: scales and weights are read as arrays; MACs are arithmetic, and so are
milliseconds, over a table of layers' times.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from components.catlib.artifacts import writing
from components.catlib.config import PruneConfig
from components.catlib.config.budgets import in_milliseconds
from components.catlib.errors import UserError
from components.catlib.latency.table import open_table
from components.catlib.networks.architecture_files import open_networks, read_generator_weights, write_architecture
from components.catlib.networks.directions import Direction
from components.catlib.pruning.search import describe, prune
from components.catlib.pruning.slicing import inherit_weights

PRUNING_FILE = "pruning.json"

log = logging.getLogger(__name__)


def run(config: PruneConfig, *, teacher: Path, budget: str, output: Path) -> None:
    """Cuts a teacher's generator to a budget and writes the student's artifact.

    The artifact holds `architecture.json` with the one generator that was cut, its weights if they are inherited, and
    `pruning.json` with the search and the surviving channels (`components.catlib.pruning.search.describe`).

    Args:
        config: Which generator is cut, the bounds on channels, and the student's first weights.
        teacher: Folder of a teacher artifact.
        budget: MACs such as "2.6e9", a share of the teacher's such as "0.05x", or milliseconds such as "15ms", which
            needs the config's latency table.
        output: Folder to write.

    Raises:
        UserError: The teacher lacks the generator or is damaged, or budget and settings do not fit it.
    """
    networks, direction = open_networks(teacher, "teacher"), Direction(config.generator)
    if direction not in networks.architectures.generators:
        raise UserError(
            f"prune.generator is {direction}, but the teacher in {teacher} has only "
            f"{' and '.join(networks.architectures.generators)}; set prune.generator to one of these."
        )
    architecture = networks.architectures.generator(direction)
    weights = read_generator_weights(networks, direction)
    scales = {
        norm.name: weights[f"{norm.name}.weight"]
        for norm in architecture.prunable_norms()
        if f"{norm.name}.weight" in weights
    }
    needed = config.latency_table if in_milliseconds(budget) else None
    table, digest = open_table(needed) if needed else (None, None)
    pruning = prune(architecture, scales, input_size=networks.input_size, budget=budget, config=config, table=table)
    described = describe(pruning)
    if table:
        described["latency"]["table_sha256"] = digest
    inherited = inherit_weights(weights, pruning) if config.student_init == "inherit" else None
    metrics = _metrics(described)
    with writing(output, kind="prune", config=config, inputs={"teacher": networks.manifest}) as writer:
        write_architecture(
            writer.folder,
            direction,
            pruning.architecture,
            networks.input_size,
            weights=inherited,
            values=networks.values,
        )
        writer.write_json(PRUNING_FILE, described)
        writer.summary = {
            "generator": direction,
            "budget": budget,
            "student_init": config.student_init,
            "notes": list(pruning.notes),
            "metrics": metrics,
        }
    log.info(
        "student of %.4g MACs (%.2f %% of the teacher's %.4g), %d parameters",
        metrics["student_macs"], 100 * metrics["macs_ratio"], metrics["teacher_macs"], metrics["parameters"],
    )  # fmt: skip


def _metrics(described: dict[str, Any]) -> dict[str, float]:
    teacher, student = described["teacher"], described["student"]
    metrics = {
        "teacher_macs": teacher["paper_macs"],
        "student_macs": student["paper_macs"],
        "macs_ratio": student["paper_macs"] / teacher["paper_macs"],
        "teacher_true_macs": teacher["true_macs"],
        "student_true_macs": student["true_macs"],
        "teacher_parameters": teacher["parameters"],
        "parameters": student["parameters"],
    }
    if "latency" in described:
        metrics["predicted_milliseconds"] = described["latency"]["predicted"]
    if described["threshold"] is not None:
        metrics["threshold"] = described["threshold"]
    return metrics
