"""One artifact at a glance: a page of charts and pictures for the interface of Kubeflow.

Like the report, the page needs no network, no script and no other file, and is small enough for Kubeflow's interface.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from components.catlib.artifacts import read_manifest
from components.catlib.config import ReportConfig
from components.catlib.data.channels import as_colours
from components.catlib.data.colours import label_colours
from components.catlib.data.inspection import REPORT
from components.catlib.data.packed import PackedDataset
from components.catlib.reporting import page
from components.catlib.reporting.charts import Curve, curves_chart
from components.catlib.reporting.comparison import compare_generators
from components.catlib.reporting.curves import chart_title
from components.catlib.reporting.diagnoses import of_artifact
from components.catlib.reporting.formatting import as_text, as_yaml, short_number, words
from components.catlib.reporting.lineage import Artifact, trace
from components.catlib.reporting.origins import value_facts
from components.catlib.reporting.pictures import Pictures
from components.catlib.reporting.summary import TITLES, figures
from components.catlib.reporting.templates import template

MOST_PAIRS = 6
"""Largest number of training images of each domain on a dataset's page."""

MOST_DOUBLES = 3
"""Largest number of held-out images, also used in training, that a dataset's page names."""

MOST_STEPS = 6
"""Largest number of evaluations of a training whose samples are shown."""


@dataclass
class Content:
    """What a page shows, in this order.

    Attributes:
        title: Heading.
        facts: Name and value.
        settings: YAML of the settings that made the artifact.
        charts: Title and SVG.
        kept: Name of every pruned layer, the teacher's channels and the student's.
        pictures: Caption, and number in the album.
        album: The pictures.
    """

    title: str
    facts: list[tuple[str, str]]
    settings: str
    charts: list[tuple[str, str]] = field(default_factory=list)
    kept: list[tuple[str, int, int]] = field(default_factory=list)
    pictures: list[tuple[str, int]] = field(default_factory=list)
    album: Pictures = field(default_factory=Pictures)


def html(folder: Path) -> str:
    """Draws an artifact.

    Args:
        folder: An artifact folder.

    Returns:
        A page of at most `page.LARGEST_PAGE` bytes.
    """
    manifest = read_manifest(folder)
    kind = manifest.kind
    if kind == "evaluate":
        lineage = trace(evaluations=[folder])
        title = ReportConfig(name=TITLES[kind], description="Student and teacher on held-out images.")
        return page.render(title, lineage, compare_generators(lineage))
    content = Content(TITLES[kind], figures(manifest), as_yaml(manifest.config).rstrip())
    if kind in _FILL:
        _FILL[kind](folder, content)
    return _render(content)


def _fill_dataset(folder: Path, content: Content) -> None:
    dataset = PackedDataset.open(folder)
    summary = read_manifest(folder).summary
    content.facts += [("diagnosis", str(diagnosis)) for diagnosis in of_artifact(Artifact.read(folder, "dataset"))]
    content.facts += [(words(name), as_text(summary[name])) for name in ("pairing", "crop_size", "provenance")]
    content.facts += value_facts(summary)
    _fill_histograms(json.loads((folder / REPORT).read_text(encoding="utf-8")), content)
    split = dataset.split("train")
    roles: tuple[Literal["source", "target"], ...] = ("source", "target")
    for role, images in zip(roles, (split.source, split.target), strict=True):
        for index in np.linspace(0, len(images) - 1, min(MOST_PAIRS, len(images))).round().astype(int):
            image = np.asarray(images[index])
            if image.ndim == 2:
                assert dataset.num_labels is not None
                colours = np.concatenate([label_colours(dataset.num_labels), np.zeros((256, 3), np.uint8)])
                image = colours[image]
            else:
                image = as_colours(image, dataset.values[role])
            content.pictures.append((f"{role} {index}", content.album.add(Image.fromarray(image))))


def _fill_histograms(report: dict[str, Any], content: Content) -> None:
    """Draws how bright each channel of the pictures is, or how frequent the classes of label maps are.

    Training images give a line, held-out ones dots. The first images that are in both splits are named.
    """
    content.facts += [("warning", warning) for warning in report.get("warnings", [])]
    content.facts += [("few images", sentence) for sentence in report.get("small", [])]
    for double in report["duplicates"]["first"][:MOST_DOUBLES]:
        content.facts.append(("held out, but also in training", f"{double['test']} is {double['train']}"))
    series: dict[tuple[str, str], dict[str, list[float]]] = {}
    ranges: dict[str, tuple[float, float]] = {}
    for split, roles in report["images"].items():
        for role, facts in roles.items():
            ranges[role] = facts.get("range", (0, 256))
            shares = {"class": facts["classes"]} if "classes" in facts else facts.get("histogram", {})
            for channel, values in shares.items():
                series.setdefault((role, channel), {})[split] = values
    for (role, channel), splits in series.items():
        length = len(next(iter(splits.values())))
        low, high = ranges[role]
        steps = [low + (high - low) / length * (step + 0.5) for step in range(length)]
        places = range(length) if channel == "class" else steps
        curves = [
            Curve("teacher" if split == "train" else "student-0", places, values, dots=split == "test")
            for split, values in splits.items()
        ]
        digits = ".0f" if high - low >= length else ".3g"
        peaks = ", ".join(
            f"{places[int(np.argmax(values))]:{digits}} ({words(split)})" for split, values in splits.items()
        )
        label = "class" if channel == "class" else f"brightness of {channel}"
        text = f"Share of {role} pixels by {label}; the most frequent is {peaks}."
        chart = curves_chart(curves, x_label=label, description=text)
        content.charts.append((f"{role}: share of pixels by {label} (line: training, dots: held out)", chart))


def _fill_training(folder: Path, content: Content) -> None:
    """Draws every loss and score of the log, and shows samples as they changed."""
    artifact = Artifact.read(folder, "teacher|distill")
    content.facts += [("diagnosis", str(diagnosis)) for diagnosis in of_artifact(artifact)]
    series: dict[str, tuple[list[float], list[float]]] = {}
    for record in artifact.log():
        for name, value in {**record.get("scores", {}), **record.get("losses", {})}.items():
            steps, values = series.setdefault(name, ([], []))
            steps.append(record["step"])
            values.append(value)
    for name, (steps, values) in series.items():
        title = chart_title(name)
        ends = f"{title} by step, from {short_number(values[0])} to {short_number(values[-1])}."
        curve = Curve("teacher" if artifact.manifest.kind == "teacher" else "student-0", steps, values)
        content.charts.append((title, curves_chart([curve], x_label="step", description=ends)))
    strips = sorted(name for name in artifact.manifest.files if re.fullmatch(r"samples_\d+\.webp", name))
    rows = " / ".join(words(row) for row in artifact.manifest.summary.get("sample_rows", []))
    for index in np.unique(np.linspace(0, len(strips) - 1, min(MOST_STEPS, len(strips))).round().astype(int)):
        step = int(re.sub(r"\D", "", strips[index]))
        picture = content.album.add(Image.open(folder / strips[index]))
        content.pictures.append((f"step {step}: {rows}", picture))


def _fill_pruning(folder: Path, content: Content) -> None:
    layers = Artifact.read(folder, "prune").read_json("pruning.json")["layers"]
    content.kept = [
        (layer["name"], layer["teacher_channels"], layer["student_channels"])
        for layer in layers
        if layer["group"] is not None
    ]


_FILL: dict[str, Callable[[Path, Content], None]] = {
    "dataset": _fill_dataset,
    "teacher": _fill_training,
    "prune": _fill_pruning,
    "distill": _fill_training,
}


def _render(content: Content) -> str:
    style = (page.FOLDER / "report.css").read_text(encoding="utf-8")
    glance = template(page.FOLDER / "glance.html")
    text = glance.render(content=content, style=style, sources=[""] * len(content.pictures))
    sources = content.album.encode(page.LARGEST_PAGE - len(text.encode()))
    return glance.render(content=content, style=style, sources=sources)
