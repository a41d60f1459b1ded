"""Ten thousand images of 256×256 pack within 3 minutes and 1 GiB on two cores, and open within milliseconds."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.catlib.data.packed import PackedDataset

PER_DOMAIN, DIFFERENT, SIDE = 5000, 200, 256
SECONDS, BYTES, OPENING_SECONDS = 180, 2**30, 0.05


def photograph(seed: int) -> Image.Image:
    """Returns smooth colours with some grain, which decode about as slowly as photographs do."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.int16)
    return Image.fromarray((smooth + random.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8))


@pytest.mark.slow
def test_ten_thousand_images(tmp_path: Path):
    for domain in "AB":
        folder = tmp_path / f"images/train{domain}"
        folder.mkdir(parents=True)
        for number in range(PER_DOMAIN):
            path = folder / f"{number:05}.jpg"
            if number < DIFFERENT:
                photograph(number + DIFFERENT * (domain == "B")).save(path, quality=92)
            else:
                shutil.copyfile(folder / f"{number % DIFFERENT:05}.jpg", path)
    code = (
        "import resource, sys; from components.__main__ import main; "
        "code = main(['dataset', '--source', sys.argv[1], '--output', sys.argv[2]]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "images"), str(tmp_path / "packed")],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2]),
    )
    seconds, memory = time.monotonic() - began, int(done.stdout.split()[-1]) * 1024
    began = time.perf_counter()
    packed = PackedDataset.open(tmp_path / "packed")
    opening = time.perf_counter() - began
    print(f"{2 * PER_DOMAIN} images: {seconds:.0f} s, {memory / 2**20:.0f} MiB; opened in {1e3 * opening:.1f} ms")
    assert (
        sum(len(packed.split(split).source) + len(packed.split(split).target) for split in ("train", "test")) == 10000
    )
    assert seconds < SECONDS
    assert memory < BYTES
    assert opening < OPENING_SECONDS
