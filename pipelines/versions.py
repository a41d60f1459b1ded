"""Versions of the content behind a run's addresses, for Kubeflow's cache keys.

Kubeflow's cache knows an address, not its content, and would not notice new images in the same folder. So a run gets
a version of the content of each address, and weights are pinned by their digest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from components.catlib.artifacts import file_sha256
from components.catlib.config import Recipe, validate
from components.catlib.data.locating import local_copies
from components.catlib.errors import UserError
from components.catlib.recipes import named_files
from components.catlib.storage import Storage, is_in_object_store

logger = logging.getLogger(__name__)


def content_version(addresses: Iterable[str]) -> str:
    """Returns a text that changes when a file behind an address does; "" when there are no addresses.

    Args:
        addresses: Files, folders and s3:// addresses. One that this machine cannot read counts with its name alone.

    Raises:
        UserError: The environment names an object store, but the store refuses.
    """
    found = [[address, _fingerprint(address)] for address in addresses]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:12] if found else ""


def _fingerprint(address: str) -> list[Any]:
    if is_in_object_store(address) and "S3_ENDPOINT" not in os.environ:
        logger.warning(
            "the content of %s counts as unchanged since earlier runs, because S3_ENDPOINT is not set on this machine; "
            "if it has changed, give the parameter source_version or model_version another value",
            address,
        )
        return []
    return [entry for place in local_copies(address) or [address] for entry in Storage().fingerprint(str(place))]


def dataset_version(recipe: Recipe) -> str:
    """Returns the version of the images that a recipe names; "" for built-in data, which is part of the code."""
    return content_version(named_files(recipe.section("dataset")))


def pin_weights(recipe: Recipe) -> Recipe:
    """Adds the digest of every weights file on this machine that a recipe names without one."""
    return validate(Recipe, _pinned(recipe.model_dump(mode="json")), where=f"Recipe {recipe.name}")


def _pinned(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    if "uri" in settings and settings.get("sha256", "") is None and Path(settings["uri"]).is_file():
        return settings | {"sha256": file_sha256(Path(settings["uri"]))}
    return {key: _pinned(value) for key, value in settings.items()}


def check_pinned(image: str) -> None:
    """Refuses an image whose content may change under its name, because the cache knows only the name.

    Raises:
        UserError: The image has no tag, or the tag latest.
    """
    name = image.rsplit("/", 1)[-1]
    if "@sha256:" not in image and (":" not in name or name.endswith(":latest")):
        raise UserError(
            f"Image {image} is not pinned, so the cache could return the results of an older image; "
            "give a tag other than latest, or a digest (NAME@sha256:…)."
        )
