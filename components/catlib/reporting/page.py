"""Renders the page: all sections in one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

from pathlib import Path

from components.catlib.config import ReportConfig
from components.catlib.reporting import classes, curves, diagnoses, origins, pictures, results, survivors, variations
from components.catlib.reporting.comparison import Comparison
from components.catlib.reporting.formatting import quantity
from components.catlib.reporting.lineage import Lineage
from components.catlib.reporting.templates import template

FOLDER = Path(__file__).parent

LARGEST_PAGE = 3_000_000
"""Largest page in bytes that Kubeflow's interface shows."""


def render(config: ReportConfig, lineage: Lineage, comparison: Comparison) -> str:
    """Writes the page of a run; sections whose artifacts were not given are left out.

    All text is escaped by the template engine; charts escape their own.

    Args:
        config: Heading and description.
        lineage: The artifacts of the run.
        comparison: Its generators side by side.

    Returns:
        HTML of at most 3 MB.
    """
    album = pictures.Pictures()
    samples = pictures.samples(comparison, album)
    content = {
        "config": config,
        "style": (FOLDER / "report.css").read_text(encoding="utf-8"),
        "comparison": comparison,
        "headline": results.headline(comparison),
        "table": results.table(comparison),
        "diagnoses": diagnoses.of_run(lineage, comparison),
        "caveats": results.caveats(lineage, comparison),
        "cost_charts": results.cost_charts(comparison),
        "variations": variations.variations(comparison),
        "classes": classes.classes(comparison),
        "samples": samples,
        "triptych": pictures.triptych(samples, comparison),
        "survivors": survivors.survivors(lineage, comparison.students),
        "training": curves.training_charts(comparison),
        "timelines": pictures.timelines(lineage, comparison, album),
        "exports": origins.exported_files(comparison),
        "tried": origins.tried_in_browser(comparison),
        "dataset": origins.dataset_facts(lineage),
        "protocols": origins.protocols(comparison),
        "recipe": origins.recipe(config, lineage, comparison),
        "origins": origins.origins(lineage, comparison),
    }
    page = template(FOLDER / "report.html")
    page.globals["quantity"] = quantity
    used: list[int] = []
    text = page.render(**content, source=used.append)
    sources = album.encode(LARGEST_PAGE - len(text.encode()), used)
    return page.render(**content, source=sources.__getitem__)
