"""The model card: what a stranger must know about a student, as facts (JSON) and as a page (Markdown).

Every fact comes from the artifacts of the run. What was not given is missing, and the page says so.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.catlib.exporting.metadata import picture_sizes
from components.catlib.metrics.catalogue import BY_KEY
from components.catlib.networks.macs import paper_macs, parameters, true_macs
from components.catlib.publishing.students import Student
from components.catlib.reporting.comparison import Comparison, Contender
from components.catlib.reporting.formatting import as_yaml, file_size, milliseconds, quantity, short_number
from components.catlib.reporting.origins import dataset_facts
from components.catlib.reporting.results import caveats

CODE_LICENCE = "the code that made it is under Apache-2.0, which says nothing about the weights"
Facts = dict[str, Any]


def model_card(student: Student, *, name: str, licence: str | None, export: Facts) -> Facts:
    """Returns the facts about a student, as JSON values.

    Args:
        student: Its artifacts.
        name: The model's name.
        licence: Licence of the weights; None: it is not stated.
        export: The content of `export.json`.
    """
    networks, comparison = student.networks, student.comparison
    direction, (height, width) = networks.direction, networks.input_size
    architecture = networks.architectures.generator(direction)
    own = comparison.students[0] if comparison else None
    return {
        "name": name,
        "task": "image-to-image",
        "family": architecture.family,
        "direction": str(direction),
        "input_size": [height, width],
        "licence": {"weights": licence, "note": _licence_note(licence)},
        "data": dict(dataset_facts(student.lineage)),
        "recipe": {kind: artifact.manifest.config for kind, artifact in student.artifacts.items()},
        "costs": {
            "paper_macs": paper_macs(architecture, height, width),
            "true_macs": true_macs(architecture, height, width),
            "parameters": parameters(architecture),
            "times_fewer_than_teacher": {} if own is None else own.ratio,
        },
        "metrics": [] if comparison is None else list(_metrics(comparison)),
        "protocol": {} if own is None else own.protocol,
        "latency": _latency(own, export),
        "export": {key: export[key] for key in ("file", "opset", "parity", "runtimes") if key in export},
        "limits": list(_limits(student, comparison, export)),
        "artifacts": {kind: artifact.digest for kind, artifact in student.artifacts.items()},
    }


def _licence_note(licence: str | None) -> str:
    if licence is None:
        return (
            f"No licence of the weights is stated: ask before you use them. Those of the images bind; {CODE_LICENCE}."
        )
    return f"The weights are under {licence}, as far as the licences of the images allow; {CODE_LICENCE}."


def _metrics(comparison: Comparison) -> Iterator[Facts]:
    for metric in comparison.metrics:
        measured = {
            role: {"value": score.value, "interval": score.interval and list(score.interval)}
            for role, generator in (("student", comparison.students[0]), ("teacher", comparison.teacher))
            if generator and (score := comparison.score(generator, metric))
        }
        if "student" in measured:
            facts: Facts = {"key": metric.key, "label": metric.label, "unit": metric.unit, "better": metric.better}
            facts |= {"best": metric.best}
            yield facts | {"meaning": metric.meaning, "teacher": None} | measured


def _latency(own: Contender | None, export: Facts) -> Facts:
    """Returns milliseconds per image, by who measured them."""
    found: Facts = {}
    if own is not None:
        found["evaluate"] = {"student": own.figures["latency_ms"], "teacher": own.teacher_latency}
        found["evaluate"]["measured"] = own.protocol.get("latency", {})
    if "latency" in export:
        found["export"] = export["latency"]
    return found


def _limits(student: Student, comparison: Comparison | None, export: Facts) -> Iterator[str]:
    networks = student.networks
    sizes = picture_sizes(networks.architectures.generator(networks.direction))
    if sizes["fixed_size"]:
        yield "It takes pictures of {}×{} pixels (height × width) alone.".format(*sizes["fixed_size"])
    else:
        yield (
            f"Height and width of a picture are multiples of {sizes['size_step']} pixels, at least "
            f"{sizes['smallest_size']}; it was trained on {networks.input_size[0]}×{networks.input_size[1]}."
        )
    yield "It knows pictures like those that it was trained on; what it makes of others was not measured."
    if "parity" in export:
        parity = export["parity"]
        yield (
            f"{export['file']} differs from the trained network by up to {short_number(parity['largest_difference'])} "
            f"on {parity['compared_on']}, for values from −1 to 1."
        )
    if comparison is None:
        yield "Its quality was not measured, or the evaluation was not given."
    else:
        yield from caveats(student.lineage, comparison)


# ------------------------------------------------------------------------------------------------------------- the page


def as_markdown(card: Facts, files: Mapping[str, int]) -> str:
    """Writes the page.

    Args:
        card: The facts.
        files: Size in bytes of every file beside the page, by name.
    """
    costs, teacher = card["costs"], card["costs"]["times_fewer_than_teacher"]
    counts = (("Multiply-accumulates", "paper_macs"), ("executed", "true_macs"), ("Parameters", "parameters"))
    parts = [
        f"# {_plain(card['name'])}",
        f"A small image-to-image generator ({card['family']}, {_plain(card['direction'].replace('_', ' '))}), "
        "distilled from a larger one.",
        "## Quality",
        _table(["Metric", "Student", "95 % interval", "Teacher"], map(_metric_row, card["metrics"])) or "Not measured.",
        "## Cost",
        _table(
            ["", "Student", "Teacher ÷ student"],
            ([label, quantity(costs[key]), f"{teacher[key]:.1f}" if key in teacher else "–"] for label, key in counts),
        ),
        _table(["Time per image", "Median"], _latency_rows(card["latency"])) or "Its time was not measured.",
        "## Limits",
        "\n".join(f"- {_plain(sentence)}" for sentence in card["limits"]),
        "## Data",
        _table(["", ""], card["data"].items()) or "No dataset was given.",
        "## Licence",
        _plain(card["licence"]["note"]),
        "## Files",
        _table(["File", "Size"], ([name, file_size(size)] for name, size in files.items())),
        "## Recipe",
        _fenced(as_yaml(card["recipe"])),
    ]
    return "\n\n".join(parts) + "\n"


def _metric_row(metric: Facts) -> list[str]:
    known = BY_KEY[metric["key"]]
    student, teacher = metric["student"], metric["teacher"]
    interval = student["interval"]
    between = " to ".join(map(known.number, interval)) if interval else "–"
    return [known.heading, known.text(student["value"]), between, known.text(teacher["value"]) if teacher else "–"]


def _latency_rows(latency: Facts) -> Iterator[list[str]]:
    if "evaluate" in latency:
        for role in ("student", "teacher"):
            if times := latency["evaluate"][role]:
                yield [f"{role.capitalize()}, PyTorch, when evaluated", milliseconds(times["median"])]
    for runtime, label in (("onnxruntime", "ONNX Runtime"), ("torch", "PyTorch")):
        if runtime in latency.get("export", {}):
            times = latency["export"][runtime]
            yield [f"Student, {label}, when exported, threads: {times['threads']}", milliseconds(1e3 * times["median"])]


def _table(head: Sequence[str], rows: Any) -> str:
    """Writes a table; "" without rows."""
    lines = [" | ".join(_plain(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in (" | ".join(head), " | ".join("---" for _ in head), *lines)) * bool(
        lines
    )


def _plain(text: Any) -> str:
    """Writes a text of any origin so that Markdown shows it as it is, in one line."""
    return re.sub(r"([\\`*_~#\[\]|])", r"\\\1", html.escape(" ".join(str(text).split()), quote=False))


def _fenced(text: str) -> str:
    """Writes a text as a block of code that nothing in it can end."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{text}{fence}"
