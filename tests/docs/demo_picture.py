"""Makes the README's picture of the demo: `python -m tests.docs.demo_picture FOLDER`, after `make demo`.

FOLDER is the artifact of the stage evaluate, `runs/artifacts/compress-*/for-loop-*/evaluate-student/evaluation`.
"""

import argparse
import json
from pathlib import Path

from PIL import Image

SHOWN = ("input", "target", "teacher", "student")
ENLARGED = 2
COLUMNS = 2
"""Samples side by side."""


def picture_of(evaluation: Path) -> Image.Image:
    """Returns input, target, teacher's and student's picture of every sample, the samples in columns."""
    samples = json.loads((evaluation / "metrics.json").read_text())["samples"]
    rows = -(-len(samples) // COLUMNS)
    width, height = (ENLARGED * side for side in Image.open(evaluation / samples[0]["input"]).size)
    picture = Image.new("RGB", (COLUMNS * len(SHOWN) * width, rows * height))
    for index, sample in enumerate(samples):
        left = index // rows * len(SHOWN) * width
        for x, name in enumerate(SHOWN):
            tile = Image.open(evaluation / sample[name]).convert("RGB")
            tile = tile.resize((width, height), Image.Resampling.BICUBIC)
            picture.paste(tile, (left + x * width, index % rows * height))
    return picture


def main() -> None:
    """Reads the artifact and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/demo.webp"))
    options = parser.parse_args()
    picture_of(options.evaluation).save(options.output, quality=80, method=6)


if __name__ == "__main__":
    main()
