"""Datasets that papers use, by name: where they officially are, how large, under which terms.

Their publishers state no digests, so none are given here; what was downloaded is logged with its digest, which can then
be fixed as `dataset.sha256`. Without a network, put the archive (or the unpacked folder) where [Dataset.places][] says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("datasets")
"""Where local copies are looked for, in the current folder."""

_CYCLEGAN = "http://efrosgans.eecs.berkeley.edu/cyclegan/datasets"
_PIX2PIX = "http://efrosgans.eecs.berkeley.edu/pix2pix/datasets"
_CYCLEGAN_HOME = "https://junyanz.github.io/CycleGAN/"
_PIX2PIX_HOME = "https://phillipi.github.io/pix2pix/"
_IMAGENET = "photographs from ImageNet: non-commercial research and education"


@dataclass(frozen=True)
class Dataset:
    """A published dataset.

    Attributes:
        name: What `dataset.source` calls it.
        files: File names as published.
        megabytes: Size of all files, roughly.
        content: What A and B are.
        terms: Licence, or what is known of it.
        homepage: Where it is described and its terms are stated.
        url: Of its only file; None when one must register first.
        sha256: Of that file, when its publisher states it.
    """

    name: str
    files: tuple[str, ...]
    megabytes: int
    content: str
    terms: str
    homepage: str
    url: str | None = None
    sha256: str | None = None

    @property
    def places(self) -> tuple[Path, ...]:
        """Where a local copy may lie: a folder of the dataset's name, or its only file beside such folders."""
        return FOLDER / self.name, *((FOLDER / self.files[0],) if len(self.files) == 1 else ())

    @property
    def instructions(self) -> str:
        """What to fetch and where to put it, the end of a sentence."""
        where = f"download {' and '.join(self.files)} ({self.megabytes} MB) from {self.url or self.homepage}"
        put = f"put them into {self.places[0]}/" if len(self.files) > 1 else f"save it as {self.places[-1]}"
        return f"{where}, {put}, or give its place as dataset.source (terms: {self.terms})"


def _published(name: str, suffix: str, megabytes: int, content: str, terms: str) -> Dataset:
    """Describes a dataset from the servers of the CycleGAN (.zip) and pix2pix (.tar.gz) papers."""
    base, homepage = (_CYCLEGAN, _CYCLEGAN_HOME) if suffix == ".zip" else (_PIX2PIX, _PIX2PIX_HOME)
    return Dataset(name, (f"{name}{suffix}",), megabytes, content, terms, homepage, f"{base}/{name}{suffix}")


# fmt: off
KNOWN: dict[str, Dataset] = {dataset.name: dataset for dataset in (
    # unpaired, from the CycleGAN paper
    _published("horse2zebra", ".zip", 117, "A horses, B zebras", _IMAGENET),
    _published("apple2orange", ".zip", 78, "A apples, B oranges", _IMAGENET),
    _published("summer2winter_yosemite", ".zip", 133, "A summer, B winter", "from Flickr: their authors' terms"),
    _published("monet2photo", ".zip", 305, "A paintings, B photographs", "WikiArt, Flickr: their authors' terms"),
    # paired, A|B side by side, from the pix2pix paper
    _published("facades", ".tar.gz", 31, "A photographs, B label maps in colour", "CMP Facades: see its homepage"),
    _published("maps", ".tar.gz", 246, "A satellite pictures, B street maps", "from Google Maps: Google's terms"),
    _published("edges2shoes", ".tar.gz", 2200, "A edges, B photographs", "UT Zappos50K: academic, non-commercial use"),
    _published("edges2handbags", ".tar.gz", 8600, "A edges, B photographs", "from Amazon: Amazon's terms"),
    # behind a registration
    Dataset(
        "cityscapes",
        ("gtFine_trainvaltest.zip", "leftImg8bit_trainvaltest.zip"),
        11800,
        "A photographs, B label maps",
        "Cityscapes licence: non-commercial, must not be passed on",
        "https://www.cityscapes-dataset.com/downloads/",
    ),
)}
# fmt: on
