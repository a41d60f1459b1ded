"""The check stage: refuses images that a later stage could not use, before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.catlib.data.packed import PackedDataset
from components.catlib.needs import Needs, check_needs

logger = logging.getLogger(__name__)


def run(sections: Mapping[str, Any], *, dataset: Path) -> None:
    """Checks batch sizes, held-out images, crops and pairing against the sections of a recipe.

    Args:
        sections: `teacher`, `distill`, `prune` and `evaluate` as JSON values; an empty section belongs to no stage.
            `distill` may be a list.
        dataset: A dataset artifact.

    Raises:
        UserError: The images do not do for a stage; the message names everything that does not fit.
    """
    check_needs(Needs.of(sections), PackedDataset.open(dataset))
    logger.info("the images do for every stage to come")
