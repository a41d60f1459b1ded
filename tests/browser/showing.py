"""Shows a picture on a page of `make try` in a headless Chromium, times it, and keeps what a user would see.

    python -m tests.browser.showing --page build/try.html --output docs/try.webp

Without --input, the picture is the part of the demo's satellite picture that its held-out places come from.
"""

import argparse
import base64
import io
import tempfile
from pathlib import Path

from PIL import Image

from components.catlib.data.builtin import MAPS, load_map
from tests.browser.chromium import chromium_tab, find_chromium
from tests.browser.trying import TryPage

PART = (2560, 640, 2816, 896)  # left, top, right, bottom: 256x256 pixels
WIDTH = 860


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, required=True, help="the page that `make try` wrote")
    parser.add_argument("--input", type=Path, help="a picture")
    parser.add_argument("--output", type=Path, required=True, help="the picture of the page to write, .webp or .png")
    options = parser.parse_args()
    executable = find_chromium()
    if executable is None:
        parser.error("there is no Chromium here")
    with tempfile.TemporaryDirectory() as folder, chromium_tab(executable, Path(folder, "profile")) as tab:
        picture = options.input or Path(folder, "satellite.png")
        if options.input is None:
            load_map("satellite").crop(PART).save(picture)
        shown = TryPage(tab, options.page.resolve(), width=WIDTH)
        shown.choose(picture)
        tab.evaluate("document.getElementById('measure').click()")
        shown.wait("document.getElementById('measured').textContent.startsWith('median ')", seconds=120)
        print(f"{shown.text('status').split(',')[0]}: {shown.text('measured')}")
        bottom = tab.evaluate("document.getElementById('result').getBoundingClientRect().bottom + scrollY")
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": round(bottom) + 24, "scale": 1}
        taken = tab.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
    Image.open(io.BytesIO(base64.b64decode(taken))).convert("RGB").save(options.output, quality=80, method=6)


if __name__ == "__main__":
    main()
