"""Versions of the content behind a run's addresses, for Kubeflow's cache keys.

Kubeflow's cache knows an address, not its content, and would not notice new images in the same folder. So a run gets
a version of the content of each address, and weights are pinned by their digest.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components.catlib.artifacts import file_sha256
from components.catlib.config import Recipe, validate
from components.catlib.config.networks import STATE_DICTS
from components.catlib.data.locating import content_of
from components.catlib.errors import UserError
from components.catlib.recipes import named_files, with_files
from components.catlib.storage import Storage, is_remote, is_web, shown

logger = logging.getLogger(__name__)

LOOKING_SECONDS = 10.0
"""Time for which failing requests for weights are repeated; a run can do without their digests."""


def content_version(addresses: Iterable[str], *, parameter: str = "source_version", here: bool = False) -> str:
    """Returns a text that changes when a file behind an address does; "" when there are no addresses.

    Args:
        addresses: Files, folders, and addresses of the web or of an object store. One that cannot be read from here
            counts with its name alone, with a warning.
        parameter: The parameter of the pipeline that gets this text, for the warning.
        here: Whether this machine will read them; False: pods or containers.

    Raises:
        UserError: The environment names an object store, but the store refuses; or a file cannot be read.
    """
    found = [content_of(address, None, parameter, here=here) for address in addresses]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:12] if found else ""


def dataset_version(recipe: Recipe, *, here: bool = False) -> str:
    """Returns the version of the images that a recipe names; "" if the recipe decides alone.

    So it is for built-in data, which is part of the code, and for an archive with `dataset.sha256`.

    Args:
        recipe: The recipe.
        here: As for `content_version`.
    """
    section = recipe.section("dataset")
    return "" if section.get("sha256") else content_version(named_files(section), parameter="source_version", here=here)


def pin_weights(recipe: Recipe) -> Recipe:
    """Adds the digest of every weights file that a recipe names without one, so that cache keys hold its content.

    A file elsewhere is downloaded for that, once: it stays in the user's cache folder. One that is out of reach counts
    as unchanged since earlier runs, with a warning that names the setting for its digest.
    """
    settings = with_files(recipe.model_dump(mode="json"), _pinned, path="")
    return validate(Recipe, settings, where=f"Recipe {recipe.name}")


def unpinned(settings: Mapping[str, Any]) -> list[str]:
    """Returns the addresses of weights elsewhere that settings name without a digest."""
    found = []

    def note(part: dict[str, Any], key: str, path: str) -> dict[str, Any]:
        if key == "uri" and part.get("sha256") is None and (is_web(part[key]) or is_remote(part[key])):
            found.append(shown(part[key]))
        return part

    with_files(dict(settings), note, path="")
    return found


def _pinned(settings: dict[str, Any], key: str, path: str) -> dict[str, Any]:
    if key != "uri" or settings.get("sha256") is not None:
        return settings
    is_artifact = path.endswith("start_from") and not settings[key].endswith(STATE_DICTS)
    return settings | {"sha256": _digest(settings[key], f"{path}.sha256", is_artifact=is_artifact)}


def _digest(address: str, setting: str, *, is_artifact: bool) -> str | None:
    """Returns the SHA-256 of a file, or of the manifest of an artifact; None if it cannot be read from here."""
    try:
        if is_artifact:
            return Storage(patience=LOOKING_SECONDS).manifest(address).digest()
        if is_web(address) or is_remote(address):
            return Storage(patience=LOOKING_SECONDS).cached(address).name
        if Path(address).is_file():
            return file_sha256(Path(address))
        reason = "There is no such file on this machine."
    except UserError as error:
        reason = str(error)
    logger.warning(
        "the content of %s counts as unchanged since earlier runs, because its digest is unknown (%s); give it as %s",
        shown(address),
        reason.rstrip("."),
        setting,
    )
    return None


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
