"""Reads from the folders of a source what each image is for: which domain it shows, and in which split it is.

A folder has a meaning by its name, whatever its case: a split (`train`, `training`; `val`, `valid`, `validation`,
`dev`; `test`, `testing`, `eval`), a domain (`A`, `B`, `domainA`, `instances`) or both (`trainA`, `train_A`, `A_train`,
`train_instances`, and SPADE's `train_label`, `train_img`, `train_inst`). The folders that lead to an image may stand in
any order: `A/train`, `train/A`, `A/trainA`. Two folders without a meaning are domains, if all images lie in them:
`horses/` and `zebras/`, `train/input` and `train/output`.

Every image is accounted for: what a layout has no place for is left over.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from components.catlib.data.files import FileTree
from components.catlib.errors import UserError

Layout = Literal["combined", "parallel", "unpaired", "single", "cityscapes", "imagefolder", "croissant"]

SPLIT_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
"""Names of folders of a split, in lower case."""

INSTANCES = "instances"
_DOMAINS = {"a": "A", "b": "B", "instances": INSTANCES}
_SPADE = {"label": "A", "img": "B", "inst": INSTANCES}
_FIRST = {"source", "src", "input", "inputs", "before", "label", "labels", "mask", "masks"}
_SECOND = {"target", "tgt", "output", "outputs", "after"}
"""Names of two folders that say which one is A; otherwise the alphabet does."""

_SPLIT = "|".join(sorted((word for words in SPLIT_WORDS.values() for word in words), key=len, reverse=True))
_DOMAIN = "(?:domain_?)?[ab]|instances"
_FOLDER = re.compile(
    rf"(?P<split>{_SPLIT})(?:_?(?P<domain>{_DOMAIN})|_(?P<spade>label|img|inst))?"
    rf"|(?P<first>{_DOMAIN})(?:_(?P<second>{_SPLIT}))?"
)

FOLDERS_NAMED = 6
"""A message names this many folders."""


class Meaning(NamedTuple):
    """What the name of a folder says: "train", "val" or "test", and "A", "B" or "instances"; None: nothing."""

    split: str | None
    domain: str | None


def meaning(folder: str) -> Meaning:
    """Returns what the name of a folder says."""
    match = _FOLDER.fullmatch(re.sub(r"[\s_.-]+", "_", folder.lower()))
    if match is None:
        return Meaning(None, None)
    word = match["split"] or match["second"]
    split = next((name for name, words in SPLIT_WORDS.items() if word in words), None)
    domain = match["domain"] or match["first"]
    if match["spade"]:
        return Meaning(split, _SPADE[match["spade"]])
    return Meaning(split, _DOMAINS[domain.removeprefix("domain").strip("_")] if domain else None)


def split_of(path: PurePosixPath) -> str | None:
    """Returns the split that the folders of a path name first; None if they name none."""
    return next(filter(None, (meaning(folder).split for folder in path.parts[:-1])), None)


class _Place(NamedTuple):
    """What the folders that lead to an image say.

    Attributes:
        split: Its split, if any.
        domain: Its domain, if any.
        other: A folder without a meaning where a domain may stand, if any.
        joined: Whether one folder names split and domain, such as trainA.
        folder: The folders that say all that.
        below: The rest of the path; with `other`, the part below that folder.
        problem: Why the folders cannot be read; empty if they can.
    """

    split: str | None
    domain: str | None
    other: str | None
    joined: bool
    folder: PurePosixPath
    below: PurePosixPath
    problem: str


def _read(path: PurePosixPath) -> _Place:
    split = domain = other = None
    joined, problem, read = False, "", 0
    for folder in path.parts[:-1]:
        says = meaning(folder)
        if says == (None, None):
            if domain is not None or other is not None:
                break
            other = folder
            read += 1
            continue
        if (says.split and split and says.split != split) or (says.domain and domain and says.domain != domain):
            problem = "its folders contradict each other"
        if says.domain and other is not None:
            problem = f"the folders {other}/ and {folder}/ both name a domain"
        joined = joined or None not in says
        split, domain = split or says.split, domain or says.domain
        read += 1
    deeper = [folder for folder in path.parts[read:-1] if meaning(folder).split]
    if deeper and not problem:
        problem = f"its folder {deeper[0]}/ is a split, but lies too deep"
    return _Place(
        split, domain, other, joined, PurePosixPath(*path.parts[:read]), PurePosixPath(*path.parts[read:]), problem
    )


@dataclasses.dataclass(frozen=True)
class LeftOver:
    """Images of one folder that a layout does not use.

    Attributes:
        folder: The folder below the source, such as `trainA`; "." for the source itself.
        count: Number of images in it and below it.
        reason: Why they are not used.
        expected: Whether this is how the layout is meant, and no sign of a mistake.
    """

    folder: str
    count: int
    reason: str
    expected: bool = False

    def __str__(self) -> str:
        noun = "image" if self.count == 1 else "images"
        place = "at the top" if self.folder == "." else f"in {self.folder}/"
        return f"{self.count} {noun} {place}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """What the images of a source are for.

    Attributes:
        layout: Its layout, other than Cityscapes.
        trees: Domain ("A", "B", "instances"; "" if each image shows both) -> split ("train", "val", "test"; `ALL` if
            folders are not divided) -> the images, by their path below the folders that say so.
        domains: The folders, or columns of a description, that stand for A and B if they have other names.
        left_over: Images that have no place.
    """

    layout: Layout
    trees: dict[str, dict[str, FileTree]]
    domains: dict[str, str]
    left_over: tuple[LeftOver, ...]


ALL = "all"
"""Name of the only split if folders are not divided into splits."""


def recognise(tree: FileTree, *, labels: bool) -> Layout:
    """Returns the layout of a source that says none; Cityscapes is recognised elsewhere.

    Args:
        tree: The image files.
        labels: Whether the source images are label maps.

    Raises:
        UserError: No layout fits, or several do; the message names what was found and what to set.
    """
    places = [_read(path) for path in tree.files]
    if any(place.domain in ("A", "B") and not place.problem for place in places):
        return "parallel" if labels or not any(place.joined for place in places) else "unpaired"
    others = _others(places)
    if any(place.split for place in places):
        if len(others) != 2:
            return "combined"
        first, second = ({place.below.with_suffix("") for place in places if place.other == name} for name in others)
        if labels or first & second:
            return "parallel"
        raise UserError(
            f"{tree.where} has the folders {others[0]}/ and {others[1]}/ in its splits, without equal names in them; "
            "set dataset.layout: unpaired if these are two domains, or combined if each image shows both."
        )
    if tree.images_at_top and tree.folders:
        raise UserError(
            f"{tree.where} holds images beside folders of images ({_listed(tree.folders)}); move the images at its top "
            "away, or set dataset.layout: single to take all as source images for evaluation."
        )
    if tree.images_at_top:
        return "single"
    if len(others) == 2:
        return "parallel"
    raise UserError(
        f"{tree.where} holds no images in a known layout (found: {_listed(tree.folders) or 'nothing'}); expected "
        "train/ and test/ with A|B images, A/ and B/ with equal names, trainA/ trainB/ testA/ testB/, leftImg8bit/ and "
        "gtFine/, or images."
    )


def arrange(tree: FileTree, layout: Layout, *, labels: bool) -> Arrangement:
    """Finds the place of every image in a layout.

    Args:
        tree: The image files.
        layout: Combined, parallel, unpaired or single.
        labels: Whether the source images are label maps.

    Raises:
        UserError: Two folders have the same meaning.
    """
    if layout == "single":
        return Arrangement(layout, {"": {ALL: tree}}, {}, ())
    places = {path: _read(path) for path in tree.files}
    others = _others(places.values())
    domains = dict(zip(others, "AB", strict=True)) if layout != "combined" and len(others) == 2 else {}
    wanted = ("",) if layout == "combined" else ("A", "B", *([INSTANCES] if labels else []))
    found = {path: _assigned(place, layout, domains) for path, place in places.items()}
    divided = {
        domain: any(place.split for path, place in places.items() if found[path][0] == domain and not place.problem)
        for domain in wanted
    }
    trees: dict[str, dict[str, dict[PurePosixPath, PurePosixPath]]] = {}
    folders: dict[tuple[str, str], PurePosixPath] = {}
    left: collections.Counter[tuple[str, str, bool]] = collections.Counter()
    for path, (domain, folder, below) in found.items():
        place = places[path]
        reason = place.problem or _why_not(place, domain, wanted, divided, layout)
        if reason or domain is None:
            left[str(path.parent), reason, domain == INSTANCES and not place.problem] += 1
            continue
        split = place.split or ALL
        earlier = folders.setdefault((domain, split), folder)
        if earlier != folder:
            what = " ".join(filter(None, ("" if split == ALL else split, domain or "A|B", "images")))
            raise UserError(f"{tree.where} has two folders of {what}, {earlier}/ and {folder}/; keep one of them.")
        trees.setdefault(domain, {}).setdefault(split, {})[below] = path
    made = {
        domain: {
            split: FileTree(
                f"{tree.where}/{folders[domain, split]}".removesuffix("/."),
                {below: tree.files[path] for below, path in sorted(files.items())},
            )
            for split, files in sorted(splits.items(), key=lambda item: item[0] != "train")
        }
        for domain, splits in trees.items()
    }
    return Arrangement(
        layout,
        made,
        {domain: folder for folder, domain in domains.items()},
        (*_grouped(left), *_of_no_split(made, folders)),
    )


def _others(places: Iterable[_Place]) -> list[str]:
    """Returns two folders without a meaning that stand for A and B, in this order; none if images lie elsewhere.

    Where there are splits, only the folders with a split count.
    """
    places = [place for place in places if place.domain != INSTANCES]
    in_splits = [place for place in places if place.split]
    names = {place.other for place in in_splits or places}
    if len(names) != 2 or None in names or any(place.domain for place in places):
        return []
    return sorted(filter(None, names), key=lambda name: (rank(name), name))


def rank(name: str) -> int:
    """Returns 0 for a name that stands for A, such as `input`, 2 for one of B, such as `target`, and 1 for others."""
    return 0 if name.lower() in _FIRST else 2 if name.lower() in _SECOND else 1


def _assigned(
    place: _Place, layout: Layout, domains: Mapping[str, str]
) -> tuple[str | None, PurePosixPath, PurePosixPath]:
    """Returns the domain of an image, the folders that say so, and its path below them."""
    if place.other is None or place.other in domains:
        domain = place.domain or domains.get(place.other or "")
        return (domain or ("" if layout == "combined" else None)), place.folder, place.below
    parts = place.folder.parts
    outer = parts[: parts.index(place.other)]  # the folder without a meaning belongs to the names of the images
    below = PurePosixPath(*parts[len(outer) :], place.below)
    return place.domain or ("" if layout == "combined" else None), PurePosixPath(*outer), below


def _why_not(
    place: _Place, domain: str | None, wanted: tuple[str, ...], divided: Mapping[str, bool], layout: Layout
) -> str:
    """Returns why a layout does not use an image; empty if it does."""
    if domain == INSTANCES and domain not in wanted:
        return "instance maps are used only with dataset.num_labels"
    if domain not in wanted:
        return "not in a folder of a domain" if domain is None else f"in a folder of domain {domain}, not of A|B images"
    if divided[domain] and place.split is None:
        return "beside the folders of splits"
    if layout == "combined" and place.other is not None and place.folder.parts[0] == place.other and place.split:
        return f"its folder {place.other}/ holds a split of its own"
    return ""


def _grouped(left: Mapping[tuple[str, str, bool], int]) -> list[LeftOver]:
    return [LeftOver(folder, count, reason, expected) for (folder, reason, expected), count in left.items()]


def _of_no_split(
    trees: Mapping[str, Mapping[str, FileTree]], folders: Mapping[tuple[str, str], PurePosixPath]
) -> list[LeftOver]:
    """Returns the images of `val` where there is also a `test`."""
    return [
        LeftOver(str(folders[domain, "val"]), len(splits["val"].files), "the test images are held out instead", True)
        for domain, splits in trees.items()
        if {"val", "test"} <= splits.keys()
    ]


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - FOLDERS_NAMED} more" if len(names) > FOLDERS_NAMED else ""
    return ", ".join(names[:FOLDERS_NAMED]) + more


def refusal(tree: FileTree, arrangement: Arrangement) -> str:
    """Returns the sentence that refuses a source whose layout nobody chose and that holds images without a place.

    Returns:
        The sentence; empty if every image has its place.
    """
    surprising = [left for left in arrangement.left_over if not left.expected]
    if not surprising:
        return ""
    total = sum(left.count for left in surprising)
    noun = "image" if total == 1 else "images"
    shown = "; ".join(map(str, surprising[:FOLDERS_NAMED]))
    more = f"; and {len(surprising) - FOLDERS_NAMED} folders more" if len(surprising) > FOLDERS_NAMED else ""
    return (
        f"{tree.where} looks like the layout {arrangement.layout}, which has no place for {total} {noun} "
        f"({shown}{more}); move them away, or set dataset.layout: {arrangement.layout} to leave them out."
    )
