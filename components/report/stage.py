"""The report stage: shows a run on one page and collects its deliverables in one folder."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.catlib.artifacts import TEACHER_FILE, read_manifest, writing
from components.catlib.config import ReportConfig
from components.catlib.disk import temporary_folder
from components.catlib.publishing.tracking import track
from components.catlib.reporting.comparison import Comparison, Contender, Together, compare_generators, folder_names
from components.catlib.reporting.lineage import Artifact, Lineage, trace
from components.catlib.reporting.page import render
from components.catlib.reporting.standings import standings
from components.catlib.storage import Storage
from components.catlib.timing import busy, cpu_name, ratio

logger = logging.getLogger(__name__)

PAGE = "report.html"
THREADS = 1
"""CPU threads that ONNX files are timed with: as in tables of latency, and no more than the task has cores."""

DELIVERED = {
    "evaluate": ("metrics.json",),
    "export": ("model.*", "export.json"),
    "distill": ("architecture.json", "generator_*.safetensors"),
}
"""Files of a student that go into its folder, by the kind of artifact that holds them."""


def run(
    config: ReportConfig,
    *,
    evaluations: Sequence[Path],
    output: Path,
    dataset: Path | None = None,
    real_stats: Path | None = None,
    teacher: Path | None = None,
    students: Sequence[Path] = (),
    distilled: Sequence[Path] = (),
    exports: Sequence[Path] = (),
    earlier: Sequence[Path] = (),
) -> None:
    """Writes the page and collects every student's deliverables.

    The artifacts may come in any order; they are put together by the digests in their manifests. Sections of the page
    whose artifacts were not given are left out.

    Args:
        config: Heading and description of the page, and the registry that records the students.
        evaluations: Evaluate artifacts, at least one.
        output: Where the artifact goes: `report.html`, `students/<budget>/` with metrics, ONNX file and weights;
            for several ONNX files `latency.json`, their times, measured here in turn; and, for the reports of later
            sweeps, `standings.json` and `standings/` with the figures and pictures of these and earlier students.
        dataset: The dataset artifact.
        real_stats: The real_stats artifact.
        teacher: The teacher artifact.
        students: Prune artifacts.
        distilled: Distill artifacts.
        exports: Export artifacts.
        earlier: Report artifacts of earlier sweeps with the same images and teacher, whose students are compared with
            these.

    Raises:
        UserError: A folder is not the expected artifact, artifacts do not belong together, or the configured MLflow
            server cannot be reached.
    """
    lineage = trace(
        evaluations=evaluations,
        dataset=dataset,
        real_stats=real_stats,
        teacher=teacher,
        students=students,
        distilled=distilled,
        exports=exports,
    )
    together = _time_together(lineage)
    comparison = compare_generators(lineage, together=together)
    folders = folder_names([student.pruned for student in comparison.students])
    compared = standings(comparison, earlier)
    page = render(config, lineage, comparison, compared)
    inputs = {name: artifact.manifest for name, artifact in _named(lineage, comparison, folders).items()}
    inputs |= {f"earlier {number}": read_manifest(folder) for number, folder in enumerate(earlier, start=1)}
    with writing(output, kind="report", config=config, inputs=inputs) as writer:
        (writer.folder / PAGE).write_text(page, encoding="utf-8")
        for student, name in zip(comparison.students, folders, strict=True):
            _deliver(student, writer.folder / "students" / name)
        writer.summary["students"] = dict(zip(folders, (student.name for student in comparison.students), strict=True))
        if compared is not None:
            compared.write(writer.folder)
        if together is not None:
            writer.write_json("latency.json", _times(comparison, together))
        writer.summary["metrics"] = _metrics(comparison, page)
    logger.info("%s: %d students, %.2f MB", PAGE, len(comparison.students), len(page.encode()) / 1e6)
    if config.tracking.uri is not None:
        track(comparison, lineage, output / PAGE, uri=config.tracking.uri, experiment=config.tracking.experiment)


@contextlib.contextmanager
def fetched(addresses: Sequence[str]) -> Iterator[list[Path]]:
    """Gives the folders of the report artifacts at addresses, downloaded where they are elsewhere, during the body."""
    with temporary_folder("earlier-") as scratch:
        store = Storage()
        yield [store.fetch(address, scratch / str(number), "report") for number, address in enumerate(addresses)]


def _time_together(lineage: Lineage) -> Together | None:
    """Times the ONNX files of several students and of their teacher in turn.

    None for a single student, which its export has timed alone, beside the teacher.

    Exports of parallel students time their files beside each other's trainings. Whoever writes the report runs after
    all of them.
    """
    exports = {student.exported.digest: student.exported for student in lineage.students if student.exported}
    if len(exports) < 2:
        return None
    from components.catlib.serving.benchmark import time_files  # a report without ONNX files needs no ONNX Runtime

    load = busy()
    files = [each.folder / "model.onnx" for each in exports.values()]
    teachers = [path for each in exports.values() if (path := each.folder / TEACHER_FILE).is_file()]
    timed = [each.measured for each in time_files([*files, *teachers[:1]], threads=THREADS)]
    students = dict(zip(exports, timed, strict=False))
    teacher = timed[-1] if teachers else None
    return Together(
        {digest: each.median for digest, each in students.items()},
        threads=THREADS,
        cpu=cpu_name(),
        cores=os.cpu_count() or 1,
        load=load,
        teacher=teacher and teacher.median,
        times_faster={} if teacher is None else {digest: ratio(teacher, each) for digest, each in students.items()},
    )


def _times(comparison: Comparison, together: Together) -> dict[str, Any]:
    students = {each.name: 1e3 * comparison.onnx_seconds(each) for each in comparison.students if each.exported}
    teacher = {} if together.teacher is None else {"Teacher": 1e3 * together.teacher}
    machine = {name: getattr(together, name) for name in ("threads", "cpu", "cores", "load")}
    return {"milliseconds": teacher | students, "runtime": "ONNX Runtime", **machine}


def _named(lineage: Lineage, comparison: Comparison, folders: Sequence[str]) -> dict[str, Artifact]:
    """Names all artifacts: "dataset", "teacher", …, and "prune 0.1x" for those of a student."""
    shared = {"dataset": lineage.dataset, "real_stats": lineage.real_stats, "teacher": lineage.teacher}
    named = {name: artifact for name, artifact in shared.items() if artifact}
    for student, folder in zip(comparison.students, folders, strict=True):
        for artifact in student.artifacts:
            if artifact not in shared.values():
                named[f"{artifact.manifest.kind} {folder}"] = artifact
    return named


def _deliver(student: Contender, folder: Path) -> None:
    folder.mkdir(parents=True)
    for artifact in (student.evaluation, student.exported, student.trained):
        if artifact is not None:
            for pattern in DELIVERED.get(artifact.manifest.kind, ()):
                for file in sorted(artifact.folder.glob(pattern)):
                    (shutil.copytree if file.is_dir() else shutil.copyfile)(file, folder / file.name)


def _metrics(comparison: Comparison, page: str) -> dict[str, float]:
    """Returns the headline of the smallest student."""
    student = comparison.smallest
    metrics: dict[str, float] = {
        "students": len(comparison.students),
        "student_macs": student.macs,
        "page_bytes": len(page.encode()),
    }
    if comparison.teacher is not None:
        metrics["macs_ratio"] = comparison.teacher.macs / student.macs
    for metric in comparison.metrics:
        score = comparison.score(student, metric)
        if score is not None:
            metrics[metric.key] = score.value
    return metrics
