"""One artifact in a few lines of Markdown, for the interface of Kubeflow."""

from __future__ import annotations

from pathlib import Path

from components.catlib.artifacts import read_manifest
from components.catlib.reporting.formatting import as_yaml, quantity, short_number, words

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


def markdown(folder: Path) -> str:
    """Describes an artifact: its headline figures, and the settings that it was made with.

    Args:
        folder: An artifact folder.
    """
    manifest = read_manifest(folder)
    lines = [f"# {TITLES[manifest.kind]}", "", *(f"- {name}: **{value}**" for name, value in figures(folder))]
    return "\n".join([*lines, "", "## Settings", "", "```yaml", as_yaml(manifest.config).rstrip(), "```", ""])


def figures(folder: Path) -> list[tuple[str, str]]:
    """Returns the headline figures of an artifact, name and value.

    Args:
        folder: An artifact folder.
    """
    metrics = read_manifest(folder).summary.get("metrics", {})
    return [
        (words(name), quantity(value) if isinstance(value, int) or value >= 1e6 else short_number(value))
        for name, value in metrics.items()
        if value is not None
    ]
