"""The linear learning-rate schedule against the rates the published implementation trains with, epoch by epoch."""

import pytest

from components.catlib.config import TrainingConfig
from components.catlib.config.schedules import LinearConfig
from components.catlib.training.schedules import learning_rate_factor
from tests.parity.cases import Case


@pytest.mark.cases("lr_pool*.json")
def test_linear_schedule(case: Case) -> None:
    assert case.facts["lr"]
    for facts in case.facts["lr"]:
        config = TrainingConfig(epochs=facts["nepochs"], decay_epochs=facts["nepochs_decay"], schedule=LinearConfig())
        expected = [*facts["lr_used_in_epoch_1_to_N"], facts["lr_left_after_last_epoch"]]
        assert len(expected) == config.epochs + config.decay_epochs + 1
        rates = [
            facts["lr"] * learning_rate_factor(config, epoch, [], steps_per_epoch=1) for epoch in range(len(expected))
        ]
        assert rates == pytest.approx(expected, rel=1e-12, abs=1e-18)
