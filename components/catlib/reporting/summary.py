"""The title and the headline figures of an artifact."""

from __future__ import annotations

from components.catlib.artifacts import Manifest
from components.catlib.metrics.catalogue import BY_KEY
from components.catlib.reporting.formatting import quantity, short_number, words

TITLES = {
    "dataset": "Dataset",
    "real_stats": "Statistics of real images",
    "teacher": "Teacher",
    "prune": "Student's architecture",
    "distill": "Student",
    "evaluate": "Evaluation",
    "export": "ONNX file",
    "report": "Report",
}


def figures(manifest: Manifest) -> list[tuple[str, str]]:
    """Returns name and value of an artifact's headline figures, and the ends of the trainings that it goes on from."""
    metrics, history = manifest.summary.get("metrics", {}), manifest.summary.get("history", [])
    earlier = [f"{end['epochs'] + end['decay_epochs']} epochs ({end['steps']} steps)" for end in history]
    return [
        *(_figure(name, value) for name, value in metrics.items() if value is not None),
        *([("goes on from", ", then ".join(earlier))] if earlier else []),
    ]


def _figure(name: str, value: float) -> tuple[str, str]:
    """Writes a figure, a score as the catalogue does: "student_l1" and 0.25 as "student L1" and "0.250"."""
    owner, _, rest = name.partition("_")
    for before, key in (("", name), (f"{owner} ", rest)):
        if key in BY_KEY:
            return f"{before}{BY_KEY[key].label}", BY_KEY[key].text(value)
    return words(name), quantity(value) if isinstance(value, int) or value >= 1e6 else short_number(value)
