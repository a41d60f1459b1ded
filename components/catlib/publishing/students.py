"""Puts together the artifacts of each student that is published, by the digests in their manifests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.catlib.errors import UserError
from components.catlib.networks.architecture_files import OpenedNetworks, open_networks
from components.catlib.reporting.comparison import Comparison, compare_generators
from components.catlib.reporting.lineage import Artifact, Evaluated, Lineage, check_ancestors

KINDS = "distill|prune|teacher"
"""Artifacts with a generator that can be published."""


@dataclass(frozen=True)
class Student:
    """A generator to publish, and the artifacts about it; None for one that was not given.

    Attributes:
        networks: Its weights.
        exported: Its ONNX files.
        evaluation: Its scores.
        pruned: The architecture that it was trained from.
        dataset: The images that it was trained on.
        teacher: Its teacher.
    """

    networks: OpenedNetworks
    exported: Artifact | None
    evaluation: Artifact | None
    pruned: Artifact | None
    dataset: Artifact | None
    teacher: Artifact | None

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """The artifacts by kind; the weights by that of their stage."""
        own = Artifact(self.networks.folder, self.networks.manifest)
        given = {
            "dataset": self.dataset,
            "teacher": self.teacher,
            "prune": self.pruned,
            own.manifest.kind: own,
            "evaluate": self.evaluation,
            "export": self.exported,
        }
        return {kind: artifact for kind, artifact in given.items() if artifact is not None}

    @property
    def lineage(self) -> Lineage:
        """The artifacts as the report has them; no student without an evaluation."""
        own = Artifact(self.networks.folder, self.networks.manifest)
        students = [Evaluated(self.evaluation, own, self.pruned, self.exported)] if self.evaluation else []
        return Lineage(self.dataset, None, self.teacher, tuple(students))

    @property
    def comparison(self) -> Comparison | None:
        """The student beside its teacher; None without an evaluation."""
        return compare_generators(self.lineage) if self.evaluation else None


def gather(
    *,
    students: Sequence[Path],
    exports: Sequence[Path] = (),
    evaluations: Sequence[Path] = (),
    pruned: Sequence[Path] = (),
    dataset: Path | None = None,
    teacher: Path | None = None,
) -> list[Student]:
    """Puts artifacts together, in the order of the students.

    Args:
        students: Artifacts with weights, from the distill, prune or teacher stage.
        exports: Export artifacts.
        evaluations: Evaluate artifacts.
        pruned: Prune artifacts.
        dataset: The dataset artifact.
        teacher: The teacher artifact.

    Raises:
        UserError: A folder is not the expected artifact, belongs to none of the students, or a student was made from
            another dataset or teacher.
    """
    opened = {networks.manifest.digest(): networks for networks in (open_networks(each, KINDS) for each in students)}
    about = {kind: _about(folders, kind) for kind, folders in (("export", exports), ("evaluate", evaluations))}
    origins = {artifact.digest: artifact for artifact in (Artifact.read(each, "prune") for each in pruned)}
    for given in about.values():
        for student, artifact in given.items():
            if student not in opened:
                raise _belongs_to_none(artifact)
    named = {networks.manifest.inputs.get("student") for networks in opened.values()}
    for digest, artifact in origins.items():
        if digest not in named:
            raise _belongs_to_none(artifact)
    shared = {
        kind: Artifact.read(folder, kind) if folder else None
        for kind, folder in (("dataset", dataset), ("teacher", teacher))
    }
    found = []
    for digest, networks in opened.items():
        student = Student(
            networks,
            exported=about["export"].get(digest),
            evaluation=about["evaluate"].get(digest),
            pruned=origins.get(networks.manifest.inputs.get("student", "")),
            **shared,
        )
        check_ancestors(student.artifacts.values(), shared)
        found.append(student)
    return found


def _about(folders: Sequence[Path], kind: str) -> dict[str, Artifact]:
    """Reads artifacts that were made from a student; returns them by the student's digest."""
    found: dict[str, Artifact] = {}
    for folder in folders:
        artifact = Artifact.read(folder, kind)
        other = found.setdefault(artifact.manifest.inputs["student"], artifact)
        if other.digest != artifact.digest:
            raise UserError(f"{other.folder} and {folder} are about the same student; give one of them.")
    return found


def _belongs_to_none(artifact: Artifact) -> UserError:
    return UserError(
        f"The {artifact.manifest.kind} artifact {artifact.folder} belongs to none of the given students; also give its "
        "student, or leave it out."
    )
