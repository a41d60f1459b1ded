"""The fetch stage: an artifact of an earlier run, from a folder or the object store, becomes one of this run."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

from components.catlib.artifacts import check_replaceable, copy, read_manifest, replacing_folder, verify_checksums
from components.catlib.config.networks import STATE_DICTS
from components.catlib.credentials import refuse_credentials
from components.catlib.errors import UserError
from components.catlib.storage import Storage, is_remote

logger = logging.getLogger(__name__)


def run(*, address: str, kind: str, output: Path) -> None:
    """Fetches an artifact unchanged, so that its digest stays the same.

    Args:
        address: A folder, or `s3://bucket/prefix`.
        kind: The expected kind; several may be given as "teacher|distill".
        output: Where the artifact goes; an earlier one of its kind, or an empty folder, is replaced.

    Raises:
        UserError: There is no such artifact, it is of another kind, or a file does not match its checksum.
    """
    refuse_credentials(address, "The model's address")
    if address.endswith(STATE_DICTS):
        raise UserError(
            f"{address} is a published state dict, not an artifact; run the pipeline compress with teacher.epochs=0, "
            "teacher.decay_epochs=0 and teacher.published.generator.uri set to this file; then no teacher is trained."
        )
    check = functools.partial(check_replaceable, output, Storage().manifest(address, kind).kind)
    check()
    with replacing_folder(output, what=f"Output {output}", check=check) as folder:
        if is_remote(address):
            Storage().fetch(address, folder, kind)
        else:
            verify_checksums(Path(address), read_manifest(Path(address), kind))
            copy(Path(address), folder)
    logger.info("%s: %s", address, read_manifest(output, kind).kind)
