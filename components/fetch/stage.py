"""The fetch stage: an artifact of an earlier run, from a folder or the object store, becomes one of this run."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from components.catlib.artifacts import read_manifest, verify_checksums
from components.catlib.credentials import refuse_credentials
from components.catlib.errors import UserError
from components.catlib.storage import Storage, is_remote

logger = logging.getLogger(__name__)

STATE_DICTS = (".pth", ".pt")


def run(*, address: str, kind: str, output: Path) -> None:
    """Fetches an artifact unchanged, so that its digest stays the same.

    Args:
        address: A folder, or `s3://bucket/prefix`.
        kind: The expected kind; several may be given as "teacher|distill".
        output: Where the artifact goes; must not exist or be empty.

    Raises:
        UserError: There is no such artifact, it is of another kind, or a file does not match its checksum.
    """
    refuse_credentials(address, "The model's address")
    if address.endswith(STATE_DICTS):
        raise UserError(
            f"{address} is a published state dict, not an artifact; run the pipeline compress with teacher.epochs=0, "
            "teacher.decay_epochs=0 and teacher.published.generator.uri set to this file; then no teacher is trained."
        )
    if output.exists():
        output.rmdir()
    if is_remote(address):
        Storage().fetch(address, output, kind)
    else:
        verify_checksums(Path(address), read_manifest(Path(address), kind))
        shutil.copytree(address, output)
    logger.info("%s: %s", address, read_manifest(output, kind).kind)
