"""Renders the page: all sections in one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from components.catlib.config import ReportConfig
from components.catlib.reporting import classes, curves, diagnoses, origins, pictures, results, survivors, variations
from components.catlib.reporting.comparison import Comparison
from components.catlib.reporting.formatting import quantity
from components.catlib.reporting.lineage import Lineage
from components.catlib.reporting.standings import Standings, of_run
from components.catlib.reporting.templates import template

FOLDER = Path(__file__).parent

LARGEST_PAGE = 3_000_000
"""Largest page in bytes that Kubeflow's interface shows."""


def render(config: ReportConfig, lineage: Lineage, comparison: Comparison, standings: Standings | None = None) -> str:
    """Writes the page of a run; sections whose artifacts were not given are left out.

    Where students are variations, the parts with pictures and charts per student show one of each variation.

    All text is escaped by the template engine; charts escape their own.

    Args:
        config: Heading and description.
        lineage: The artifacts of the run.
        comparison: Its generators side by side.
        standings: Its students and those of earlier reports; None: its own alone.

    Returns:
        HTML of at most 3 MB.
    """
    album = pictures.Pictures()
    standings = standings or of_run(comparison)
    shown = replace(comparison, students=variations.representatives(standings, comparison))
    samples = pictures.samples(shown, album)
    content = {
        "config": config,
        "style": (FOLDER / "report.css").read_text(encoding="utf-8"),
        "comparison": comparison,
        "headline": results.headline(comparison),
        "table": results.table(comparison),
        "diagnoses": diagnoses.of_run(lineage, comparison),
        "caveats": results.caveats(lineage, comparison),
        "cost_charts": results.cost_charts(comparison),
        "variations": variations.variations(standings, comparison, album),
        "left_out": len(comparison.students) - len(shown.students),
        "classes": classes.classes(comparison),
        "samples": samples,
        "triptych": pictures.triptych(samples, shown),
        "survivors": survivors.survivors(lineage, shown.students),
        "training": curves.training_charts(shown),
        "timelines": pictures.timelines(lineage, shown, album),
        "exports": origins.exported_files(shown),
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
