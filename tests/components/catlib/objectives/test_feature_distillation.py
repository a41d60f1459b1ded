"""The frozen teacher, the adaptors and the distillation loss."""

from typing import Any

import pytest
import torch
from torch import nn

from components.catlib.config import DistillConfig
from components.catlib.distributed.devices import Accelerator
from components.catlib.errors import UserError
from components.catlib.networks.families import architecture_from_config
from components.catlib.networks.generators import Generator, build_generator
from components.catlib.objectives.feature_distillation import (
    FeatureAdaptors,
    FeatureDistillation,
    FrozenTeacher,
    feature_channels,
)
from components.catlib.objectives.kernel_alignment import kernel_alignment
from tests.components.catlib.objectives.tiny import (
    GENERATOR,
    NUM_PLANES,
    SIZE,
    SPADE_GENERATOR,
    SPADE_SIZE,
    batch,
    narrower,
)


def _teacher(family: str) -> Generator:
    spade = family == "spade"
    return build_generator(
        architecture_from_config(
            SPADE_GENERATOR if spade else GENERATOR,
            in_channels=NUM_PLANES if spade else 3,
            out_channels=3,
            crop_size=SPADE_SIZE if spade else SIZE,
        )
    )


def _modules_that_run(network: nn.Module, run: Any) -> list[str]:
    """Returns the names of leaf modules in the order in which they finish."""
    names: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: names.append(name))
        for name, module in network.named_modules()
        if not list(module.children())
    ]
    run()
    for handle in handles:
        handle.remove()
    return names


@pytest.mark.parametrize("family", ["pix2pix", "spade"])
def test_teacher_gives_what_is_wanted_and_does_no_more(family: str) -> None:
    teacher, source = _teacher(family), batch(family).source
    image, features = teacher.eval()(source, return_features=True)
    whole = _modules_that_run(teacher, lambda: teacher(source))
    for wants_image in (False, True):
        for wants_features in (False, True):
            network = _teacher(family)
            network.load_state_dict(teacher.state_dict())
            frozen_teacher = FrozenTeacher(
                network.train(), Accelerator(cpu=True), wants_image=wants_image, wants_features=wants_features
            )
            given: list[Any] = []
            ran = _modules_that_run(network, lambda to=given, ask=frozen_teacher: to.extend(ask(source)))
            given_image, given_features = given
            if wants_image:
                torch.testing.assert_close(given_image, image)
            else:
                assert given_image is None
            assert list(given_features) == (list(features) if wants_features else [])
            for name, feature in given_features.items():
                torch.testing.assert_close(feature, features[name])
                assert not feature.requires_grad
            if wants_image:
                assert ran == whole, "every module once"
            elif wants_features:
                assert ran == whole[: len(ran)]
                assert len(ran) < len(whole)
                last = network.distillation_layers[-1]
                assert all(not name.startswith(("up_sampling", "up_2", "conv_img")) for name in ran)
                assert any(name.startswith(last) for name in ran)
            else:
                assert ran == []
            assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("family", ["pix2pix", "spade"])
def test_adaptors_give_the_teachers_channels(family: str) -> None:
    teacher = _teacher(family)
    student, source = narrower(teacher), batch(family).source
    _, wanted = teacher(source, return_features=True)
    _, features = student(source, return_features=True)
    assert {name: feature.shape[1] for name, feature in features.items()} == feature_channels(student)
    adapted = FeatureAdaptors(student, teacher)(features)
    assert {name: feature.shape for name, feature in adapted.items()} == {
        name: feature.shape for name, feature in wanted.items()
    }


STUDENT = {"early": torch.randn(4, 3, 2, 2), "late": torch.randn(4, 5, 2, 2)}
TEACHER = {"early": torch.randn(4, 6, 2, 2), "late": torch.randn(4, 6, 2, 2)}


@pytest.mark.parametrize("weights", [None, (2.0, 0.25)])
@pytest.mark.parametrize("centred", [False, True])
def test_weighted_sum_of_alignments(weights: tuple[float, float] | None, centred: bool) -> None:
    config = DistillConfig(lambda_distill=3.0, layer_weights=weights, centred_kernels=centred)
    loss, shown = FeatureDistillation(config, list(STUDENT), None).losses(STUDENT, TEACHER)
    alignments = [kernel_alignment(STUDENT[name], TEACHER[name], centred=centred).item() for name in STUDENT]
    expected = -3 * sum(weight * value for weight, value in zip(weights or (1, 1), alignments, strict=True))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected)
    assert list(shown) == ["misalignment_early", "misalignment_late"]
    assert [value.item() for value in shown.values()] == pytest.approx([1 - value for value in alignments])


def test_one_weight_per_layer() -> None:
    config = DistillConfig(layer_weights=(1.0, 1.0, 1.0))
    with pytest.raises(UserError, match=r"layer_weights has 3 numbers, expected 2.*early, late"):
        FeatureDistillation(config, list(STUDENT), None)
