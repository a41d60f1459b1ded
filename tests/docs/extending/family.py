"""Run in a copy that has the residual family: a teacher, its student, the student's ONNX file, and the report."""

import json
from pathlib import Path

import pytest
import torch

from components.catlib.config import EvaluateConfig, ExportConfig, ReportConfig, validate
from components.catlib.config.networks import GeneratorConfig
from components.catlib.networks.families import architecture_from_config
from components.catlib.networks.macs import parameters
from components.distill import stage as distill_stage
from components.evaluate import stage as evaluate_stage
from components.export import stage as export_stage
from components.report import stage as report_stage
from tests.components.catlib.networks.layers import check_against_table
from tests.components.small_trainings import (
    distill_config,
    make_dataset,
    make_student,
    make_teacher,
    teacher_config,
    weights,
)

GENERATOR = {"family": "residual", "base_channels": 4, "num_blocks": 3}


@pytest.mark.parametrize("norm", [{"kind": "instance"}, {"kind": "batch", "track_running_stats": True}])
def test_the_table_describes_teachers_and_students(norm: dict[str, object]) -> None:
    config = validate(GeneratorConfig, GENERATOR | {"norm": norm}, where="generator")
    teacher = architecture_from_config(config, in_channels=3, out_channels=3, crop_size=(16, 24))
    widths = {each.name: each.channels - 1 for each in teacher.prunable_norms()}
    student = teacher.resized(widths | {"blocks.1.layers.1": 0})
    for architecture in (teacher, student):
        check_against_table(architecture, torch.from_numpy(architecture.example_input(2, (16, 24))))
    assert parameters(student) < parameters(teacher)


def test_a_residual_teacher_goes_through_all_stages(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, "paired")
    short = {"epochs": 1, "decay_epochs": 0, "evaluations": 1}
    teacher = make_teacher(data, tmp_path / "teacher", teacher_config("pix2pix", generator=GENERATOR, **short))
    whole = make_student(teacher, tmp_path / "whole", budget="1x", student_init="inherit")
    inherited, trained = weights(whole), weights(teacher)
    assert len(inherited) > 20
    assert all(torch.equal(value, trained[name]) for name, value in inherited.items())

    student, distilled = make_student(teacher, tmp_path / "student", budget="0.4x"), tmp_path / "distilled"
    inputs = {"dataset": data / "dataset", "real_stats": data / "real_stats"}
    distill_stage.run(distill_config("pix2pix", **short), teacher=teacher, student=student, output=distilled, **inputs)
    export_stage.run(ExportConfig(), student=distilled, dataset=data / "dataset", output=tmp_path / "exported")
    facts = json.loads((tmp_path / "exported" / "export.json").read_text())
    pruning = json.loads((student / "pruning.json").read_text())
    assert facts["parity"]["largest_difference"] < 1e-4
    assert facts["paper_macs"] == pruning["student"]["paper_macs"] <= 0.4 * pruning["teacher"]["paper_macs"]

    quick = EvaluateConfig(batch_size=2, num_samples=1, latency_repeats=2)
    evaluation, report = tmp_path / "evaluation", tmp_path / "report"
    evaluate_stage.run(quick, student=distilled, teacher=teacher, output=evaluation, **inputs)
    report_stage.run(
        ReportConfig(),
        evaluations=[evaluation],
        teacher=teacher,
        students=[student],
        distilled=[distilled],
        exports=[tmp_path / "exported"],
        output=report,
        **inputs,
    )
    page = (report / "report.html").read_text()
    assert all(name in page for name in ("blocks.2.layers.1", "hidden channels", "residual"))
