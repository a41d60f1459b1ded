"""The latency table of this machine for a recipe's or a teacher's students: measured once, then kept.

Tables lie in the user's cache folder, in `latency/`, named after all that they depend on.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from components.catlib.artifacts import replacing
from components.catlib.config import Recipe
from components.catlib.disk import temporary_folder, writing_to
from components.catlib.errors import UserError
from components.catlib.exporting.layer_times import measure_table
from components.catlib.exporting.onnx_file import family_rewrites
from components.catlib.latency.table import LatencyTable
from components.catlib.networks.architecture_files import open_networks
from components.catlib.networks.directions import Direction
from components.catlib.networks.families import Architecture, architecture_from_config, build_generator
from components.catlib.pruning.search import extreme_students
from components.catlib.storage import Storage, is_remote
from components.catlib.storage.cache import user_folder
from components.catlib.timing import cpu_name

MEASUREMENT = 2
"""Version of the way in which layers are measured; a table of another one is measured again."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Students:
    """All students that pruning can make of a teacher, as the export writes them.

    Attributes:
        widest: The one of which nothing is cut.
        thinnest: The one that keeps the least channels in every layer, and one in every branch.
        size: Height and width of images in pixels.
        opset: Version of the ONNX operator set.
        rewrites: The rewrites of the export.
    """

    widest: Architecture
    thinnest: Architecture
    size: tuple[int, int]
    opset: int
    rewrites: tuple[Any, ...]

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> Students:
        """Returns the students of the teacher that a recipe trains.

        Raises:
            UserError: The teacher is published, so that its file has the architecture; or the recipe does not fit it.
        """
        if recipe.teacher.published is not None:
            raise UserError(
                "The recipe's teacher is published, and its file decides on its layers; measure the table of an "
                "artifact, with --teacher."
            )
        dataset, size = recipe.dataset, recipe.dataset.crop_size
        # Label maps may have a plane of instances' edges, which only the data shows.
        labels = None if dataset.num_labels is None else dataset.num_labels + dataset.dont_care_plane
        read = [dataset.channels["in_channels"]] * 2 if labels is None else [labels + 1, labels]
        most, least = (
            architecture_from_config(
                recipe.teacher.generator,
                in_channels=count,
                out_channels=dataset.channels["out_channels"],
                crop_size=size,
            )
            for count in read
        )
        return cls._of(recipe, most, least, size)

    @classmethod
    def of_teacher(cls, recipe: Recipe, address: str) -> Students:
        """Returns the students of a trained teacher, a folder or `s3://bucket/prefix`."""
        with temporary_folder("teacher-") as scratch:
            folder = scratch / "teacher" if is_remote(address) else Path(address)
            if is_remote(address):
                Storage().fetch(address, folder, "teacher")
            networks = open_networks(folder, "teacher")
            architecture = networks.architectures.generator(Direction(recipe.prune.generator))
            return cls._of(recipe, architecture, architecture, networks.input_size)

    @classmethod
    def _of(cls, recipe: Recipe, most: Architecture, least: Architecture, size: tuple[int, int]) -> Students:
        widest, thinnest = extreme_students(most, recipe.prune)[0], extreme_students(least, recipe.prune)[1]
        every, asked = family_rewrites(build_generator(thinnest)), recipe.export.rewrites
        chosen = every if asked in ("all", "auto") else () if asked == "none" else tuple(n for n in every if n in asked)
        return cls(widest, thinnest, size, recipe.export.opset, chosen)

    def measure(self, threads: int) -> LatencyTable:
        """Measures their layers on this machine, which takes from seconds to minutes."""
        return measure_table(
            self.widest, self.thinnest, self.size, threads=threads, opset=self.opset, rewrites=self.rewrites
        )

    def own_path(self) -> Path:
        """Returns where this machine's table for them and one thread lies, or would lie."""
        key = {
            "measurement": MEASUREMENT,
            "device": cpu_name(),
            "runtime": onnxruntime.__version__,
            "threads": 1,
            "opset": self.opset,
            "rewrites": self.rewrites,
            "size": self.size,
            "students": [each.model_dump(mode="json") for each in (self.widest, self.thinnest)],
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return user_folder() / "latency" / f"{digest[:32]}.json"


def write_table(measure: Callable[[], LatencyTable], path: Path) -> LatencyTable:
    """Measures a table and writes it, its folder included; the file appears whole.

    Raises:
        UserError: The file cannot be written, which is found before anything is measured.
    """
    with writing_to(path, what=f"Latency table {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            table = measure()
            partial.write_text(table.model_dump_json(exclude_defaults=True) + "\n", encoding="utf-8")
    return table
