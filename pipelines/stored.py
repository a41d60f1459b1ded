"""What lies below an address of an object store, to measure and to collect it.

Only known layouts are collected, each whole: places of checkpoints, and artifacts with what their manifests name. Other
objects stay. So do runs of Kubeflow: its cache would go on answering with artifacts that are gone.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence

from components.catlib.artifacts import MANIFEST, Manifest
from components.catlib.storage import Entry, NotThere, Store
from components.catlib.storage.objects import S3Store
from components.catlib.storage.parallel import in_parallel
from pipelines.collectable import CHECKPOINT_FILE, REFUSAL_FILE, InUse, Made, Thing, last_uses, stays

_KUBEFLOW_RUN = re.compile(r"(?:.+/)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?=/)")
"""The folder of a run of Kubeflow: ROOT/PIPELINE/RUN, where RUN is a UUID."""
_NEW_FOLDER = re.compile(r"\.\d{8}T\d{6}-[0-9a-f]{8}/")
"""Folder of the files with which an artifact was replaced; see `storage.published`."""


def things_in_store(store: Store) -> list[Thing]:
    """Measures everything below a store's address.

    Raises:
        UserError: The store cannot be reached or refuses.
    """
    entries = store.entries()
    of_kubeflow: dict[str, list[Entry]] = {}
    folders: dict[str, list[Entry]] = {}
    things: list[Thing] = []
    for entry in entries:
        if run := _KUBEFLOW_RUN.match(entry.name):
            of_kubeflow.setdefault(run[0], []).append(entry)
        elif REFUSAL_FILE.fullmatch(entry.name):
            remove = functools.partial(_remove, store, "", [entry], first=".json")
            things.append(_thing("refusals", store, entry.name, [entry], remove))
        else:
            folders.setdefault(entry.name.rpartition("/")[0], []).append(entry)
    things += [
        _thing("runs of Kubeflow", store, run, found, stays, "Kubeflow's cache would still answer with their artifacts")
        for run, found in of_kubeflow.items()
    ]
    for folder, found in folders.items():
        if all(CHECKPOINT_FILE.fullmatch(_last(entry.name)) for entry in found):
            remove = functools.partial(_remove, store, folder, found, first=".json")
            things.append(_thing("checkpoints", store, folder, found, remove))
    manifests = [entry for found in folders.values() for entry in found if _last(entry.name) == MANIFEST]
    things += _artifacts(store, manifests, [entry for found in folders.values() for entry in found])
    known = sum(thing.bytes for thing in things)
    rest = sum(entry.bytes for entry in entries) - known
    if rest:
        newest = max(entry.modified for entry in entries)
        things.append(Thing("other", store.address, rest, newest, stays, "not made by this project"))
    if isinstance(store, S3Store):
        things += [
            Thing(
                "unfinished uploads",
                f"{store.address}/{upload.name}",
                upload.bytes,
                upload.modified,
                functools.partial(store.abort_upload, upload),
            )
            for upload in store.unfinished_uploads()
        ]
    return things


def _artifacts(store: Store, manifests: Sequence[Entry], entries: Sequence[Entry]) -> Iterator[Thing]:
    """Yields the artifacts, each as old as the newest of what was made from it."""
    read = _read(store, manifests)
    members: dict[str, list[Entry]] = {folder: [] for folder in read}
    for entry in entries:
        folder = _holder(entry.name, members)
        if folder is not None and _belongs(entry.name.removeprefix(f"{folder}/"), read[folder]):
            members[folder].append(entry)
    made = {
        folder: Made(manifest.digest(), frozenset(manifest.inputs.values()), max(e.modified for e in members[folder]))
        for folder, manifest in read.items()
    }
    uses = last_uses(made.values())
    for folder, found in members.items():
        remove = functools.partial(_remove, store, folder, found, first=MANIFEST)
        yield _thing("artifacts", store, folder, found, remove, used=uses[made[folder].digest])


def _read(store: Store, entries: Sequence[Entry]) -> dict[str, Manifest]:
    """Returns the manifests among files of that name, by folder."""
    found: dict[str, Manifest] = {}
    noting = threading.Lock()

    def read(entry: Entry) -> None:
        try:
            fields = json.loads(store.read(entry.name))
            fields.pop("store", None)  # where the files of an artifact lie that was replaced
            manifest = Manifest.model_validate(fields)
        except (NotThere, ValueError, AttributeError):
            return
        with noting:
            found[entry.name.rpartition("/")[0]] = manifest

    in_parallel(functools.partial(read, entry) for entry in entries)
    return found


def _holder(name: str, artifacts: dict[str, list[Entry]]) -> str | None:
    """Returns the innermost artifact that a file lies in."""
    folders = [name]
    while folders[-1]:
        folders.append(folders[-1].rpartition("/")[0])
    return next((folder for folder in folders[1:] if folder in artifacts), None)


def _belongs(name: str, manifest: Manifest) -> bool:
    return name == MANIFEST or name in manifest.files or _NEW_FOLDER.match(name) is not None


def _remove(store: Store, folder: str, measured: Sequence[Entry], *, first: str) -> None:
    """Removes files, unless one has changed; those whose names end in `first` before the others.

    What is left after a kill is then no whole checkpoint and no artifact, and the next collection removes it if no
    other file has come.
    """
    for entry in measured:
        if store.entry(entry.name) != entry:
            raise InUse("it has changed since it was measured")
    for is_first in (True, False):
        chosen = [entry.name for entry in measured if entry.name.endswith(first) is is_first]
        in_parallel(functools.partial(store.remove, name) for name in chosen)


def _thing(
    kind: str,
    store: Store,
    folder: str,
    entries: Sequence[Entry],
    remove: Callable[[], None],
    kept: str = "",
    *,
    used: float = 0.0,
) -> Thing:
    size, newest = sum(entry.bytes for entry in entries), max(entry.modified for entry in entries)
    return Thing(kind, f"{store.address}/{folder}".rstrip("/"), size, max(newest, used), remove, kept)


def _last(name: str) -> str:
    return name.rpartition("/")[2]
