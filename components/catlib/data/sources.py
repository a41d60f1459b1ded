"""Collects the images of a source: finds their places, pairs files by name, and holds images out for testing.

These layouts of the domains A and B are known; a folder `val` is used where there is no `test`. `layouts.py` says which
names folders may have:

    combined     train/a.jpg test/b.jpg              each image shows A on its left and B on its right half
    parallel     A/train/a.jpg B/train/a.png …       partners have equal names
    unpaired     trainA/x.jpg trainB/y.jpg testA …   no partners
    single       x.jpg y.jpg …                       only source images, all for evaluation
    imagefolder  metadata.csv or metadata.jsonl      a file names the partners (`descriptions.py`)
    croissant    croissant.json                      the same (`croissant.py`)
    cityscapes   leftImg8bit/ gtFine/                A photos, B maps (`cityscapes.py`)

With `num_labels`, the source images of the parallel layout are label maps, which may come with instance maps in a third
folder (`instances/train`, `train/instances`, `train_instances`). Without test and val folders, `test_fraction` of the
images is held out: those whose names have the smallest SHA-256, so that the choice is spread over the data and new
images hardly change it. Folders are searched recursively, and an outer folder that holds everything else is skipped.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any, TypeVar

from components.catlib.config import DatasetConfig
from components.catlib.config.dataset import PictureRole
from components.catlib.data import cityscapes
from components.catlib.data.croissant import is_croissant, read_croissant
from components.catlib.data.decoding import read_instances, read_labels, read_picture, split_halves
from components.catlib.data.descriptions import METADATA, Description, arrange_rows, read_metadata
from components.catlib.data.enough import HELD_OUT
from components.catlib.data.files import IMAGE_SUFFIXES, FileTree, SourceFile, without_arrays
from components.catlib.data.layouts import ALL, INSTANCES, Arrangement, Layout, arrange, meaning, recognise, refusal
from components.catlib.data.packed import ImageRole, LeftOut, SplitName
from components.catlib.data.rasters import checked, decode_raster, read_raster
from components.catlib.data.samples import (
    Collection,
    DecodedImage,
    DomainLetter,
    Raster,
    Sample,
    SampleList,
    UnusableImageError,
    role_of,
)
from components.catlib.errors import UserError

logger = logging.getLogger(__name__)

Reader = Callable[[SourceFile], DecodedImage]
Item = TypeVar("Item")


def open_tree(config: DatasetConfig, tree: FileTree, provenance: Mapping[str, Any]) -> Collection:
    """Recognises the layout of a source and collects its images; nothing is decoded yet.

    Args:
        config: Layout, direction, number of labels and share of held-out images.
        tree: The image files.
        provenance: Facts about the source. The collection's provenance adds the layout and the split to them.

    Raises:
        UserError: There are no images, the layout is not recognised or does not fit the settings, or paired images have
            not a single pair.
    """
    if config.source_values is None and config.target_values is None:
        tree = without_arrays(tree)
    tree = cityscapes.put_together(_top(tree))
    labels, chosen = config.num_labels is not None, config.layout
    description = _description(tree, chosen)
    if description is not None:
        layout: Layout = description.layout
    else:
        layout = _recognise(tree, labels=labels) if chosen == "auto" else chosen
    if labels and layout not in ("parallel", "cityscapes", "imagefolder", "croissant"):
        raise UserError(
            f"dataset.num_labels needs label maps in the layout parallel or cityscapes, "
            f"but {tree.where} is laid out as {layout}; remove dataset.num_labels or rearrange the folders."
        )
    known = {**provenance, "layout": layout}
    if layout == "cityscapes":
        return _open_cityscapes(config, tree, known)
    if description is not None:
        arrangement = arrange_rows(tree, description, labels=labels)
    else:
        arrangement = arrange(tree, layout, labels=labels)
    if chosen == "auto" and (sentence := refusal(tree, arrangement)):
        raise UserError(sentence)
    for left in arrangement.left_over:
        logger.warning("left out %s", left)
    if arrangement.domains:
        what = "folder" if description is None else "column"
        logger.info("%s", "; ".join(f"{what} {name} is {domain}" for domain, name in arrangement.domains.items()))
        known["domains"] = arrangement.domains
    if arrangement.left_over:
        known["left_over"] = [dataclasses.asdict(left) for left in arrangement.left_over]
    return _OPENERS[layout](config, arrangement, tree, known)


def _description(tree: FileTree, chosen: str) -> Description | None:
    """Returns the file that says which images belong together, if there is one and no other layout is chosen."""
    if chosen in ("auto", "imagefolder") and (found := read_metadata(tree, chosen=chosen != "auto")):
        return found
    return read_croissant(tree, chosen=chosen != "auto") if chosen in ("auto", "croissant") else None


def _top(tree: FileTree) -> FileTree:
    """Descends through outer folders that hold everything else, which archives often have."""
    while len(tree.folders) == 1 and not (tree.images_at_top or _is_described(tree) or _has_a_meaning(tree.folders[0])):
        tree = tree.below(tree.folders[0])
    return tree


def _is_described(tree: FileTree) -> bool:
    """Returns whether a file directly in the source, outside any folder, says which images belong together."""
    at_top = {path: file for path, file in tree.texts.items() if len(path.parts) == 1}
    return any(path.name.lower() in METADATA or is_croissant(path, file) for path, file in at_top.items())


def _has_a_meaning(folder: str) -> bool:
    return folder in cityscapes.FOLDERS or meaning(folder) != (None, None)


def _recognise(tree: FileTree, *, labels: bool) -> Layout:
    return "cityscapes" if cityscapes.is_cityscapes(tree) else recognise(tree, labels=labels)


# -------------------------------------------------------------------------------------------------------------- layouts


def _open_combined(
    config: DatasetConfig, arrangement: Arrangement, tree: FileTree, known: dict[str, Any]
) -> Collection:
    places = arrangement.trees.get("", {ALL: tree.below("train")})
    splits, how = _choose_splits({split: list(_named(place)) for split, place in places.items()}, config.test_fraction)
    load = partial(_combined_loader, config=config)
    if (config.source_values is None) != (config.target_values is None):
        raise UserError(
            f"{tree.where} is laid out as combined, where each file holds source and target; set both "
            "dataset.source_values and dataset.target_values, or neither."
        )

    def listed(split: SplitName) -> tuple[SampleList, ...]:
        return (SampleList(("source", "target"), [Sample(name, load(file)) for name, file in splits[split]]),)

    return Collection("paired", listed("train"), listed("test"), {**known, "split": how})


def _open_parallel(
    config: DatasetConfig, arrangement: Arrangement, tree: FileTree, known: dict[str, Any]
) -> Collection:
    files: dict[ImageRole, dict[str, dict[str, SourceFile]]] = {
        role_of("A", config.direction): _domain_files(tree, arrangement, "A"),
        role_of("B", config.direction): _domain_files(tree, arrangement, "B"),
    }
    if INSTANCES in arrangement.trees:
        files["instances"] = {split: dict(_named(place)) for split, place in arrangement.trees[INSTANCES].items()}
    return _paired_collection(config, tree.where, files, known)


def _open_unpaired(
    config: DatasetConfig, arrangement: Arrangement, tree: FileTree, known: dict[str, Any]
) -> Collection:
    train: list[SampleList] = []
    test: list[SampleList] = []
    how: list[str] = []
    domains: tuple[DomainLetter, ...] = ("A", "B")
    for domain in domains:
        files = {split: list(found.items()) for split, found in _domain_files(tree, arrangement, domain).items()}
        splits, domain_how = _choose_splits(files, config.test_fraction)
        how.append(f"{domain}: {domain_how}")
        role = role_of(domain, config.direction)
        train.append(_picture_list(role, splits["train"], config))
        test.append(_picture_list(role, splits["test"], config))
    return Collection("unpaired", tuple(train), tuple(test), {**known, "split": "; ".join(how)})


def _open_single(config: DatasetConfig, arrangement: Arrangement, tree: FileTree, known: dict[str, Any]) -> Collection:
    empty = _picture_list("target", [], config)
    return Collection(
        pairing="unpaired",
        train=(_picture_list("source", [], config), empty),
        test=(_picture_list("source", _named(tree), config), empty),
        provenance={**known, "split": "all images are for evaluation"},
    )


_OPENERS = {
    "combined": _open_combined,
    "parallel": _open_parallel,
    "unpaired": _open_unpaired,
    "single": _open_single,
    "imagefolder": _open_parallel,
    "croissant": _open_parallel,
}


def _open_cityscapes(config: DatasetConfig, tree: FileTree, known: dict[str, Any]) -> Collection:
    files = cityscapes.find_files(tree, labelled=config.num_labels is not None, photo=role_of("A", config.direction))
    return _paired_collection(config, tree.where, files, known)


def _paired_collection(
    config: DatasetConfig, where: str, files: dict[ImageRole, dict[str, dict[str, SourceFile]]], known: dict[str, Any]
) -> Collection:
    """Makes a collection of paired files.

    Args:
        config: Number of labels and share of held-out images.
        where: The source's name in messages.
        files: Role -> split -> name -> file.
        known: Provenance without the split.
    """
    readers: dict[ImageRole, Reader] = {
        "source": _picture_reader("source", config)
        if config.num_labels is None
        else partial(read_labels, num_labels=config.num_labels),
        "target": _picture_reader("target", config),
        "instances": read_instances,
        "ground_truth": cityscapes.read_scored_classes,
    }
    split_names = dict.fromkeys(split for splits in files.values() for split in splits)
    pairs: dict[str, list[tuple[str, dict[ImageRole, SourceFile]]]] = {}
    without_partner: list[LeftOut] = []
    for split in split_names:
        pairs[split], lonely = _pairs(split, {role: splits.get(split, {}) for role, splits in files.items()})
        without_partner += lonely
    if not without_partner and not pairs:
        raise UserError(
            f"{where} holds no images with the names of its layout, {known['layout']}; check the names of folders and "
            "files, or dataset.layout."
        )
    if not any(pairs.values()):
        first = without_partner[0]
        raise UserError(
            f"{where} holds no pair: {first.file} has {first.reason}, and no other image has a partner; give partners "
            f"equal names{_or_unpaired(config, known['layout'])}."
        )
    splits, how = _choose_splits(pairs, config.test_fraction)

    def listed(split: SplitName) -> tuple[SampleList, ...]:
        roles: tuple[ImageRole, ...] = tuple(role for role in files if split == "test" or role != "ground_truth")
        samples: list[Sample] = []
        for name, found in splits[split]:
            wanted: dict[ImageRole, SourceFile] = {role: found[role] for role in roles}
            samples.append(Sample(name, _files_loader(wanted, readers)))
        return (SampleList(roles, samples),)

    return Collection(
        pairing="paired" if config.num_labels is None else "labels",
        train=listed("train"),
        test=listed("test"),
        provenance={**known, "split": how},
        num_labels=config.num_labels,
        has_instances="instances" in files,
        without_partner=tuple(without_partner),
    )


def _or_unpaired(config: DatasetConfig, layout: Layout) -> str:
    """Returns the other way to use images without partners, where there is one."""
    return ", or set dataset.layout: unpaired" if config.num_labels is None and layout == "parallel" else ""


# ------------------------------------------------------------------------------------------------------ finding files


def _named(tree: FileTree) -> Iterable[tuple[str, SourceFile]]:
    """Yields names and files, ordered by path. A name is the path, without its suffix where that is unique.

    Raises:
        UserError: There are no files.
    """
    if not tree.files:
        raise UserError(
            f"{tree.where} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); check the path and dataset.layout."
        )
    uses = collections.Counter(path.with_suffix("") for path in tree.files)
    for path, file in tree.files.items():
        bare: PurePosixPath = path.with_suffix("")
        yield (path if uses[bare] > 1 else bare).as_posix(), file


def _domain_files(tree: FileTree, arrangement: Arrangement, domain: str) -> dict[str, dict[str, SourceFile]]:
    if domain not in arrangement.trees:
        raise UserError(
            f"{tree.where} has no images of domain {domain}; put them into {domain}/, train{domain}/ or "
            f"{domain}/train/."
        )
    return {split: dict(_named(place)) for split, place in arrangement.trees[domain].items()}


def _pairs(
    split: str, files: Mapping[ImageRole, Mapping[str, SourceFile]]
) -> tuple[list[tuple[str, dict[ImageRole, SourceFile]]], list[LeftOut]]:
    """Pairs files with equal names; also returns the files that lack a partner."""
    pairs: list[tuple[str, dict[ImageRole, SourceFile]]] = []
    lonely: list[LeftOut] = []
    in_any_case = {role: {name.casefold(): name for name in found} for role, found in files.items()}
    where = "" if split == ALL else f" of the split {split}"
    for name in sorted({name for found in files.values() for name in found}):
        there: dict[ImageRole, SourceFile] = {role: found[name] for role, found in files.items() if name in found}
        if len(there) == len(files):
            pairs.append((name, there))
            continue
        missing = next(role for role in files if role not in there)
        similar = in_any_case[missing].get(name.casefold())
        but = f", but {similar!r}, which differs in upper and lower case" if similar else ""
        reason = f"no partner named {name!r} among the {missing.replace('_', ' ')} images{where}{but}"
        lonely.append(LeftOut(file=next(iter(there.values())).label, reason=reason))
    return pairs, lonely


# ----------------------------------------------------------------------------------------------------- splits, loaders


def _choose_splits(
    found: Mapping[str, list[tuple[str, Item]]], test_fraction: float
) -> tuple[dict[SplitName, list[tuple[str, Item]]], str]:
    """Divides named items into training and test items.

    Args:
        found: Split, as its folder is named or `ALL` -> named items.
        test_fraction: Share of the items to hold out if there is no folder of held-out items.

    Returns:
        Training and test items, and a description of the division for the provenance.
    """
    held_out = next((split for split in ("test", "val") if split in found), None)
    if held_out is not None:
        return {"train": found.get("train", []), "test": found[held_out]}, f"folders train and {held_out}"
    items = next(iter(found.values()))
    count = min(round(len(items) * test_fraction), len(items) - 1)
    if test_fraction > 0:  # scores need two
        count = max(min(HELD_OUT, len(items) - 1), count)
    by_digest = sorted((name for name, _ in items), key=lambda name: hashlib.sha256(name.encode()).digest())
    test_names = set(by_digest[:count])
    splits: dict[SplitName, list[tuple[str, Item]]] = {
        "train": [item for item in items if item[0] not in test_names],
        "test": [item for item in items if item[0] in test_names],
    }
    return splits, f"{test_fraction:g} of the images held out by digest of their names"


def _picture_reader(role: PictureRole, config: DatasetConfig) -> Reader:
    values = {"source": config.source_values, "target": config.target_values}[role]
    return read_picture if values is None else partial(read_raster, values=values, setting=f"dataset.{role}_values")


def _picture_list(role: PictureRole, named: Iterable[tuple[str, SourceFile]], config: DatasetConfig) -> SampleList:
    readers: dict[ImageRole, Reader] = {role: _picture_reader(role, config)}
    return SampleList((role,), [Sample(name, _files_loader({role: file}, readers)) for name, file in named])


def _files_loader(
    files: Mapping[ImageRole, SourceFile], readers: Mapping[ImageRole, Reader]
) -> Callable[[], dict[ImageRole, DecodedImage]]:
    def load() -> dict[ImageRole, DecodedImage]:
        images: dict[ImageRole, DecodedImage] = {role: readers[role](file) for role, file in files.items()}
        if len({image.size for image in images.values()}) > 1:
            (_, first), *others = (
                (files[role].label, f"{image.width}×{image.height}") for role, image in images.items()
            )
            partners = ", ".join(f"{label} {size}" for label, size in others)
            raise UnusableImageError(
                next(iter(files.values())).label, f"has size (width×height) {first}, but its partner is {partners}"
            )
        return images

    return load


def _combined_loader(file: SourceFile, *, config: DatasetConfig) -> Callable[[], dict[ImageRole, DecodedImage]]:
    """Returns what cuts an A|B image.

    Args:
        file: The image.
        config: Direction, and what the numbers mean. If it names the layout, the images may be as high as wide.
    """
    stated = config.source_values

    def load() -> dict[ImageRole, DecodedImage]:
        image = read_picture(file) if stated is None else decode_raster(file, channels=stated.channels)
        if image.width < 2:
            raise UnusableImageError(file.label, "is too narrow to hold two images")
        if image.width <= image.height and config.layout == "auto":
            raise UnusableImageError(
                file.label,
                f"is {image.width}×{image.height} (width×height), no wider than high, for two images side by side",
                "set dataset.layout: combined if each does show two images, or single if these are single pictures",
            )
        half_a, half_b = split_halves(image)
        halves: dict[PictureRole, DecodedImage] = {
            role_of("A", config.direction): half_a,
            role_of("B", config.direction): half_b,
        }
        loaded: dict[ImageRole, DecodedImage] = {}
        for role, half in halves.items():
            setting = f"dataset.{role}_values"
            is_raster = isinstance(half, Raster)
            loaded[role] = checked(half, file, values=config.values[role], setting=setting) if is_raster else half
        return loaded

    return load
