"""Writes the page: checks that a browser can serve the student, and puts student and runtime into one file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from components.catlib.artifacts import replacing
from components.catlib.disk import writing_to
from components.catlib.errors import UserError, one_line
from components.catlib.reporting.templates import template
from components.catlib.serving.model import Model, Planes, local_model, open_model
from components.catlib.try_page.runtime import VERSION, load_runtime, packed

FOLDER = Path(__file__).parent

LARGEST_MODEL = 200_000_000
"""Bytes of a model that a page can carry: browsers limit the length of a text."""

MARK = '<meta name="generator" content="try-page">'
"""What tells such a page from other files."""

LONGEST_FACT = 120
"""Characters of a fact about the model that the page shows."""

_FACTS = {"dataset": "trained on", "name": "network", "parameters": "parameters", "normalisation": "norms"}
"""What the page shows of a model's metadata, under which heading."""


def write_page(address: str, output: Path) -> dict[str, Any]:
    """Writes the page of a student.

    Args:
        address: The generator: an `.onnx` file, an artifact of the export stage, or `s3://…` of either.
        output: The HTML file to write; an earlier page is replaced.

    Returns:
        `output`, and the page's size in `bytes`.

    Raises:
        UserError: There is no such generator, a browser cannot serve it, npm is not installed, or the file cannot be
            written or is something else.
        Unavailable: npm cannot fetch the runtime now.
    """
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; give a file, such as {output / 'try.html'}.")
    _check_replaceable(output)
    with local_model(address) as path:
        model = open_model(path)
        check_servable(model, address)
        page = render(model, path.read_bytes())
    with writing_to(output, what=f"--output {output}"):
        output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as partial:
        partial.write_text(page, encoding="utf-8")
    return {"output": str(output), "bytes": output.stat().st_size}


def _check_replaceable(output: Path) -> None:
    """Refuses to replace anything else than such a page: the model, say, or a report."""
    if output.exists() and MARK.encode() not in output.read_bytes()[:4096]:
        raise UserError(f"--output {output} exists and is no page of a student; choose another file or remove it.")


def check_servable(model: Model, address: str) -> None:
    """Refuses a generator that a page cannot serve; raises UserError."""
    other = "run it with `python -m components translate`"
    size = Path(model.where).stat().st_size
    if isinstance(model.reads, Planes):
        raise UserError(f"{address} paints label maps, which are no pictures that a browser reads; {other}.")
    for verb, values in (("reads", model.reads), ("makes", model.makes)):
        if not values.colours:
            raise UserError(f"{address} {verb} {values}, but a browser's pictures are 8-bit colours; {other}.")
    if model.fixed_size is not None:
        height, width = model.fixed_size
        raise UserError(
            f"{address} takes pictures of {height}x{width} pixels alone, but a page gets any size; {other}."
        )
    if size > LARGEST_MODEL:
        raise UserError(f"{address} has {size / 1e6:.0f} MB, and a page carries {LARGEST_MODEL / 1e6:.0f}; {other}.")


def render(model: Model, content: bytes) -> str:
    """Returns the page as HTML.

    All text from the model is escaped, and the browser runs no other script than the page's own: the content security
    policy names its digest, and allows no request.

    Args:
        model: The generator, which a browser can serve.
        content: Its file.
    """
    runtime = load_runtime()
    texts: dict[str, str] = model.session.get_modelmeta().custom_metadata_map
    script = (FOLDER / "try.js").read_text(encoding="utf-8")
    return template(FOLDER / "try.html").render(
        mark=MARK,
        title=_fact(texts, "dataset") or "student",
        facts=[(heading, shown) for name, heading in _FACTS.items() if (shown := _fact(texts, name))],
        settings={
            "input": model.session.get_inputs()[0].name,
            "output": model.session.get_outputs()[0].name,
            "size_step": model.size_step,
            "smallest_size": model.smallest_size,
        },
        style=(files("components.catlib.reporting") / "report.css").read_text(encoding="utf-8"),
        script=script,
        worker=(FOLDER / "worker.js").read_text(encoding="utf-8"),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        parts={**runtime.parts, "notices": runtime.notices, "model": packed(content)},
        licence=runtime.licence,
        version=VERSION,
    )


def _fact(texts: Mapping[str, str], name: str) -> str:
    """Returns what a file states about itself, short enough for a page; "" if nothing."""
    text = one_line(texts.get(name, "")).strip()
    return text if len(text) <= LONGEST_FACT else f"{text[:LONGEST_FACT]}…"
