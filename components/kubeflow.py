"""What every Kubeflow component does around its stage: logging, exit codes, checkpoints, and what the UI shows."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from components import __version__
from components.catlib.artifacts import Manifest, read_manifest
from components.catlib.disk import writing_to
from components.catlib.errors import Interrupted, Unavailable, UserError
from components.catlib.exits import EXIT_INTERRUPTED
from components.catlib.storage.settings import waiting_for_servers

if TYPE_CHECKING:
    from kfp.dsl import HTML, Artifact, ClassificationMetrics, Markdown, Metrics

DEFAULT_IMAGE = f"cat-pipeline:{__version__}"
"""The image of every task unless another is named when the pipeline is compiled."""

CHECKPOINTS_VARIABLE = "CAT_CHECKPOINTS"
"""Environment variable with the place of checkpoints. Kubeflow leaves the environment out of its cache keys, so another
place makes no stage run again."""


_REFUSALS: Mapping[str, type[UserError]] = {"ERROR": UserError, "UNAVAILABLE": Unavailable}
"""The word that marks the last log line of a stage that ends with an error of this kind."""


def refusal(message: str) -> UserError | None:
    """Returns the error that ended a stage, from the message of its last log line; None for other messages."""
    mark, _, sentence = message.partition(": ")
    return _REFUSALS[mark](sentence) if mark in _REFUSALS else None


@contextlib.contextmanager
def stage_process(stage: str) -> Iterator[None]:
    """Makes this process a stage: log lines begin with `[stage]`, a user's mistake is one line and exit code 2.

    Servers that do not answer yet are waited for, because they may be starting.

    Raises:
        SystemExit: `exit_code` of a `UserError`, 75 after an interruption.
    """
    root, logger = logging.getLogger(), logging.getLogger(stage)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"[{stage}] %(message)s"))
    kubeflows_handlers = root.handlers
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    try:
        with waiting_for_servers():
            yield
    except UserError as error:
        mark = "UNAVAILABLE" if isinstance(error, Unavailable) else "ERROR"
        logger.error("%s: %s", mark, error)
        raise SystemExit(error.exit_code) from error
    except Interrupted as interruption:
        logger.warning("INTERRUPTED: %s", interruption)
        raise SystemExit(EXIT_INTERRUPTED) from interruption
    finally:
        root.handlers = kubeflows_handlers
        gc.freeze()  # the process ends, and would first search everything that torch loaded for garbage


@contextlib.contextmanager
def checkpoint(stage: str, config: BaseModel, inputs: Sequence[Artifact]) -> Iterator[str | None]:
    """Gives a training the place where it keeps its state, or None when the environment names none.

    The name is a digest of the settings and inputs, so that another attempt, or the same run submitted again, finds
    the state, and no other training does. The state of a finished training stays: its result may yet be lost.

    Args:
        stage: The stage.
        config: Its section of the recipe.
        inputs: The artifacts that it reads.
    """
    if not os.environ.get(CHECKPOINTS_VARIABLE):
        yield None
        return
    facts = [stage, config.model_dump_json(), *(read_manifest(Path(given.path)).digest() for given in inputs)]
    address = checkpoint_place(stage, hashlib.sha256(json.dumps(facts).encode()).hexdigest())
    assert address is not None
    yield address


def checkpoint_place(stage: str, digest: str) -> str | None:
    """Returns the address of a training's state below the place that the environment names; None without one.

    Args:
        stage: The training's section.
        digest: Digest of everything that determines the training.
    """
    root = os.environ.get(CHECKPOINTS_VARIABLE)
    return f"{root.rstrip('/')}/{stage}-{digest[:16]}" if root else None


def publish(
    output: Artifact,
    *,
    metrics: Metrics | None = None,
    confusion: ClassificationMetrics | None = None,
    summary: Markdown | None = None,
    page: HTML | None = None,
    tensorboard: Artifact | None = None,
) -> None:
    """Checks that a stage's output is whole and shows it in the UI.

    Args:
        output: The artifact that the stage wrote. Its metadata gets kind and content digest.
        metrics: Gets every finite number of the manifest's `summary["metrics"]`.
        confusion: Gets the student's confusion matrix of an evaluation with a segmenter; without one it stays empty.
        summary: Gets the figures and settings as text.
        page: Gets charts and pictures.
        tensorboard: Gets the link by which the UI opens TensorBoard on the training's scalars.
    """
    folder = Path(output.path)
    manifest = read_manifest(folder)
    output.metadata["kind"] = manifest.kind
    output.metadata["digest"] = manifest.digest()
    if metrics is not None:
        _show_metrics(manifest, metrics)
    if confusion is not None:
        _show_confusion(folder, manifest, confusion)
    if summary is not None:
        from components.catlib.reporting.summary import markdown

        _write(summary, markdown(folder))
    if page is not None:
        from components.catlib.reporting.glance import html

        _write(page, html(folder))
    if tensorboard is not None:
        link = {"type": "tensorboard", "source": f"{output.uri}/tensorboard"}
        _write(tensorboard, json.dumps({"version": "v1", "outputs": [link]}))


def _show_metrics(manifest: Manifest, metrics: Metrics) -> None:
    figures = {}
    for name, value in manifest.summary.get("metrics", {}).items():
        if value is None or not math.isfinite(value):
            logging.getLogger(manifest.kind).warning("metric %s is %s and is left out", name, value)
            continue
        figures[name] = float(value)
        metrics.log_metric(name, figures[name])
    # Kubeflow's local cache takes a Metrics artifact without a file for a missing one.
    _write(metrics, json.dumps(figures, indent=1) + "\n")


def _show_confusion(folder: Path, manifest: Manifest, confusion: ClassificationMetrics) -> None:
    from components.catlib.metrics.segmentation import SEGMENTATION_FILE

    if SEGMENTATION_FILE in manifest.files:
        found = json.loads((folder / SEGMENTATION_FILE).read_text(encoding="utf-8"))
        confusion.log_confusion_matrix(found["classes"], found["generators"]["student"]["confusion"])
    # As for metrics, there must be a file, even an empty one.
    _write(confusion, json.dumps(confusion.metadata, indent=1) + "\n")


def _write(output: Artifact, text: str) -> None:
    path = Path(output.path)
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
