"""What every Kubeflow component does around its stage: logging, exit codes, and what the UI shows."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from components.attempts import Attempt
from components.catlib.artifacts import Manifest, read_manifest
from components.catlib.code_digest import code_digest
from components.catlib.disk import writing_to
from components.catlib.errors import Incomplete, Interrupted, OutOfMemory, Unavailable, UserError
from components.catlib.exits import EXIT_INTERRUPTED, after_interruption, dying_with_parent, interrupt, on_stop
from components.catlib.memory import telling_out_of_memory
from components.catlib.storage.settings import waiting_for_servers
from components.catlib.training.upkeep import CHECKPOINTS_VARIABLE
from components.image import image_name

if TYPE_CHECKING:
    from kfp.dsl import HTML, Artifact, Metrics

DEFAULT_IMAGE = image_name()
"""The image of every task unless another is named when the pipeline is compiled."""

_REFUSALS: Mapping[str, type[UserError]] = {
    "UNAVAILABLE": Unavailable,
    "OUT OF MEMORY": OutOfMemory,
    "ERROR": UserError,
}
"""The word that marks the last log line of a stage that ends with an error of this kind."""


def refusal(message: str) -> UserError | None:
    """Returns the error that ended a stage, from the message of its last log line; None for other messages."""
    mark, _, sentence = message.partition(": ")
    return _REFUSALS[mark](sentence) if mark in _REFUSALS else None


@contextlib.contextmanager
def stage_process(stage: str, code: str) -> Iterator[None]:
    """Makes this process a stage: log lines begin with `[stage]`, a user's mistake is one line and exit code 2.

    Servers that do not answer yet are waited for, because they may be starting. SIGTERM, SIGHUP, Ctrl-C and the death
    of the process that started it stop a stage. What one attempt refused, the next one refuses at once.

    Args:
        stage: Name of the stage.
        code: Digest of its code that the task's cache key holds. Other code is a mistake, because its results would be
            taken from the cache for those of that code.

    Raises:
        SystemExit: `exit_code` of a `UserError`, which is 1 when memory runs out; 75 after an interruption.
    """
    root, logger = logging.getLogger(), logging.getLogger(stage)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"[{stage}] %(message)s"))
    kubeflows_handlers = root.handlers
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    try:
        with dying_with_parent(), on_stop(interrupt), _refused_once(), waiting_for_servers():
            _check_code(stage, code)
            with telling_out_of_memory(stage), _telling_lost_artifacts():
                yield
    except UserError as error:
        mark = next(mark for mark, kind in _REFUSALS.items() if isinstance(error, kind))
        logger.error("%s: %s", mark, error)
        raise SystemExit(error.exit_code) from error
    except Interrupted as interruption:
        logger.warning("INTERRUPTED: %s", interruption)
        raise SystemExit(EXIT_INTERRUPTED) from interruption
    except KeyboardInterrupt as interruption:
        resumes = stage in ("teacher", "distill") and CHECKPOINTS_VARIABLE in os.environ
        logger.warning("INTERRUPTED: Stage %s: %s.", stage, after_interruption(resumes=resumes))
        raise SystemExit(EXIT_INTERRUPTED) from interruption
    finally:
        root.handlers = kubeflows_handlers
        gc.freeze()  # the process ends, and would first search everything that torch loaded for garbage


def _refused_once() -> contextlib.AbstractContextManager[None]:
    attempt = Attempt.current()
    return attempt.refused_once() if attempt else contextlib.nullcontext()


_LAUNCHERS_FOLDER = re.compile(r"/(minio|s3|gcs)/(.+/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/([\w-]+)/[^/]+/[^/]+)")
"""Where Kubeflow's launcher puts an input: /SCHEME/BUCKET/…/PIPELINE/RUN/TASK/ID/NAME."""


@contextlib.contextmanager
def _telling_lost_artifacts() -> Iterator[None]:
    """Says of an input that the launcher did not find what happened to it and what to do.

    Kubeflow's cache answers with results without looking whether they still exist, and the launcher fetches an empty
    folder without an error.
    """
    try:
        yield
    except Incomplete as error:
        if (found := _LAUNCHERS_FOLDER.fullmatch(str(error.folder))) is None:
            raise
        scheme, place, task = found.groups()
        raise UserError(
            f"{'gs' if scheme == 'gcs' else scheme}://{place}, the result of {task}, is not whole in the store any "
            f"more, though Kubeflow's cache answered with it; submit the run again with --no-cache {task}."
        ) from error


def _check_code(stage: str, code: str) -> None:
    wanted, _, _ = code.partition("+")  # what follows tells libraries apart, for which an image stands
    found = code_digest(stage)
    if found != wanted:
        raise UserError(
            f"The code of stage {stage} is {found} here, but the run was compiled for {wanted or 'no code'}; build and "
            "push the image of the version that compiles the run (`make docker-image`), or compile the run with the "
            "version of the image; after a change of code during a local run, start the run again."
        )


def publish(output: Artifact, *, metrics: Metrics | None = None, page: HTML | None = None) -> None:
    """Checks that a stage's output is whole and shows it in the UI.

    Args:
        output: The artifact that the stage wrote. Its metadata gets kind and content digest.
        metrics: Gets every finite number of the manifest's `summary["metrics"]`.
        page: Gets figures, settings, charts and pictures.
    """
    folder = Path(output.path)
    manifest = read_manifest(folder)
    output.metadata["kind"] = manifest.kind
    output.metadata["digest"] = manifest.digest()
    if metrics is not None:
        _show_metrics(manifest, metrics)
    if page is not None:
        from components.catlib.reporting.glance import html

        _write(page, html(folder))


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


def _write(output: Artifact, text: str) -> None:
    path = Path(output.path)
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
