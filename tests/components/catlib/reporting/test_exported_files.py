from typing import Any

import pytest

from components.catlib.reporting.origins import _export_facts, _translates_colours

TIMED = {"median": 0.004, "threads": 1}
FACTS: dict[str, Any] = {
    "file": "model.onnx",
    "bytes": 4,
    "opset": 20,
    "input": {"name": "image", "shape": ["batch", 3, "4*height", "4*width"]},
    "output": {"name": "translated", "shape": ["batch", 3, "4*height", "4*width"]},
    "operators": {"Conv": 7},
    "parity": {"compared_on": "noise", "largest_difference": 2.5e-6, "tolerance": 1e-4},
    "latency": {"torch": TIMED, "onnxruntime": TIMED},
}


@pytest.mark.parametrize(
    ("rewrites", "line"),
    [
        ({"used": [], "times_faster": None}, "none"),
        (
            {"used": ["output_phases", "merged_depthwise"], "times_faster": 1.567},
            "output phases, merged depthwise; together 1.57 times faster with one thread",
        ),
    ],
)
def test_the_page_names_the_rewrites(rewrites: dict[str, Any], line: str) -> None:
    assert dict(_export_facts({**FACTS, "rewrites": rewrites}))["rewrites"] == line


def test_files_of_earlier_versions_have_no_line_about_rewrites() -> None:
    assert "rewrites" not in dict(_export_facts(FACTS))


COLOURS = {"type": "uint8", "channels": 3, "range": [0.0, 255.0]}


@pytest.mark.parametrize(
    ("stated", "takes"),
    [
        ({"input_values": COLOURS, "output_values": COLOURS}, True),
        ({"input_values": COLOURS, "output_values": COLOURS | {"channels": 1}}, False),
        ({"input_values": COLOURS | {"type": "uint16"}, "output_values": COLOURS}, False),
        ({"output_values": COLOURS}, False),  # label maps, and files of version 0.1.0
    ],
)
def test_only_students_that_a_browser_can_run_are_offered_to_it(stated: dict[str, Any], takes: bool) -> None:
    assert _translates_colours(FACTS | stated) is takes
