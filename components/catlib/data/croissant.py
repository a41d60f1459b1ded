"""Reads which images belong together from a Croissant description (JSON-LD, mlcommons.org/croissant) of local files.

A record set with two fields of images makes pairs. The fields come

- from two file sets: partners have equal names, which are what the wildcards of `includes` stand for, without suffix
  and folders of splits; or what the regular expression of a text field finds in `filename` or `fullpath`;
- from two columns of one .csv or .jsonl file, which hold paths that count from the description; or
- from the record set's own `data`.

A field called `split` says the split; otherwise the folders of the images do. Nothing is downloaded: files behind
remote addresses must lie beside the description.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from components.catlib.data.descriptions import LARGEST_FILE, Description, Row, path_below, read_table, read_text
from components.catlib.data.files import FileTree, SourceFile, is_text_path
from components.catlib.data.layouts import meaning, split_of
from components.catlib.errors import UserError

Node = Mapping[str, Any]

_NAMES = ("filename", "fullpath", "filepath")
"""Properties of a file in which a regular expression may find the name of a sample."""


def is_croissant(path: PurePosixPath, file: SourceFile) -> bool:
    """Returns whether a file looks like a Croissant description; a file that cannot be read does not."""
    if path.suffix.lower() != ".json" or file.size > LARGEST_FILE:
        return False
    try:
        content = file.read()
    except OSError:
        return False
    return b"recordSet" in content and b"distribution" in content


def read_croissant(tree: FileTree, *, chosen: bool) -> Description | None:
    """Reads the Croissant description at the top of a source.

    Args:
        tree: The files of the source.
        chosen: Whether the recipe names this layout; otherwise a description without two fields of images counts as
            absent.

    Raises:
        UserError: It is damaged, names files that are not there, or paths that leave the source; or, if the layout is
            chosen, there is none.
    """
    found = {path: file for path, file in tree.texts.items() if len(path.parts) == 1 and is_croissant(path, file)}
    if not found:
        if chosen:
            raise UserError(f"{tree.where} holds no Croissant description (a .json file); correct dataset.layout.")
        return None
    if len(found) > 1:
        raise UserError(f"{tree.where} holds several Croissant descriptions ({', '.join(map(str, found))}); keep one.")
    ((path, file),) = found.items()
    try:
        content = _plain(json.loads(read_text(file)))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.label} is not JSON ({error}); repair it.") from error
    sets = [node for node in _list(content.get("recordSet")) if len(_image_fields(node)) > 1]
    if not sets and not chosen:
        return None
    if len(sets) != 1:
        raise UserError(
            f"{file.label} has {len(sets) or 'no'} record sets with two fields of images (sc:ImageObject), expected "
            "one; correct it, or dataset.layout."
        )
    return _Reading(tree, file, path, content, sets[0]).description()


def _plain(value: Any) -> Any:
    """Returns JSON-LD with the names of properties without their vocabularies: `cr:fileSet` becomes `fileSet`."""
    if isinstance(value, dict):
        return {re.split("[:/#]", key)[-1]: _plain(inner) for key, inner in value.items() if key != "@context"}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _id(node: Any) -> str:
    """Returns the identifier of a node, or that of a reference to one."""
    return str(node.get("@id") or node.get("name") or "") if isinstance(node, Mapping) else str(node or "")


def _name(field: Node) -> str:
    """Returns what a field is called within its record set."""
    return str(field.get("name") or _id(field)).rpartition("/")[2]


def _image_fields(record_set: Any) -> list[Node]:
    if not isinstance(record_set, Mapping):
        return []
    fields = [field for field in _list(record_set.get("field")) if isinstance(field, Mapping)]
    return [
        field for field in fields if any(str(kind).endswith("ImageObject") for kind in _list(field.get("dataType")))
    ]


class _Reading:
    """One description while it is read."""

    def __init__(self, tree: FileTree, file: SourceFile, path: PurePosixPath, content: Node, record_set: Node) -> None:
        self._tree, self._file, self._path, self._set = tree, file, path, record_set
        self._files: dict[str, Node] = {_id(node): node for node in _list(content.get("distribution"))}
        self._fields = [field for field in _list(record_set.get("field")) if isinstance(field, Mapping)]
        self._images = _image_fields(record_set)

    def description(self) -> Description:
        columns = [_name(field) for field in self._images]
        if len(set(columns)) < len(columns):
            raise self._wrong(f"has several fields called {columns[0]}", "give each a name of its own")
        sources = [field.get("source") or {} for field in self._images]
        if _list(self._set.get("data")):
            rows = list(self._of_records(_list(self._set["data"]), {_name(f): _name(f) for f in self._fields}))
        elif all(_id(source.get("fileSet")) for source in sources):
            rows = list(self._of_file_sets([_id(source["fileSet"]) for source in sources]))
        elif len({_id(source.get("fileObject")) for source in sources} - {""}) == 1:
            rows = list(self._of_table(_id(sources[0].get("fileObject"))))
        else:
            raise self._wrong(
                f"takes the fields {' and '.join(columns)} from other places than two file sets or one table",
                "describe them like that",
            )
        if not rows:
            raise self._wrong("describes no images", "complete it")
        return Description("croissant", str(self._path), columns, rows)

    def _wrong(self, what: str, advice: str) -> UserError:
        return UserError(f"{self._file.label}, record set {_id(self._set) or 'without a name'}: it {what}; {advice}.")

    # ----------------------------------------------------------------------------------------------------------- tables

    def _of_table(self, name: str) -> Iterator[Row]:
        node = self._files.get(name)
        if node is None:
            raise self._wrong(f"names the file {name}, which distribution does not describe", "describe it there")
        address = str(node.get("contentUrl") or name)
        local = address if not _is_remote(address) else address.rpartition("/")[2]
        path = path_below(local, PurePosixPath(), where=f"{self._file.label}, {name},")
        file = self._tree.texts.get(path)
        if file is None or not is_text_path(path):
            where = f", from {address}," if _is_remote(address) else ""
            raise self._wrong(
                f"names the table {path}, which is not there",
                f"put it{where} beside the description, as .csv or .jsonl",
            )
        columns = {}
        for field in self._fields:
            extract = (field.get("source") or {}).get("extract") or {}
            columns[_name(field)] = str(extract.get("column") or _name(field))
        yield from self._of_records(read_table(file), columns)

    def _of_records(self, records: Sequence[Any], columns: Mapping[str, str]) -> Iterator[Row]:
        """Yields the rows of records; `columns` gives each field's key in them."""
        for number, record in enumerate(records, 1):
            where = f"record {number} of {self._file.label}"
            if not isinstance(record, Mapping):
                raise self._wrong("holds a record that is no JSON object", "repair it")
            values = {re.split("[:/#]", str(key))[-1]: value for key, value in record.items()} | dict(record)
            images = {
                name: path_below(_address(values.get(columns[name])), PurePosixPath(), where=f"{where}, {name},")
                for name in map(_name, self._images)
            }
            yield Row(where, images, self._split(values.get(columns.get("split", "split")), where))

    def _split(self, value: Any, where: str) -> str | None:
        if value in (None, ""):
            return None
        split = meaning(str(value).rpartition("/")[2]).split
        if split is None:
            raise UserError(f"{where} has the split {value!r}, which is none; write train, validation or test.")
        return split

    # -------------------------------------------------------------------------------------------------------- file sets

    def _of_file_sets(self, names: Sequence[str]) -> Iterator[Row]:
        """Yields a row for every name among the files of file sets; one without a partner has fewer images."""
        if len(set(names)) < len(names):
            raise self._wrong(f"takes several images from the file set {names[0]}", "describe a file set for each")
        found: dict[tuple[str | None, str], dict[str, PurePosixPath]] = {}
        for field, name in zip(self._images, names, strict=True):
            for path, key, split in self._in_set(name):
                images = found.setdefault((split, key), {})
                if _name(field) in images:
                    raise self._wrong(
                        f"gives {images[_name(field)]} and {path} of the file set {name} the same name {key}",
                        "tell them apart by a regular expression or by includes",
                    )
                images[_name(field)] = path
        for (split, key), images in sorted(found.items(), key=lambda item: (item[0][0] or "", item[0][1])):
            yield Row(self._file.label, images, split, key)

    def _in_set(self, name: str) -> Iterator[tuple[PurePosixPath, str, str | None]]:
        """Yields path, name and split of every image of a file set."""
        node = self._files.get(name)
        if node is None:
            raise self._wrong(f"names the file set {name}, which distribution does not describe", "describe it there")
        patterns = [self._pattern(str(each), name) for each in _list(node.get("includes"))]
        excluded = [self._pattern(str(each), name) for each in _list(node.get("excludes"))]
        empty = True
        for path in self._tree.files:
            text = str(path)
            match = next((match for pattern in patterns if (match := pattern.fullmatch(text))), None)
            if match is None or any(pattern.fullmatch(text) for pattern in excluded):
                continue
            empty = False
            split = self._by_expression(name, path, wanted="split")
            yield path, self._key(name, path, match), self._split(split, str(path)) or split_of(path)
        if empty:
            remote = [
                address
                for holder in _list(node.get("containedIn"))
                if _is_remote(address := str((self._files.get(_id(holder)) or {}).get("contentUrl") or ""))
            ]
            advice = f"download {remote[0]} yourself into the source" if remote else "correct includes"
            includes = ", ".join(map(str, _list(node.get("includes"))))
            raise self._wrong(f"needs the file set {name} ({includes}), but no such image is there", advice)

    def _pattern(self, glob: str, name: str) -> re.Pattern[str]:
        """Returns what matches the paths of a glob pattern; every wildcard is a group."""
        path = path_below(glob, PurePosixPath(), where=f"{self._file.label}, file set {name},")
        parts = re.split(r"(\*\*/|\*+|\?|\[[^\]]+\])", str(path))
        groups = {"**/": "(.*/)?", "?": "(.)"}
        return re.compile(
            "".join(
                re.escape(part) if number % 2 == 0 else groups.get(part) or (f"({part})" if part[0] == "[" else "(.*)")
                for number, part in enumerate(parts)
            )
        )

    def _key(self, name: str, path: PurePosixPath, match: re.Match[str]) -> str:
        """Returns the name of a file's sample."""
        found = self._by_expression(name, path, wanted="")
        if found:
            return found
        parts = [part for group in match.groups() if group for part in group.split("/") if part]
        parts = [part for part in parts if meaning(part).split is None]
        if not parts:
            return path.stem
        ends = PurePosixPath(parts[-1])
        return "/".join([*parts[:-1], ends.stem if ends.suffix == path.suffix else parts[-1]])

    def _by_expression(self, name: str, path: PurePosixPath, *, wanted: str) -> str:
        """Returns what the regular expression of a text field finds in a path; "" if there is no such field.

        Args:
            name: The file set.
            path: The path.
            wanted: Name of the field; "": any but that of the split.
        """
        for field in self._fields:
            source = field.get("source") or {}
            where = (source.get("extract") or {}).get("fileProperty")
            if field in self._images or _id(source.get("fileSet")) != name or where not in _NAMES:
                continue
            if (_name(field) == "split") != (wanted == "split"):
                continue
            for transform in _list(source.get("transform")):
                expression = transform.get("regex") if isinstance(transform, Mapping) else None
                try:
                    match = expression and re.search(expression, path.name if where == "filename" else str(path))
                except re.error as error:
                    raise self._wrong(f"has a regular expression that is none ({error})", "correct it") from error
                if match:
                    return match[1] if match.groups() else match[0]
        return ""


def _address(value: Any) -> Any:
    """Returns the path that a record holds for an image, which may be an object with an address."""
    return value.get("contentUrl") or value.get("@id") if isinstance(value, Mapping) else value


def _is_remote(address: str) -> bool:
    return re.match(r"[A-Za-z][\w+.-]*://", address) is not None
