"""What pruning kept: the channels of every layer and of every branch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from components.catlib.networks.architecture_files import read_architectures
from components.catlib.reporting.comparison import Contender
from components.catlib.reporting.formatting import budget_label, milliseconds, quantity
from components.catlib.reporting.lineage import Artifact, Lineage

LAYER_LABELS = {
    "down_sampling.2": "down 1",
    "down_sampling.5": "down 2",
    "down_sampling.8": "down 3, feature width",
    "up_sampling.1": "up 1",
    "up_sampling.4": "up 2",
    "fc_norm": "first layer",
}

_FIRST_WEIGHTS = {"fresh": "fresh", "inherit": "inherited"}


@dataclass(frozen=True)
class KeptChannels:
    """Channels of a layer or branch, in the teacher and in the student."""

    label: str
    teacher: int
    student: int

    @property
    def percent(self) -> float:
        """Share that survived."""
        return 100 * self.student / self.teacher


@dataclass(frozen=True)
class Survivors:
    """The channels that survived at a budget.

    Attributes:
        name: Name of the student, or of the budget when several students share the architecture.
        colour: Colour of the student, or of the first of them.
        facts: Name and value of what the search found.
        layers: Layers that always stay.
        columns: Kinds of branches.
        blocks: Name of a block, and its branch of every kind; None if the teacher has no such branch.
    """

    name: str
    colour: str
    facts: list[tuple[str, str]]
    layers: list[KeptChannels]
    columns: list[str]
    blocks: list[tuple[str, list[KeptChannels | None]]]


def survivors(lineage: Lineage, students: tuple[Contender, ...]) -> list[Survivors]:
    """Reads the surviving channels of every architecture whose prune artifact was given."""
    sharing: dict[str, list[Contender]] = {}
    for student in students:
        if student.pruned:
            sharing.setdefault(student.pruned.digest, []).append(student)
    return [_survivors(lineage, owners, owners[0].pruned) for owners in sharing.values() if owners[0].pruned]


def _survivors(lineage: Lineage, owners: list[Contender], pruned: Artifact) -> Survivors:
    described = pruned.read_json("pruning.json")
    identities = _identities(lineage, pruned)
    layers: list[KeptChannels] = []
    branches: dict[str, dict[str, KeptChannels]] = {}
    for layer in described["layers"]:
        own_name: str = layer["name"]
        name = identities.get(own_name, own_name)
        counts = layer["teacher_channels"], layer["student_channels"]
        if layer["group"] is not None and layer["group"].endswith("branch"):
            block, column = _place(name)
            branches.setdefault(block, {})[column] = KeptChannels(column, *counts)
        elif layer["group"] is not None:
            layers.append(KeptChannels(LAYER_LABELS.get(name, name), *counts))
    columns = list(dict.fromkeys(column for block in branches.values() for column in block))
    blocks = [(name, [block.get(column) for column in columns]) for name, block in branches.items()]
    name = owners[0].name if len(owners) == 1 else f"All students of {budget_label(described['budget'])}"
    return Survivors(name, owners[0].colour, _search_facts(described, pruned), layers, columns, blocks)


def _place(identity: str) -> tuple[str, str]:
    """Returns the block and the kind of a branch.

    "features.0.res_3x3" is the "conv 3×3" of "block 0", "up_0.spade.dw_1x1" the "SPADE depthwise 1×1" of "up_0". A name
    of another form, such as "blocks.0.layers.1", is a block with the "hidden channels" alone.
    """
    match = re.match(r"(?P<block>.+?)(\.(?P<part>[a-z]+))?\.(?P<kind>res|dw)_(?P<which>\d+x\d+|ops\.\d+)", identity)
    if match is None:
        return identity, "hidden channels"
    kind = {"res": "conv", "dw": "depthwise"}[match["kind"]]
    which = match["which"].replace("x", "×").replace("ops.", "branch ")
    part = f"{match['part'].upper()} " if match["part"] else ""
    return match["block"].replace("features.", "block "), f"{part}{kind} {which}"


def _identities(lineage: Lineage, pruned: Artifact) -> dict[str, str]:
    """Returns the branch of each of the teacher's norms ("features.0.res_3x3"), by name; empty without a teacher."""
    if lineage.teacher is None:
        return {}
    architectures = read_architectures(lineage.teacher.folder)
    layers = architectures.generator(pruned.manifest.config["generator"]).layers(*architectures.input_size)
    return {layer.name: layer.identity.removesuffix(".norm_in") for layer in layers if layer.kind == "norm"}


def _budget(described: dict[str, Any]) -> str:
    label, latency = budget_label(described["budget"]), described.get("latency")
    if latency is None:
        return f"{label}, {quantity(described['target_macs'])} MACs"
    return f"{label}; predicted: {milliseconds(latency['predicted'])} on {latency['device']}"


def _search_facts(described: dict[str, Any], pruned: Artifact) -> list[tuple[str, str]]:
    threshold = described["threshold"]
    return [
        ("budget", _budget(described)),
        ("student", f"{quantity(described['student']['paper_macs'])} MACs"),
        ("teacher", f"{quantity(described['teacher']['paper_macs'])} MACs"),
        ("threshold on |γ|", "none, nothing was cut" if threshold is None else f"{threshold:.4g}"),
        ("steps of the search", str(len(described["steps"]))),
        ("student starts from", f"{_FIRST_WEIGHTS[pruned.manifest.config['student_init']]} weights"),
    ]
