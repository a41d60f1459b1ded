"""What a training gets through the environment: where it keeps its checkpoints, how often it saves and logs.

None of it changes a result, so it stays outside the settings of the stages and outside every cache key. The recipe's
section `resources` holds it. Whoever starts a stage puts it into the environment: the command line, a local run, the
Docker runner, a task of a cluster, a TrainJob.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from components.catlib.config import ResourcesConfig, validate

CHECKPOINTS_VARIABLE = "CAT_CHECKPOINTS"
"""Environment variable with the place below which every training gets its own place for checkpoints."""

VARIABLES = {
    "checkpoint_seconds": "CAT_CHECKPOINT_SECONDS",
    "keep_checkpoints": "CAT_KEEP_CHECKPOINTS",
    "log_seconds": "CAT_LOG_SECONDS",
}
"""Settings of the section `resources`, each with the environment variable that carries it to a stage."""

CLUSTER_CHECKPOINT_SECONDS = 120.0
"""Seconds between checkpoints on a cluster, where a pod may vanish without notice."""


@dataclass(frozen=True)
class Upkeep:
    """Where a training keeps its checkpoints, how often it saves and logs.

    Attributes:
        checkpoints: Folder or `s3://bucket/prefix` for the checkpoints of all trainings; None: none are kept.
        checkpoint_seconds: Seconds between checkpoints.
        keep_checkpoints: Number of newest checkpoints to keep.
        log_seconds: Seconds between progress lines.
    """

    checkpoints: str | None = None
    checkpoint_seconds: float = 600.0
    keep_checkpoints: int = 2
    log_seconds: float = 10.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Upkeep:
        """Reads the variables; one that is not set, or empty, leaves the default.

        Raises:
            UserError: A value is not a number or out of bounds; the message names the variable.
        """
        given: dict[str, Any] = {}
        for name, variable in VARIABLES.items():
            if text := environment.get(variable):
                section = validate(ResourcesConfig, {name: text}, where=f"Environment variable {variable}")
                given[name] = getattr(section, name)
        return cls(checkpoints=environment.get(CHECKPOINTS_VARIABLE) or None, **given)


def variables(resources: ResourcesConfig, *, on_cluster: bool = False) -> dict[str, str]:
    """Returns the environment variables that carry a recipe's settings to its stages; nulls need none.

    Args:
        resources: The recipe's section.
        on_cluster: Whether the stages run on a cluster, which saves more often by default.
    """
    given = {name: getattr(resources, name) for name in VARIABLES}
    if on_cluster and given["checkpoint_seconds"] is None:
        given["checkpoint_seconds"] = CLUSTER_CHECKPOINT_SECONDS
    return {VARIABLES[name]: str(value) for name, value in given.items() if value is not None}


@contextlib.contextmanager
def handed_over(resources: ResourcesConfig) -> Iterator[None]:
    """Puts a recipe's settings into this process's environment while the body runs a stage."""
    ours = variables(resources)
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
