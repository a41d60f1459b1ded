"""The report as its readers meet it: in a browser, on a desk and on a phone, by day and by night, in a sandbox."""

import html
from pathlib import Path

import pytest

from tests.browser.chromium import Tab

WIDTHS = (1280, 390)

UNDRAWN_PICTURES = "[...document.images].filter(i => !i.complete || i.naturalWidth === 0).map(i => i.alt)"

STICKING_OUT = """
[...document.querySelectorAll("body *")]
  .filter(e => !e.closest(".scroll, pre") && !e.matches(".unseen") && e.getBoundingClientRect().right > WIDTH + 0.5)
  .map(e => e.outerHTML.slice(0, 80))
"""

FAINT_TEXT = """
(() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  const texts = [...document.body.querySelectorAll("*")].filter(
    e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()));
  for (const e of texts) {
    const style = getComputedStyle(e);
    const [a, b] = [light(rgb(e.closest("svg") ? style.fill : style.color)), light(behind(e))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) faint.push([e.textContent.trim().slice(0, 40), Math.round(100 * contrast) / 100]);
  }
  return [texts.length, faint];
})()
"""


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_loads_without_a_complaint_or_a_request(tab: Tab, report: Path, width: int) -> None:
    tab.open(report.as_uri(), width=width)
    assert tab.evaluate("document.title") == "relief-to-satellite: compressed generator"
    assert tab.problems == []
    assert [address for address in tab.requests if not address.startswith("data:")] == [report.as_uri()]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_picture_and_chart_is_drawn(tab: Tab, report: Path, width: int) -> None:
    tab.open(report.as_uri(), width=width)
    assert tab.evaluate("document.images.length") >= 3 + 3 * 6 + 4 * 4
    assert tab.evaluate(UNDRAWN_PICTURES) == []
    sizes = tab.evaluate("[...document.querySelectorAll('svg')].map(s => [s.clientWidth, s.clientHeight])")
    assert len(sizes) > 10
    assert all(width > 250 and height > 100 for width, height in sizes)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_makes_the_page_scroll_sideways(tab: Tab, report: Path, width: int) -> None:
    tab.open(report.as_uri(), width=width)
    tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert tab.evaluate(STICKING_OUT.replace("WIDTH", str(width))) == []


def test_wide_tables_scroll_inside_their_own_box_on_a_phone(tab: Tab, report: Path) -> None:
    tab.open(report.as_uri(), width=390)
    boxes = tab.evaluate(
        "[...document.querySelectorAll('.scroll')].map(b => [b.clientWidth, b.scrollWidth, b.tabIndex])"
    )
    assert any(inside > shown for shown, inside, _ in boxes)
    assert all(tab_index == 0 for _, _, tab_index in boxes), "reachable with the keyboard"


def test_charts_can_be_read_on_a_phone(tab: Tab, report: Path) -> None:
    tab.open(report.as_uri(), width=390)
    heights = tab.evaluate("[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)")
    assert min(heights) >= 10


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(tab: Tab, report: Path, dark: bool) -> None:
    tab.open(report.as_uri(), width=1280, dark=dark)
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 3 * 60) == dark
    num_texts, faint = tab.evaluate(FAINT_TEXT)
    assert num_texts > 200
    assert faint == []


def test_the_page_works_inside_a_sandbox(tab: Tab, report: Path, tmp_path: Path) -> None:
    """As Kubeflow's interface shows it: in a frame without scripts, forms or an origin."""
    outside = tmp_path / "outside.html"
    content = html.escape(report.read_text(encoding="utf-8"))
    outside.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><title>outside</title><link rel="icon" href="data:,">'
        f'<iframe sandbox srcdoc="{content}" style="width: 700px; height: 700px"></iframe>',
        encoding="utf-8",
    )
    tab.open(outside.as_uri(), width=1280)
    (frame,) = tab.frames()
    assert tab.evaluate("document.querySelector('h1').textContent", frame=frame) == "relief-to-satellite"
    assert tab.evaluate(UNDRAWN_PICTURES, frame=frame) == []
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth", frame=frame)
    assert tab.problems == []
