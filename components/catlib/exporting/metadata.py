"""What a program that runs an exported generator must know about pictures, kept in the file itself.

`components/catlib/serving/model.py` reads it; README.md explains it to other programs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from components.catlib.config import RGB, ValuesConfig
from components.catlib.data.packed import PackedDataset
from components.catlib.networks.architecture import GeneratorArchitecture
from components.catlib.networks.receptive import receptive_radius


def picture_sizes(architecture: GeneratorArchitecture) -> dict[str, Any]:
    """Returns which sizes of pictures a generator takes, and how far it looks, as JSON values.

    Returns:
        `size_step`: height and width are multiples of this many pixels; `smallest_size`: least height and width;
        `fixed_size`: [height, width], or None; `receptive_radius`: pixels around a pixel that decide it, None: all;
        `normalisation`: kind of norm, and what its statistics are of.
    """
    radius = receptive_radius(architecture)
    fixed = architecture.fixed_size
    statistics = "running statistics" if architecture.norm.track_running_stats else "statistics of the image"
    return {
        "size_step": architecture.size_step,
        "smallest_size": architecture.smallest_size,
        "fixed_size": None if fixed is None else list(fixed),
        "receptive_radius": radius,
        "normalisation": f"{architecture.norm.kind} norm, {statistics}",
    }


def serving_metadata(
    architecture: GeneratorArchitecture, values: Mapping[str, ValuesConfig], dataset: PackedDataset | None
) -> dict[str, str]:
    """Returns what `translate` needs, as texts for the file's metadata.

    `input_kind` ("images" or "labels") and `normalisation` are words, all others JSON.

    Args:
        architecture: The exported generator.
        values: What the numbers of its pictures mean, by "input" and "output"; 8-bit colours if not given.
        dataset: The images that it was trained on; label maps alone need it, for the meaning of their planes.
    """
    facts = picture_sizes(architecture)
    texts = {name: fact if isinstance(fact, str) else json.dumps(fact) for name, fact in facts.items()}
    for end in ("input", "output") if architecture.input_kind == "images" else ("output",):
        texts[f"{end}_values"] = json.dumps(values.get(end, RGB).model_dump(mode="json"))
    texts["input_kind"] = architecture.input_kind
    if architecture.input_kind == "labels" and dataset is not None:
        planes = {
            "num_labels": dataset.num_labels,
            "dont_care_plane": dataset.dont_care_plane,
            "instances": dataset.has_instances,
        }
        texts["input_planes"] = json.dumps(planes)
    return texts
