"""Run in a copy that has the gradient metric: its values, in an evaluation and on the report's page."""

import numpy as np
import pytest
import torch
from torch import nn

from components.catlib.config import ReportConfig
from components.catlib.metrics.gradients import gradient_distance
from components.catlib.metrics.held_out import held_out_images
from components.catlib.metrics.scoring import score_generator
from components.catlib.networks.directions import Direction
from components.report.stage import run as write_report
from tests.components.evaluate.test_stage import Run
from tests.components.opened import read_statistics


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"), "parallel")


def test_steps_are_compared_and_an_offset_is_not() -> None:
    image = torch.tensor([[0.0, 0.5], [0.0, 0.5]]).expand(1, 3, 2, 2)
    assert gradient_distance(torch.zeros(1, 3, 2, 2), image).tolist() == [0.25]  # ½ to the right, 0 down
    assert gradient_distance(image.flip(3), image).tolist() == [0.5]
    assert gradient_distance(image - 0.25, image).tolist() == [0]


def test_scores_hold_the_mean_over_images(run: Run) -> None:
    direction = Direction.SOURCE_TO_TARGET
    scores = score_generator(nn.Identity(), run.dataset, read_statistics(run.folder / "real_stats", direction))
    batches = held_out_images(run.dataset, direction=direction, limit=None, batch_size=2)
    differences = [difference for sources, targets in batches for difference in (sources - targets).numpy()]
    steps = [np.abs(np.diff(difference, axis=axis)).mean() for difference in differences for axis in (1, 2)]
    assert len(differences) == 5
    assert scores["gradient_l1"] == pytest.approx(np.mean(steps))


def test_an_evaluation_has_its_interval_and_protocol_and_the_report_its_label(run: Run) -> None:
    metrics = run.evaluate()
    low, high = metrics["student"]["confidence"]["gradient_l1"]
    assert low < metrics["student"]["gradient_l1"] < high
    assert "gradients" in metrics["protocol"]
    write_report(ReportConfig(), evaluations=[run.folder / "evaluation"], output=run.folder / "report")
    assert "Gradient L1" in (run.folder / "report" / "report.html").read_text()
