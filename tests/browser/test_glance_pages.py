"""The pages of single stages as Kubeflow's interface shows them: in a sandboxed frame, without a network."""

import html as markup
from pathlib import Path

import pytest

from components.catlib.recipes import load_recipe
from components.catlib.reporting.glance import html
from components.dataset.stage import run as pack
from tests.browser.chromium import Tab
from tests.components.report.small_run import write_small_run

KINDS = ("dataset", "teacher", "prune", "distill", "evaluate", "export")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    run = write_small_run(tmp_path_factory.mktemp("run"), budgets=("0.3x",))
    dataset = tmp_path_factory.mktemp("images") / "dataset"
    pack(load_recipe("smoke", ["dataset.max_images=8"]).dataset, output=dataset)
    folders = (dataset, run.teacher, run.students[0], run.distilled[0], run.evaluations[0], run.exports[0])
    return {kind: html(folder) for kind, folder in zip(KINDS, folders, strict=True)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_shows_itself_in_a_sandboxed_frame(
    kind: str, width: int, tab: Tab, pages: dict[str, str], tmp_path: Path
) -> None:
    frame = f'<iframe sandbox="allow-scripts" style="width: 100%; height: 800px" srcdoc="{markup.escape(pages[kind])}">'
    outer = tmp_path / "outer.html"
    outer.write_text(f"<!DOCTYPE html><title>interface</title>{frame}</iframe>", encoding="utf-8")
    tab.open(outer.as_uri(), width=width)
    (inside,) = tab.frames()
    assert tab.evaluate("document.querySelector('h1').textContent.length > 3", frame=inside)
    undrawn = "[...document.images].filter(i => i.loading !== 'lazy' && i.naturalWidth === 0).length"
    assert tab.evaluate(undrawn, frame=inside) == 0
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert tab.evaluate(fits, frame=inside)
    assert tab.problems == []
    assert [address for address in tab.requests if not address.startswith(("data:", "about:"))] == [outer.as_uri()]
