"""Datasets from papers, by name: their official address, size and terms.

The publishers state no digests, so none are listed here. The digest of a download is logged; set `dataset.sha256` to it
to insist on the same file later. Without a network, put the archive or the unpacked folder at one of `Dataset.places`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("datasets")
"""Folder of local copies, relative to the current folder."""

_CYCLEGAN = "http://efrosgans.eecs.berkeley.edu/cyclegan/datasets"
_PIX2PIX = "http://efrosgans.eecs.berkeley.edu/pix2pix/datasets"
_CYCLEGAN_HOME = "https://junyanz.github.io/CycleGAN/"
_PIX2PIX_HOME = "https://phillipi.github.io/pix2pix/"
_IMAGENET = "photographs from ImageNet: non-commercial research and education"


@dataclass(frozen=True)
class Dataset:
    """A published dataset.

    Attributes:
        name: The dataset's name in `dataset.source`.
        files: File names as published.
        megabytes: Approximate size of all files together, in MB.
        content: What the images of domain A and B show.
        terms: The licence, or what is known about it.
        homepage: Address of the page that describes the dataset and states its terms.
        url: Address of its only file; None if users must register first.
        sha256: Digest of that file; None if the publisher does not state it.
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
        """Places of a local copy: a folder with the dataset's name or, beside it, the archive if there is only one."""
        return FOLDER / self.name, *((FOLDER / self.files[0],) if len(self.files) == 1 else ())

    @property
    def instructions(self) -> str:
        """The end of an error message: which files to download and where to put them."""
        where = f"download {' and '.join(self.files)} ({self.megabytes} MB) from {self.url or self.homepage}"
        put = f"put them into {self.places[0]}/" if len(self.files) > 1 else f"save it as {self.places[-1]}"
        return f"{where}, {put}, or set dataset.source to the path of your copy (terms: {self.terms})"


def _published(name: str, suffix: str, megabytes: int, content: str, terms: str) -> Dataset:
    """Describes a dataset on the server of the CycleGAN paper (.zip) or of the pix2pix paper (.tar.gz)."""
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
