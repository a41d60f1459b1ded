"""What every Kubeflow component does around its stage: logging, exit codes, and the metrics that the UI shows."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from components.catlib.artifacts import read_manifest
from components.catlib.errors import Interrupted, UserError

if TYPE_CHECKING:
    from kfp.dsl import Artifact, Metrics

DEFAULT_IMAGE = "cat-pipeline:0.1.0"
"""The image of every task unless another is named when the pipeline is compiled."""

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75


@contextlib.contextmanager
def stage_process(stage: str) -> Iterator[None]:
    """Makes this process a stage: log lines begin with `[stage]`, a user's mistake is one line and exit code 2.

    Raises:
        SystemExit: 2 after a [UserError][components.catlib.errors.UserError], 75 after an interruption.
    """
    root, logger = logging.getLogger(), logging.getLogger(stage)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"[{stage}] %(message)s"))
    kubeflows_handlers, root.handlers = root.handlers, [handler]
    root.setLevel(logging.INFO)
    try:
        yield
    except UserError as error:
        logger.error("ERROR: %s", error)
        raise SystemExit(EXIT_USER_ERROR) from error
    except Interrupted as interruption:
        logger.warning("INTERRUPTED: %s", interruption)
        raise SystemExit(EXIT_INTERRUPTED) from interruption
    finally:
        root.handlers = kubeflows_handlers


def publish(output: Artifact, metrics: Metrics | None = None) -> None:
    """Checks that a stage's output is whole and shows its headline figures in the UI.

    Args:
        output: The artifact that the stage wrote; its content digest becomes metadata.
        metrics: Gets every finite number of the manifest's `summary["metrics"]`.
    """
    manifest = read_manifest(Path(output.path))
    output.metadata["kind"] = manifest.kind
    output.metadata["digest"] = manifest.digest()
    if metrics is None:
        return
    figures = {}
    for name, value in manifest.summary.get("metrics", {}).items():
        if value is None or not math.isfinite(value):
            logging.getLogger(manifest.kind).warning("metric %s is %s and is left out", name, value)
            continue
        figures[name] = float(value)
        metrics.log_metric(name, figures[name])
    # Kubeflow's local cache takes a Metrics artifact without a file for a missing one.
    Path(metrics.path).parent.mkdir(parents=True, exist_ok=True)
    Path(metrics.path).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
