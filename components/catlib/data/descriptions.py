"""Reads which images belong together from a file beside them: `metadata.csv` or `metadata.jsonl`, or Croissant.

Hugging Face's *imagefolder* has a `metadata` file in a folder of images or above several. A row of it describes one
sample; the columns `file_name` and those that end in `_file_name` hold paths of images, which count from its folder:

    file_name,target_file_name
    input/0001.png,target/0001.png

Two such columns make pairs. Their names say which is A, as those of folders do (`layouts.py`). The split of a row is
that of its images' folders. `croissant.py` reads the other kind of description into the same rows.
"""

from __future__ import annotations

import collections
import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple, NoReturn

from components.catlib.data.files import FileTree, SourceFile, as_text
from components.catlib.data.layouts import ALL, INSTANCES, Arrangement, Layout, LeftOver, meaning, rank, split_of
from components.catlib.errors import UserError

LARGEST_FILE = 2**26
"""Size of the largest description that is read, in bytes: 64 MiB."""

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Names of the files of an imagefolder, in lower case."""

FILE_NAME = "file_name"

OTHERWISE = "or set dataset.layout if the folders say enough."
"""What to do about a description that cannot be read."""

_FIRST = {"condition", "conditioning", "original"}
_SECOND = {"edited", "translated", "ground_truth", "gt"}
"""Further names of image columns that say which one is A, beside those of folders."""

Record = Mapping[str, Any]


class Row(NamedTuple):
    """A row of a description.

    Attributes:
        where: Its place, for messages.
        images: Column -> path of the image below the source.
        split: "train", "val" or "test" if the description says so.
        name: Name of the sample; "": that of its first image.
    """

    where: str
    images: Mapping[str, PurePosixPath]
    split: str | None = None
    name: str = ""


class Description(NamedTuple):
    """A file that says which images belong together.

    Attributes:
        layout: Imagefolder or Croissant.
        file: Its name.
        columns: The columns of images.
        rows: Its rows.
    """

    layout: Layout
    file: str
    columns: Sequence[str]
    rows: Sequence[Row]


def read_metadata(tree: FileTree, *, chosen: bool) -> Description | None:
    """Reads the `metadata` files of an imagefolder.

    Args:
        tree: The files of the source.
        chosen: Whether the recipe names this layout; otherwise files without two columns of images count as absent.

    Raises:
        UserError: A file cannot be read or names paths outside the source; or, if the layout is chosen, there is none.
    """
    files = {path: file for path, file in tree.texts.items() if path.name.lower() in METADATA}
    folders = collections.Counter(path.parent for path in files)
    tables = {path: read_table(file) for path, file in files.items()}
    found = {
        path: tuple(dict.fromkeys(name for row in rows for name in row if _is_image(name)))
        for path, rows in tables.items()
    }
    of_images = {path: columns for path, columns in found.items() if len(columns) > 1}
    if not of_images:
        if not chosen:
            return None
        if not files:
            raise UserError(f"{tree.where} holds no {' or '.join(METADATA[:2])}; write one, or correct dataset.layout.")
        path, columns = next(iter(found.items()))
        raise UserError(
            f"{files[path].label} has {'the image column ' + columns[0] if columns else 'no image column'}, but pairs "
            "need two, such as file_name and target_file_name; add one, or correct dataset.layout."
        )
    first, columns = next(iter(of_images.items()))
    for path, others in of_images.items():
        if folders[path.parent] > 1:
            raise UserError(f"{tree.where} has several metadata files in {path.parent}/; keep one of them.")
        if set(others) != set(columns):
            raise UserError(
                f"{files[path].label} has the image columns {', '.join(others)}, but {files[first].label} has "
                f"{', '.join(columns)}; give both the same ones."
            )
    rows = [row for path in of_images for row in _rows(files[path], tables[path], columns, path.parent)]
    return Description("imagefolder", first.name, columns, rows)


def _is_image(column: str) -> bool:
    return column == FILE_NAME or column.endswith(f"_{FILE_NAME}")


def _rows(file: SourceFile, records: Sequence[Record], columns: Sequence[str], folder: PurePosixPath) -> Iterable[Row]:
    for number, record in enumerate(records, 1):
        where = f"row {number} of {file.label}"
        yield Row(where, {name: path_below(record.get(name), folder, where=f"{where}, {name},") for name in columns})


def read_table(file: SourceFile) -> list[Record]:
    """Reads the rows of a .csv, .jsonl or .json file.

    Raises:
        UserError: It is a Parquet file, too large, damaged, or no table.
    """
    suffix = PurePosixPath(file.label).suffix.lower()
    if suffix == ".parquet":
        stem = file.label.removesuffix(suffix)
        raise UserError(
            f'{file.label} is a Parquet file, which is not read here; convert it with python -c "import pandas; '
            f"pandas.read_parquet('{file.label}').to_csv('{stem}.csv', index=False)\" and move it away, "
            f"{OTHERWISE}"
        )
    text = read_text(file)
    if suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        if any(";" in name or "\t" in name for name in reader.fieldnames or ()):
            raise UserError(f"{file.label} does not separate its columns by commas; repair it, {OTHERWISE}")
        try:
            return [{name: value for name, value in row.items() if name is not None} for row in reader]
        except csv.Error as error:
            raise UserError(
                f"{file.label} is not a table of comma-separated values ({error}); repair it, {OTHERWISE}"
            ) from error
    lines = text.splitlines() if suffix == ".jsonl" else [text]
    try:
        found = [json.loads(line) for line in lines if line.strip()]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.label} is not JSON ({error}); repair it, {OTHERWISE}") from error
    records = found[0] if suffix == ".json" and found and isinstance(found[0], list) else found
    if not all(isinstance(record, dict) for record in records):
        raise UserError(f"{file.label} holds something else than one JSON object per row; repair it, {OTHERWISE}")
    return records


def read_text(file: SourceFile) -> str:
    """Returns the content of a text file in UTF-8.

    Raises:
        UserError: It is too large, cannot be read or is not in UTF-8.
    """
    if file.size > LARGEST_FILE:
        raise UserError(f"{file.label} has {file.size} bytes, more than the limit of {LARGEST_FILE}; shorten it.")
    try:
        return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file.label} is not text in UTF-8 ({error.reason}); save it as UTF-8, {OTHERWISE}") from error
    except OSError as error:
        raise UserError(f"{file.label} cannot be read ({error.strerror}); correct that.") from error


def path_below(value: Any, folder: PurePosixPath, *, where: str) -> PurePosixPath:
    """Returns the path of a file that a description names.

    Args:
        value: What it says.
        folder: Folder below the source that the path counts from.
        where: Place in the description, for messages.

    Raises:
        UserError: It is no path, an address of the web, or a path that leaves the source.
    """
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} names no image; complete it or remove the row.")
    if re.match(r"[A-Za-z][\w+.-]*://", value):
        raise UserError(
            f"{where} names the address {value}, but nothing is downloaded; put the file beside the description and "
            "name its path."
        )
    path = folder / as_text(value.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", value):
        raise UserError(f"{where} names {value}, which leaves the source; name a path below the description.")
    return path


# ------------------------------------------------------------------------------------------------------------ arranging


def arrange_rows(tree: FileTree, description: Description, *, labels: bool) -> Arrangement:
    """Finds the place of every image that a description names; the others are left over.

    Args:
        tree: The files of the source.
        description: Which images belong together.
        labels: Whether the source images are label maps.

    Raises:
        UserError: The columns do not say which is A, or a row's images lie in several splits.
    """
    columns = _domains(tree, description, labels=labels)
    rows = [(row, _split(row)) for row in description.rows]
    splits = {split for _, split in rows}
    if None in splits and len(splits) > 1:
        row = next(row for row, split in rows if split is None)
        others = " and ".join(sorted(filter(None, splits)))
        raise UserError(
            f"{row.where} names images of no split, but other rows name images of {others}; "
            "move all images into folders of splits."
        )
    trees: dict[str, dict[str, dict[PurePosixPath, SourceFile]]] = {domain: {} for domain in columns}
    left: collections.Counter[tuple[str, str, bool]] = collections.Counter()
    used: set[PurePosixPath] = set()
    names = _names(rows, next(iter(columns.values())))
    for (row, split), name in zip(rows, names, strict=True):
        used.update(row.images.values())
        for domain, column in columns.items():
            if column in row.images:
                path = row.images[column]
                file = tree.files.get(path) or _missing(tree, path, row)
                trees[domain].setdefault(split or ALL, {})[PurePosixPath(f"{name}.image")] = file
        if split == "val" and "test" in splits:
            left[
                str(row.images.get(columns["A"], PurePosixPath()).parent), "the test images are held out instead", True
            ] += 1
    for path in tree.files:
        if path not in used:
            left[str(path.parent), f"{description.file} does not name them", False] += 1
    return Arrangement(
        description.layout,
        {
            domain: {split: FileTree(tree.where, files) for split, files in sorted(found.items(), key=_training_first)}
            for domain, found in trees.items()
            if found
        },
        {domain: column for domain, column in columns.items() if domain != INSTANCES},
        tuple(LeftOver(folder, count, reason, expected) for (folder, reason, expected), count in left.items()),
    )


def _training_first(item: tuple[str, Any]) -> bool:
    return item[0] != "train"


def _names(rows: Sequence[tuple[Row, str | None]], column: str) -> list[str]:
    """Returns the name of every row's sample: the path of its first image without folders of splits."""
    found = []
    for row, split in rows:
        path = row.images.get(column) or next(iter(row.images.values()))
        parts = [part for part in path.parts if meaning(part).split is None]
        found.append((row.name or PurePosixPath(*parts).with_suffix("").as_posix(), split))
    uses = collections.Counter(found)
    return [name if uses[name, split] == 1 else f"{name}#{number}" for number, (name, split) in enumerate(found, 1)]


def _split(row: Row) -> str | None:
    """Returns the split of a row: the one it says, or that of its images' folders."""
    if row.split is not None:
        return row.split
    splits = {split_of(path) for path in row.images.values()}
    if len(splits) > 1:
        raise UserError(
            f"{row.where} names images of different splits ({', '.join(map(str, row.images.values()))}); name images "
            "of one split."
        )
    return splits.pop()


def _domains(tree: FileTree, description: Description, *, labels: bool) -> dict[str, str]:
    """Returns the column of each domain, A first."""
    stems = {column: _stem(column) for column in description.columns}
    instances = [column for column, stem in stems.items() if labels and stem.startswith("inst")]
    ranked = sorted((_rank(stem), stem, column) for column, stem in stems.items() if column not in instances)
    first = [column for position, _, column in ranked if position == 0]
    second = [column for position, _, column in ranked if position == 2]
    if len(ranked) == 2:
        pair = [column for _, _, column in ranked]
    elif len(first) == len(second) == 1:
        pair = [*first, *second]
    else:
        raise UserError(
            f"{tree.where}/{description.file} names images in {len(ranked)} columns "
            f"({', '.join(description.columns)}); keep two, or call them input and target."
        )
    return dict(zip(("A", "B", INSTANCES), [*pair, *instances[:1]], strict=False))


def _stem(column: str) -> str:
    """Returns what the name of a column says: `target` of `target_file_name`, `conditioning` of `conditioning_image`.

    It is in lower case; a column `image` or `file_name` says nothing.
    """
    words = re.sub(r"[\s.-]+", "_", column.lower()).removesuffix(FILE_NAME)
    return re.sub(r"(^|_)(image|img|picture)s?(?=_|$)", "", words).strip("_")


def _rank(stem: str) -> int:
    return 0 if stem in _FIRST else 2 if stem in _SECOND else rank(stem)


def _missing(tree: FileTree, path: PurePosixPath, row: Row) -> SourceFile:
    return SourceFile(f"{tree.where}/{path}", 0, partial(_not_there, row.where))


def _not_there(where: str) -> NoReturn:
    raise FileNotFoundError(2, f"{where} names this image, but there is no such image")
