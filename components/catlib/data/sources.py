"""Folders of images: recognises how they are laid out, pairs files by name and holds images out for testing.

With the domains A and B, and val as good as test, these layouts are known:

    combined     train/a.jpg test/b.jpg              each image shows A on its left and B on its right half
    parallel     A/train/a.jpg B/train/a.png …       partners have equal names
    unpaired     trainA/x.jpg trainB/y.jpg testA …   no partners
    single       x.jpg y.jpg …                       only source images, all for evaluation
    cityscapes   leftImg8bit/ gtFine/                A photos, B colour maps

`parallel` and `unpaired` folders may be called A/train, train/A or trainA. With `num_labels` the source images of the
parallel layout are label maps, which may come with instance maps in a third folder (`instances/train`,
`train/instances`, `train_instances`); Cityscapes then gives its label and instance maps. Without test or val folders,
`test_fraction` of the images is held out: those whose names have the smallest SHA-256, so that the choice is spread
over the data and new images hardly change it. Folders are searched in depth.
"""

from __future__ import annotations

import collections
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from PIL import Image

from components.catlib.config import DatasetConfig
from components.catlib.data.decoding import (
    SUFFIXES,
    UnreadableImageError,
    read_instances,
    read_labels,
    read_picture,
    split_halves,
)
from components.catlib.data.packed import Role, SplitName
from components.catlib.data.samples import Collection, Direction, Domain, Sample, SampleList, role_of
from components.catlib.errors import UserError

logger = logging.getLogger(__name__)

_SPLIT_FOLDERS = ("train", "val", "test")
_ALL = "all"
"""Stands for the split of folders that are not divided."""

_ARRANGEMENTS = ("{split}{domain}", "{domain}/{split}", "{split}/{domain}")
_INSTANCES = "instances"

Layout = Literal["combined", "parallel", "unpaired", "single", "cityscapes"]
Reader = Callable[[Path], Image.Image]
Item = TypeVar("Item")


def open_folder(config: DatasetConfig, folder: Path) -> Collection:
    """Opens a folder of images; nothing is decoded yet.

    Args:
        config: Layout, direction, number of labels and share of held-out images.
        folder: The folder.

    Raises:
        UserError: No folder, no images, a layout that is not recognised, or images without a partner.
    """
    if not folder.is_dir():
        what = "a file, not a folder; unpack it first" if folder.is_file() else "no folder"
        raise UserError(f"dataset.source {folder} is {what}.")
    layout: Layout = (
        _recognise(folder, labels=config.num_labels is not None) if config.layout == "auto" else config.layout
    )
    if config.num_labels is not None and layout not in ("parallel", "cityscapes"):
        raise UserError(
            f"dataset.num_labels needs label maps in the layout parallel or cityscapes, "
            f"but {folder} is laid out as {layout}."
        )
    match layout:
        case "combined":
            return _open_combined(config, folder)
        case "parallel":
            return _open_parallel(config, folder)
        case "unpaired":
            return _open_unpaired(config, folder)
        case "single":
            return _open_single(folder)
        case "cityscapes":
            return _open_cityscapes(config, folder)


def _recognise(folder: Path, *, labels: bool) -> Layout:
    if (folder / "leftImg8bit").is_dir() and (folder / "gtFine").is_dir():
        return "cityscapes"
    if any((folder / f"{split}{domain}").is_dir() for split in _SPLIT_FOLDERS for domain in "AB"):
        return "parallel" if labels else "unpaired"
    if _split_folders(folder, "A") or _split_folders(folder, "B"):
        return "parallel"
    if any(_is_image(path) for split in _SPLIT_FOLDERS for path in _entries(folder / split)):
        return "combined"
    if any(_is_image(path) for path in _entries(folder)):
        return "single"
    found = ", ".join(path.name for path in _entries(folder)[:6]) or "nothing"
    raise UserError(
        f"Folder {folder} holds no images in a known layout (found: {found}); expected train/ and test/ with "
        "A|B images, A/ and B/ with equal names, trainA/ trainB/ testA/ testB/, or images."
    )


# -------------------------------------------------------------------------------------------------------------- layouts


def _open_combined(config: DatasetConfig, folder: Path) -> Collection:
    files = {
        split: list(_images_in(place).items())
        for split, place in (_split_folders(folder, "") or {_ALL: folder}).items()
    }
    splits, how = _choose_splits(files, config.test_fraction)

    def listed(split: SplitName) -> tuple[SampleList, ...]:
        samples = [Sample(name, _combined_loader(path, config.direction)) for name, path in splits[split]]
        return (SampleList(("source", "target"), samples),)

    return Collection("paired", listed("train"), listed("test"), _provenance(folder, "combined", how))


def _open_parallel(config: DatasetConfig, folder: Path) -> Collection:
    domains: dict[Domain, dict[str, dict[str, Path]]] = {
        "A": _domain_files(folder, "A"),
        "B": _domain_files(folder, "B"),
    }
    files: dict[Role, dict[str, dict[str, Path]]] = {
        role_of(domain, config.direction): splits for domain, splits in domains.items()
    }
    if config.num_labels is not None and (instances := _instance_folders(folder)):
        files["instances"] = {split: _images_in(place) for split, place in instances.items()}
    return _paired_collection(config, folder, "parallel", files)


def _open_unpaired(config: DatasetConfig, folder: Path) -> Collection:
    train: list[SampleList] = []
    test: list[SampleList] = []
    how: list[str] = []
    domains: tuple[Domain, ...] = ("A", "B")
    for domain in domains:
        files = {split: list(found.items()) for split, found in _domain_files(folder, domain).items()}
        splits, domain_how = _choose_splits(files, config.test_fraction)
        how.append(f"{domain}: {domain_how}")
        role = role_of(domain, config.direction)
        train.append(_picture_list(role, splits["train"]))
        test.append(_picture_list(role, splits["test"]))
    return Collection("unpaired", tuple(train), tuple(test), _provenance(folder, "unpaired", "; ".join(how)))


def _open_single(folder: Path) -> Collection:
    empty = _picture_list("target", [])
    return Collection(
        pairing="unpaired",
        train=(_picture_list("source", []), empty),
        test=(_picture_list("source", _images_in(folder).items()), empty),
        provenance=_provenance(folder, "single", "all images are for evaluation"),
    )


def _open_cityscapes(config: DatasetConfig, folder: Path) -> Collection:
    """Photos are domain A, maps are domain B; label maps are the source in either direction."""
    labelled = config.num_labels is not None
    photo, colours = role_of("A", config.direction), role_of("B", config.direction)
    kinds: dict[Role, tuple[str, str]] = (
        {
            "source": ("gtFine", "_gtFine_labelIds"),
            "target": ("leftImg8bit", "_leftImg8bit"),
            "instances": ("gtFine", "_gtFine_instanceIds"),
        }
        if labelled
        else {photo: ("leftImg8bit", "_leftImg8bit"), colours: ("gtFine", "_gtFine_color")}
    )
    files: dict[Role, dict[str, dict[str, Path]]] = {}
    for role, (kind, ending) in kinds.items():
        files[role] = {}
        for split in ("train", "val"):  # the test folder has no annotations
            if (folder / kind / split).is_dir():
                found = _images_in(folder / kind / split)
                files[role][split] = {
                    name.removesuffix(ending): path for name, path in found.items() if name.endswith(ending)
                }
    return _paired_collection(config, folder, "cityscapes", files)


def _paired_collection(
    config: DatasetConfig, folder: Path, layout: str, files: dict[Role, dict[str, dict[str, Path]]]
) -> Collection:
    """Makes a collection of files that are given by role, split and name."""
    readers: dict[Role, Reader] = {
        "source": read_picture if config.num_labels is None else partial(read_labels, num_labels=config.num_labels),
        "target": read_picture,
        "instances": read_instances,
    }
    split_names = dict.fromkeys(split for splits in files.values() for split in splits)
    partners = {
        split: _partners(folder, split, {role: splits.get(split, {}) for role, splits in files.items()})
        for split in split_names
    }
    splits, how = _choose_splits(partners, config.test_fraction)

    def listed(split: SplitName) -> tuple[SampleList, ...]:
        return (
            SampleList(tuple(files), [Sample(name, _files_loader(paths, readers)) for name, paths in splits[split]]),
        )

    return Collection(
        pairing="paired" if config.num_labels is None else "labels",
        train=listed("train"),
        test=listed("test"),
        provenance=_provenance(folder, layout, how),
        num_labels=config.num_labels,
        has_instances="instances" in files,
    )


def _provenance(folder: Path, layout: str, split: str) -> dict[str, str]:
    return {"source": str(folder), "layout": layout, "split": split}


# ------------------------------------------------------------------------------------------------------ finding files


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _images_in(folder: Path) -> dict[str, Path]:
    """Returns the images below a folder in the order of their paths, by path without suffix where that is unique.

    Raises:
        UserError: There is none.
    """
    paths = {path.relative_to(folder): path for path in folder.rglob("*") if _is_image(path)}
    if not paths:
        raise UserError(f"Folder {folder} holds no images ({', '.join(sorted(SUFFIXES))}).")
    uses = collections.Counter(relative.with_suffix("") for relative in paths)
    return {
        (relative if uses[relative.with_suffix("")] > 1 else relative.with_suffix("")).as_posix(): paths[relative]
        for relative in sorted(paths)
    }


def _split_folders(folder: Path, domain: str) -> dict[str, Path]:
    """Returns where the images of a domain lie, by split; empty when nowhere. Domain "" means both in one image."""
    for arrangement in _ARRANGEMENTS:
        places = {split: folder / arrangement.format(split=split, domain=domain).strip("/") for split in _SPLIT_FOLDERS}
        found = {split: place for split, place in places.items() if place.is_dir()}
        if found:
            return found
    return {_ALL: folder / domain} if domain and (folder / domain).is_dir() else {}


def _instance_folders(folder: Path) -> dict[str, Path]:
    return _split_folders(folder, f"_{_INSTANCES}") or _split_folders(folder, _INSTANCES)


def _domain_files(folder: Path, domain: Domain) -> dict[str, dict[str, Path]]:
    places = _split_folders(folder, domain)
    if not places:
        raise UserError(
            f"Folder {folder} has no images of domain {domain}: expected {domain}/, train{domain}/ or {domain}/train/."
        )
    return {split: _images_in(place) for split, place in places.items()}


def _partners(folder: Path, split: str, files: Mapping[Role, Mapping[str, Path]]) -> list[tuple[str, dict[Role, Path]]]:
    """Puts files of equal names together.

    Raises:
        UserError: Names the first file without a partner.
    """
    for name in sorted({name for found in files.values() for name in found}):
        missing = [role for role, found in files.items() if name not in found]
        if missing:
            there = next(found[name] for found in files.values() if name in found)
            where = "" if split == _ALL else f" of the split {split}"
            raise UserError(
                f"Image {there} has no partner named {name!r} among the {missing[0]} images{where} in {folder}; "
                "paired images need equal names."
            )
    return [(name, {role: found[name] for role, found in files.items()}) for name in files["source"]]


# ----------------------------------------------------------------------------------------------------- splits, loaders


def _choose_splits(
    found: Mapping[str, list[tuple[str, Item]]], test_fraction: float
) -> tuple[dict[SplitName, list[tuple[str, Item]]], str]:
    """Decides which named items are for training and which for testing, and says how in words."""
    held_out = next((split for split in ("test", "val") if split in found), None)
    if held_out is not None:
        if held_out == "test" and "val" in found:
            logger.info("test images are used for evaluation; val images are left out")
        return {"train": found.get("train", []), "test": found[held_out]}, f"folders train and {held_out}"
    items = next(iter(found.values()))
    count = min(round(len(items) * test_fraction), len(items) - 1)
    if test_fraction > 0 and len(items) > 1:
        count = max(1, count)
    by_digest = sorted((name for name, _ in items), key=lambda name: hashlib.sha256(name.encode()).digest())
    test_names = set(by_digest[:count])
    splits: dict[SplitName, list[tuple[str, Item]]] = {
        "train": [item for item in items if item[0] not in test_names],
        "test": [item for item in items if item[0] in test_names],
    }
    return splits, f"{test_fraction:g} of the images held out by digest of their names"


def _picture_list(role: Role, named: Iterable[tuple[str, Path]]) -> SampleList:
    readers: dict[Role, Reader] = {role: read_picture}
    return SampleList((role,), [Sample(name, _files_loader({role: path}, readers)) for name, path in named])


def _files_loader(paths: Mapping[Role, Path], readers: Mapping[Role, Reader]) -> Callable[[], dict[Role, Image.Image]]:
    def load() -> dict[Role, Image.Image]:
        images: dict[Role, Image.Image] = {role: readers[role](path) for role, path in paths.items()}
        if len({image.size for image in images.values()}) > 1:
            found = ", ".join(f"{paths[role]} {image.width}×{image.height}" for role, image in images.items())
            raise UserError(
                f"Images that belong together have different sizes (width×height): {found}; make them equal."
            )
        return images

    return load


def _combined_loader(path: Path, direction: Direction) -> Callable[[], dict[Role, Image.Image]]:
    def load() -> dict[Role, Image.Image]:
        image = read_picture(path)
        if image.width < 2:
            raise UnreadableImageError(str(path), "too narrow to hold two images")
        half_a, half_b = split_halves(image)
        return {role_of("A", direction): half_a, role_of("B", direction): half_b}

    return load
