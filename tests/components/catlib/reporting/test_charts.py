import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from components.catlib.reporting.charts import MOST_POINTS, Curve, Mark, cost_chart, curves_chart, shortened


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter() if node.tag.endswith("text")]


@pytest.fixture(scope="module")
def curve_svg() -> str:
    return curves_chart(
        [Curve("teacher", [1, 2, 3], [0.5, 0.25, 0.75]), Curve("student-1", [1, 3], [0.3, 0.6], dots=True)],
        x_label="epoch <b> & $x_1$",
        description='losses "fall" <fast> & far',
    )


def test_a_chart_is_well_formed_and_says_what_it_is(curve_svg: str) -> None:
    root = ET.fromstring(curve_svg)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == 'losses "fall" <fast> & far'
    assert root.attrib["viewBox"].split()[2] == "380"


def test_text_of_a_chart_stays_text(curve_svg: str) -> None:
    assert "epoch <b> & $x_1$" in texts(curve_svg)


def test_colours_are_those_of_the_page(curve_svg: str) -> None:
    assert "stroke: var(--teacher)" in curve_svg
    assert "stroke: var(--student-1)" in curve_svg
    assert re.findall(r"#[0-9a-f]{6}\b", curve_svg) == []
    assert "font-family" not in curve_svg


def test_charts_share_no_ids(curve_svg: str) -> None:
    other = curves_chart([Curve("teacher", [1, 2], [5, 6])], x_label="step", description="another")
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (curve_svg, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, own in zip((curve_svg, other), ids, strict=True):
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)) <= own


def test_values_over_orders_of_magnitude_get_powers_of_ten() -> None:
    svg = curves_chart([Curve("teacher", [1, 2, 3], [1, 0.01, 1e-4])], x_label="step", description="")
    assert {"1", "0.01", "1e−4"} <= set(texts(svg))


def test_the_same_chart_is_drawn_alike() -> None:
    drawn = {curves_chart([Curve("teacher", [1, 2], [5, 6])], x_label="step", description="") for _ in range(2)}
    assert len(drawn) == 1


def test_ticks_have_as_many_digits_as_tell_them_apart() -> None:
    svg = curves_chart([Curve("teacher", [1, 2], [0.42091, 0.42094])], x_label="step", description="")
    ticks = [text for text in texts(svg) if text.startswith("0.42")]
    assert len(set(ticks)) == len(ticks) >= 2


def test_a_single_point_and_constant_values_can_be_drawn() -> None:
    for y in ([0.0], [2.0, 2.0], [-1.0, 3.0]):
        assert "var(--teacher)" in curves_chart([Curve("teacher", range(len(y)), y)], x_label="step", description="")


def test_long_curves_become_means_of_equal_pieces() -> None:
    assert shortened([1.0, 2.0]).tolist() == [1.0, 2.0]
    short = shortened(np.arange(10 * MOST_POINTS, dtype=float).tolist())
    assert len(short) == MOST_POINTS
    assert short[0] == 4.5
    assert short[-1] == 10 * MOST_POINTS - 5.5


def test_cost_chart_of_many_networks_names_none() -> None:
    marks = [Mark(f"Student {i}", f"student-{i}", 1e9 * (i + 1), 0.3) for i in range(6)]
    svg = cost_chart(marks, description="")
    assert not [text for text in texts(svg) if "Student" in text]
    assert all(f"var(--student-{i})" in svg for i in range(6))


def test_cost_chart_names_every_network_and_draws_intervals() -> None:
    marks = [
        Mark("Teacher", "teacher", 43.5e9, 0.30, (0.29, 0.31)),
        Mark("Student 2.6 G", "student-1", 2.6e9, 0.33),
    ]
    svg = cost_chart(marks, description="L1 against MACs")
    assert {"Teacher", "Student 2.6 G", "10 G", "multiply-accumulates per image"} <= set(texts(svg))
    assert svg.count("stroke: var(--teacher); stroke-opacity: 0.5") == 1
    assert "stroke: var(--student-1); stroke-opacity" not in svg
