"""The command that makes the page: `try-page`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from components.catlib.exits import stated

_HELP = "Write a page that runs an exported student in a browser, without a network."


def add_command(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds the command to a parser and returns it."""
    page = commands.add_parser(
        "try-page",
        help=_HELP,
        description=f"{_HELP} The file holds the student and ONNX Runtime. Drop a picture on it, or let it use the "
        "camera. npm fetches ONNX Runtime the first time, into the user's cache folder.",
    )
    page.add_argument(
        "--model",
        type=stated,
        required=True,
        metavar="URI",
        help="an .onnx file, an artifact of the export stage, or s3:// of either; 8-bit colours to 8-bit colours",
    )
    page.add_argument(
        "--output",
        type=stated,
        required=True,
        metavar="FILE",
        help="the HTML file to write; an earlier page is replaced",
    )
    page.set_defaults(command=_try_page)
    return page


def _try_page(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    from components.catlib.try_page.page import write_page  # only here: it takes a while

    facts = write_page(options.model, Path(options.output))
    return options.output, facts
