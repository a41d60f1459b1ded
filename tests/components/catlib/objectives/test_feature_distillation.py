"""The distillation loss: which one is chosen, and how layers are weighed."""

from typing import get_args

import pytest
import torch

from components.catlib.config.distillers import (
    FIGURES,
    DistillerConfig,
    FeatureConfig,
    KernelAlignmentConfig,
    MseConfig,
    NoDistillerConfig,
    OutputConfig,
)
from components.catlib.errors import UserError
from components.catlib.objectives.distillers.kernel_alignment import KernelAlignment, kernel_alignment
from components.catlib.objectives.distillers.mse import FeatureMse
from components.catlib.objectives.feature_distillation import build_feature_distillation, feature_loss
from components.catlib.objectives.output_distillation import output_loss

STUDENT = {"early": torch.randn(4, 3, 2, 2), "late": torch.randn(4, 5, 2, 2)}
TEACHER = {"early": torch.randn(4, 6, 2, 2), "late": torch.randn(4, 6, 2, 2)}


@pytest.mark.parametrize("weights", [None, (2.0, 0.25)])
@pytest.mark.parametrize("centred", [False, True])
def test_weighted_sum_of_alignments(weights: tuple[float, float] | None, centred: bool) -> None:
    config = KernelAlignmentConfig(weight=3.0, layer_weights=weights, centred=centred)
    distillation = build_feature_distillation(config, list(STUDENT), {})
    assert distillation is not None
    loss, shown = distillation.losses(STUDENT, TEACHER)
    alignments = [kernel_alignment(STUDENT[name], TEACHER[name], centred=centred).item() for name in STUDENT]
    expected = -3 * sum(weight * value for weight, value in zip(weights or (1, 1), alignments, strict=True))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected)
    assert list(shown) == ["misalignment_early", "misalignment_late"]
    assert [value.item() for value in shown.values()] == pytest.approx([1 - value for value in alignments])


def test_one_weight_per_layer() -> None:
    config = KernelAlignmentConfig(layer_weights=(1.0, 1.0, 1.0))
    with pytest.raises(UserError, match=r"layer_weights has 3 numbers, expected 2.*early, late"):
        build_feature_distillation(config, list(STUDENT), {})


@pytest.mark.parametrize(
    ("config", "loss"),
    [
        (KernelAlignmentConfig(), KernelAlignment),
        (MseConfig(), FeatureMse),
        (KernelAlignmentConfig(weight=0), None),
        (MseConfig(weight=0), None),
        (NoDistillerConfig(), None),
    ],
)
def test_kind_and_weight_choose_the_loss(config: DistillerConfig, loss: type | None) -> None:
    assert feature_loss(config) is loss


def test_every_distiller_is_matched_and_those_of_features_name_a_figure_of_their_own() -> None:
    kinds = [kind for kind in get_args(get_args(DistillerConfig)[0]) if kind is not NoDistillerConfig]
    features = [kind for kind in kinds if issubclass(kind, FeatureConfig)]
    assert all(issubclass(kind, FeatureConfig | OutputConfig) for kind in kinds)
    assert all((feature_loss(kind()) is not None) == (kind in features) for kind in kinds)
    assert all((output_loss(kind()) is not None) == kind().compares_outputs for kind in kinds)
    assert [figure.name for figure in FIGURES] == [kind.figure.name for kind in features]
    assert len({figure.name for figure in FIGURES}) == len(features)
