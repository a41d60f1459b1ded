"""The dataset stage: from a folder of images, or built-in data, to a packed dataset."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from components.catlib import artifacts
from components.catlib.config import DatasetConfig
from components.catlib.data import builtin, sources
from components.catlib.data.packing import pack
from components.catlib.storage import local_copy

logger = logging.getLogger(__name__)


def run(config: DatasetConfig, *, output: Path, source: str | None = None) -> None:
    """Packs images for training and evaluation.

    Args:
        config: Where the images are, how they are laid out, to which sizes they are packed.
        output: The dataset artifact to write.
        source: A folder, here or as `s3://…`, or the name of built-in data; instead of `config.source`.

    Raises:
        UserError: No such source, a layout that is not recognised, images that do not pair or cannot be read.
    """
    location = config.source if source is None else source
    started = time.monotonic()
    if location.startswith(builtin.PREFIX):
        collection = builtin.open_builtin(config, location)
    else:
        collection = sources.open_folder(config, local_copy(location))
    with artifacts.writing(output, kind="dataset", config=config) as writer:
        summary = pack(collection, config, writer.folder)
        writer.summary = summary.model_dump(mode="json")
    logger.info(
        "packed %s: train %s, test %s, in %.1f s",
        location,
        summary.images["train"],
        summary.images["test"],
        time.monotonic() - started,
    )
