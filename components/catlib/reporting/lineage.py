"""Traces which artifact was made from which, by the digests in the manifests.

Kubeflow hands over the artifacts of parallel students in no promised order, so position means nothing. Every manifest
names the digests of the artifacts it was made from; following them backwards from an evaluation gives

    evaluation → distilled student → pruned architecture → teacher → dataset, statistics of real images
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from components.catlib.artifacts import Manifest, read_manifest
from components.catlib.errors import UserError
from components.catlib.reporting.formatting import setting_text


@dataclass(frozen=True)
class Artifact:
    """An artifact folder and its manifest."""

    folder: Path
    manifest: Manifest

    @classmethod
    def read(cls, folder: Path, kind: str) -> Artifact:
        """Reads the manifest of a folder and checks its kind (UserError)."""
        return cls(folder, read_manifest(folder, kind))

    def read_json(self, name: str) -> Any:
        """Reads one of its JSON files."""
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def log(self) -> list[dict[str, Any]]:
        """Reads the records of a training's log; a network that was not trained has none."""
        if "log.jsonl" not in self.manifest.files:
            return []
        return [json.loads(line) for line in (self.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]

    @cached_property
    def digest(self) -> str:
        """Digest of the whole artifact, by which its descendants name it."""
        return self.manifest.digest()


def varied_settings(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the settings that differ between several sections of a recipe, in their order, the seed last.

    A setting within a section is named by its path, such as "distiller.weight". If kinds differ, a setting that
    only one kind has does not count as a difference.
    """
    return sorted(dict.fromkeys(_varied(configs)), key="seed".__eq__)


def _varied(values: Sequence[Any], path: str = "") -> Iterator[str]:
    if not all(isinstance(value, dict) for value in values):
        if any(value != values[0] for value in values):
            yield path
        return
    kinds = dict.fromkeys(value.get("kind") for value in values)
    if len(kinds) > 1:
        yield _joined(path, "kind")
    for kind in kinds:
        alike = [value for value in values if value.get("kind") == kind]
        for key in dict.fromkeys(key for value in alike for key in value):
            yield from _varied([value.get(key) for value in alike], _joined(path, key))


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def settings_of(trained: Artifact | None, pruned: Artifact | None) -> dict[str, Any]:
    """Returns the settings that a student was made with: those of its training, and as `prune` those of pruning."""
    settings = dict(trained.manifest.config) if trained else {}
    return settings | ({"prune": pruned.manifest.config} if trained and pruned else {})


def setting_texts(config: dict[str, Any], paths: Sequence[str]) -> list[str]:
    """Writes the settings at some paths (from `varied_settings`) that a section has, in few words each."""
    values = {path: _at(config, path) for path in paths}
    return [setting_text(path, value) for path, value in values.items() if value is not None]


def _at(config: Any, path: str) -> Any:
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config


@dataclass(frozen=True)
class Evaluated:
    """An evaluation and the artifacts of its generator; None for an artifact that was not given.

    Attributes:
        evaluation: Its scores.
        trained: The weights that were evaluated: a distill artifact, or a teacher.
        pruned: The architecture that it was trained from.
        exported: Its ONNX file.
    """

    evaluation: Artifact
    trained: Artifact | None
    pruned: Artifact | None = None
    exported: Artifact | None = None

    @property
    def artifacts(self) -> list[Artifact]:
        """Those that were given, ancestors first."""
        return [each for each in (self.pruned, self.trained, self.evaluation, self.exported) if each]


@dataclass(frozen=True)
class Lineage:
    """The artifacts of a run; None for one that was not given.

    Attributes:
        dataset: Packed images.
        real_stats: Statistics of real images.
        teacher: The teacher.
        students: The students, from most to fewest MACs.
    """

    dataset: Artifact | None
    real_stats: Artifact | None
    teacher: Artifact | None
    students: tuple[Evaluated, ...]

    def artifacts(self) -> list[Artifact]:
        """Returns every artifact once, ancestors first."""
        shared = [artifact for artifact in (self.dataset, self.real_stats, self.teacher) if artifact]
        given = itertools.chain(shared, *(student.artifacts for student in self.students))
        return list({artifact.digest: artifact for artifact in given}.values())


def trace(
    *,
    evaluations: Sequence[Path],
    dataset: Path | None = None,
    real_stats: Path | None = None,
    teacher: Path | None = None,
    students: Sequence[Path] = (),
    distilled: Sequence[Path] = (),
    exports: Sequence[Path] = (),
) -> Lineage:
    """Puts artifacts together by their digests.

    Args:
        evaluations: At least one.
        dataset: Packed images.
        real_stats: Statistics of real images.
        teacher: The teacher.
        students: Prune artifacts.
        distilled: Distill artifacts.
        exports: Export artifacts.

    Raises:
        UserError: A folder is not the expected artifact, or artifacts do not belong together; both are named.
    """
    single = {
        name: Artifact.read(folder, name) if folder else None
        for name, folder in (("dataset", dataset), ("real_stats", real_stats), ("teacher", teacher))
    }
    trained = _by_digest(distilled, "distill")
    if single["teacher"]:
        trained[single["teacher"].digest] = single["teacher"]
    pruned = _by_digest(students, "prune")
    exported = _by_student(_by_digest(exports, "export"))
    found = []
    for evaluation in _by_digest(evaluations, "evaluate").values():
        evaluated = evaluation.manifest.inputs["student"]
        weights = trained.get(evaluated)
        if weights is None and (distilled or students):
            raise UserError(
                f"The evaluation {evaluation.folder} is of a student that was not given; give --distilled with the "
                "distill artifact that it evaluated, or leave the other artifacts out."
            )
        origin = weights.manifest.inputs.get("student") if weights else None
        if origin and pruned and origin not in pruned:
            raise UserError(
                f"The student {weights and weights.folder} was trained from a pruned architecture that was not given; "
                "give --student with the prune artifact that it was trained from."
            )
        found.append(Evaluated(evaluation, weights, pruned.get(origin or ""), exported.get(evaluated)))
    if not found:
        raise UserError(
            "A report needs at least one evaluation; give --evaluation with an output of the evaluate stage."
        )
    lineage = Lineage(**single, students=tuple(_ordered(found)))
    used = {artifact.digest for artifact in lineage.artifacts()}
    for artifact in (*trained.values(), *pruned.values(), *exported.values()):
        if artifact.digest not in used:
            raise UserError(
                f"The {artifact.manifest.kind} artifact {artifact.folder} belongs to none of the given evaluations; "
                "also give the evaluation of its student, or leave it out."
            )
    check_ancestors(lineage.artifacts(), single)
    return lineage


def _ordered(students: Sequence[Evaluated]) -> list[Evaluated]:
    """Orders students by MACs, largest first; equal ones by how they were trained."""
    varied = varied_settings([settings_of(student.trained, student.pruned) for student in students])

    def key(student: Evaluated) -> tuple[int, list[str], str]:
        macs: int = student.evaluation.read_json("metrics.json")["student"]["paper_macs"]
        settings = settings_of(student.trained, student.pruned)
        return -macs, setting_texts(settings, varied), student.evaluation.digest

    return sorted(students, key=key)


def _by_digest(folders: Sequence[Path], kind: str) -> dict[str, Artifact]:
    """Reads artifacts; one that is given twice counts once."""
    artifacts = [Artifact.read(folder, kind) for folder in folders]
    return {artifact.digest: artifact for artifact in artifacts}


def _by_student(exports: dict[str, Artifact]) -> dict[str, Artifact]:
    by_student: dict[str, Artifact] = {}
    for artifact in exports.values():
        other = by_student.setdefault(artifact.manifest.inputs["student"], artifact)
        if other is not artifact:
            raise UserError(f"{other.folder} and {artifact.folder} are exports of the same student; give one of them.")
    return by_student


def check_ancestors(artifacts: Iterable[Artifact], ancestors: Mapping[str, Artifact | None]) -> None:
    """Refuses artifacts that were made from another dataset, teacher or statistics than the given ones (UserError)."""
    for artifact in artifacts:
        for name, ancestor in ancestors.items():
            origin = artifact.manifest.inputs.get(name)
            if ancestor and origin and origin != ancestor.digest:
                raise UserError(
                    f"{artifact.folder} was made from another {name} artifact than {ancestor.folder}; give the one it "
                    "was made from, or leave it out."
                )
