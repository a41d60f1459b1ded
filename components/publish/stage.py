"""The publish stage: adds students, with model cards, as versions to where people fetch models."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.catlib.artifacts import TEACHER_FILE, read_manifest, writing
from components.catlib.config import PublishConfig, validate
from components.catlib.disk import temporary_folder
from components.catlib.errors import UserError
from components.catlib.networks.architecture_files import ARCHITECTURE_FILE, generator_file
from components.catlib.publishing.card import as_markdown, model_card
from components.catlib.publishing.layouts import Content, write_layout
from components.catlib.publishing.students import Student, gather
from components.catlib.publishing.versions import DIGITS, add_version, content_digest
from components.catlib.reporting.comparison import folder_names
from components.catlib.storage import open_store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """A published student.

    Attributes:
        address: Where it lies.
        version: Its version.
        added: Whether it is new; False if the same content was there.
        card: The model card as Markdown.
    """

    address: str
    version: str
    added: bool
    card: str


def run(
    config: PublishConfig,
    *,
    students: Sequence[Path],
    output: str | Path,
    exports: Sequence[Path],
    evaluations: Sequence[Path] = (),
    pruned: Sequence[Path] = (),
    dataset: Path | None = None,
    teacher: Path | None = None,
    layout: str | None = None,
    version: str | None = None,
) -> list[Version]:
    """Adds every student as a version: `OUTPUT/VERSION/`, whole or not at all.

    Args:
        config: Name, version, layout and licence.
        students: Artifacts with weights, from the distill, prune or teacher stage.
        output: The model's place, a folder or `s3://BUCKET/NAME`.
        exports: Their export artifacts, one per student.
        evaluations: Their evaluate artifacts.
        pruned: Their prune artifacts.
        dataset: The dataset artifact.
        teacher: The teacher artifact.
        layout: Replaces that of `config`.
        version: Replaces that of `config`.

    Returns:
        The versions, in the order of the students.

    Raises:
        UserError: A name is impossible, artifacts do not belong together, or a version exists with other content.
        Unavailable: The store is away; the same call completes what was begun.
    """
    replaced = {"to": str(output), "layout": layout, "version": version}
    given = {name: value for name, value in replaced.items() if value is not None}
    config = validate(PublishConfig, config.model_dump(mode="json") | given, where="publish")
    place = str(output).rstrip("/")
    found = gather(
        students=students, exports=exports, evaluations=evaluations, pruned=pruned, dataset=dataset, teacher=teacher
    )
    labels = folder_names([student.pruned for student in found]) if len(found) > 1 else [""]
    open_store(place)
    return [_publish(student, config, place, label) for student, label in zip(found, labels, strict=True)]


def _publish(student: Student, config: PublishConfig, place: str, label: str) -> Version:
    name, version = config.model_name, config.version
    assert name is not None, "the address names the model"
    if version is not None and label:
        version = f"{version}-{re.sub(r'[^A-Za-z0-9._-]', '', label)}"
    inputs = {kind: artifact.manifest for kind, artifact in student.artifacts.items()}
    with temporary_folder("publish-") as scratch:
        content = _content(student, name=name, version=version, licence=config.licence)
        made = scratch / "made"
        with writing(made, kind="publish", config=config, inputs=inputs) as writer:
            write_layout(config.layout, content, writer.folder)
            writer.summary |= {"name": name, "layout": config.layout}
        version = version or content_digest(read_manifest(made))[:DIGITS]
        store = open_store(f"{place}/{version}")
        added = add_version(made, store)
    logger.info("%s %s", store.address, "published" if added else "exists with the same content; nothing to do")
    return Version(store.address, version, added, as_markdown(content.card, {}))


def _content(student: Student, *, name: str, version: str | None, licence: str | None) -> Content:
    networks = student.networks
    weights = generator_file(networks.folder, networks.direction)
    if not weights.is_file():
        raise UserError(f"{networks.folder} holds no weights, only an architecture; give the output of distill.")
    facts = {ARCHITECTURE_FILE: networks.folder / ARCHITECTURE_FILE}
    exported = student.exported
    if exported is None:
        raise UserError(f"No export artifact was made from {networks.folder}; also give the output of export.")
    export = exported.read_json("export.json")
    written = sorted(name for name in exported.manifest.files if name.endswith(".onnx") and name != TEACHER_FILE)
    files = {name: exported.folder / name for name in written}
    facts["export.json"] = exported.folder / "export.json"
    if student.evaluation is not None:
        facts["metrics.json"] = student.evaluation.folder / "metrics.json"
    card: Mapping[str, Any] = model_card(student, name=name, licence=licence, export=export)
    return Content(dict(card), files, export["file"], weights, facts, version)
