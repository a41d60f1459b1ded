"""Takes the README's picture of the page that runs a student: `python -m tests.browser.try_picture`, after `make try`.

It shows a held-out part of the built-in relief map, at the scale of the demo's tiles.
"""

import argparse
import base64
import io
import tempfile
import time
from pathlib import Path

from PIL import Image

from components.catlib.data.builtin import TEST_COLUMNS, TILE, open_map
from tests.browser.chromium import chromium_tab, find_chromium

ROWS = range(700, 1020)
"""Rows of the map: the Mediterranean and the Balkans."""

SCALE = 72 / TILE
"""The demo's `load_size` by the width of a tile."""


def main() -> None:
    """Opens the page in Chromium, gives it the picture, and writes what it then shows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, default=Path("runs/demo/try.html"))
    parser.add_argument("--output", type=Path, default=Path("docs/try.webp"))
    options = parser.parse_args()
    executable = find_chromium()
    assert executable, "there is no Chromium here (Debian: apt-get install chromium)"
    with tempfile.TemporaryDirectory() as folder, chromium_tab(executable, Path(folder) / "profile") as tab:
        picture = Path(folder) / "relief.png"
        part = open_map("relief", "the picture").crop((TEST_COLUMNS[0], ROWS[0], TEST_COLUMNS[-1] + TILE, ROWS[-1]))
        part.resize([round(SCALE * side) for side in part.size], Image.Resampling.BICUBIC).save(picture)
        tab.open(options.page.resolve().as_uri(), width=860)
        field = tab.call("Runtime.evaluate", expression="document.getElementById('file')")["result"]
        tab.call("DOM.setFileInputFiles", files=[str(picture)], objectId=field["objectId"])
        while not tab.evaluate("document.getElementById('status').textContent.includes(' ms on ')"):
            assert tab.evaluate("document.getElementById('error').hidden")
            time.sleep(0.1)
        shown = tab.call("Page.captureScreenshot", format="png")["data"]
    Image.open(io.BytesIO(base64.b64decode(shown))).convert("RGB").save(options.output, quality=80, method=6)


if __name__ == "__main__":
    main()
