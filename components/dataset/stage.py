"""The dataset stage: packs images from any source into a dataset artifact."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from components.catlib import artifacts
from components.catlib.config import RGB, DatasetConfig
from components.catlib.data import builtin
from components.catlib.data.channels import described
from components.catlib.data.layouts import LeftOver
from components.catlib.data.locating import open_source
from components.catlib.data.packing import pack
from components.catlib.data.samples import Collection
from components.catlib.data.sources import open_tree

logger = logging.getLogger(__name__)


def run(config: DatasetConfig, *, output: Path, source: str | None = None) -> None:
    """Packs images for training and evaluation.

    Args:
        config: The source of the images, their layout, and the sizes to pack them to.
        output: Folder of the dataset artifact to write.
        source: Replaces `config.source`.

    Raises:
        UserError: The source does not exist, its layout is not recognised, or its images do not pair or cannot be read.
    """
    location = config.source if source is None else source
    started = time.monotonic()
    with (
        _collection(config, location) as collection,
        artifacts.writing(output, kind="dataset", config=config) as writer,
    ):
        summary = pack(collection, config, writer.folder)
        writer.summary = summary.model_dump(mode="json")
    logger.info(
        "packed %s: train %s, test %s, in %.1f s",
        summary.provenance["source"],
        summary.images["train"],
        summary.images["test"],
        time.monotonic() - started,
    )


def preview(config: DatasetConfig, *, source: str | None = None) -> str:
    """Says which images would be used as what; decodes and writes nothing.

    Args:
        config: The source of the images, and their layout.
        source: Replaces `config.source`.

    Raises:
        UserError: As in `run`, but for images that cannot be read.
    """
    with _collection(config, config.source if source is None else source) as collection:
        facts = collection.provenance
        lines = [f"{collection.pairing}, laid out as {facts.get('layout', 'built in')}; {facts.get('split', '')}"]
        end = "" if facts.get("layout") in ("imagefolder", "croissant") else "/"
        lines += [f"domain {domain}: {name}{end}" for domain, name in facts.get("domains", {}).items()]
        lines += [f"{role} values: {described(each)}" for role, each in config.values.items() if each != RGB]
        for split, lists in (("train", collection.train), ("test", collection.test)):
            for samples in lists:
                named = f", such as {samples.samples[0].name}" if samples.samples else ""
                lines.append(f"{split}: {len(samples.samples)} as {' and '.join(samples.roles)}{named}")
        lines += [f"unusable: {one.file}: {one.reason}" for one in collection.without_partner]
        lines += [f"left out: {LeftOver(**left)}" for left in facts.get("left_over", [])]
    return "\n".join(lines)


@contextlib.contextmanager
def _collection(config: DatasetConfig, location: str) -> Iterator[Collection]:
    if location.startswith(builtin.PREFIX):
        yield builtin.open_builtin(config, location)
        return
    with open_source(location, sha256=config.sha256) as (tree, provenance):
        yield open_tree(config, tree, provenance)
