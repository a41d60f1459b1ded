"""A teacher that answers and does no more than it is asked for."""

from typing import Any

import pytest
import torch
from torch import nn

from components.catlib.distributed.devices import Accelerator
from components.catlib.objectives.frozen_teacher import FrozenTeacher
from tests.components.catlib.objectives.test_distillation import build
from tests.components.catlib.objectives.tiny import batch, distill_config, tiny_generator


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
    teacher, source = tiny_generator(family), batch(family).source
    image, features = teacher.eval()(source, return_features=True)
    whole = _modules_that_run(teacher, lambda: teacher(source))
    for wants_image in (False, True):
        for wants_features in (False, True):
            network = tiny_generator(family)
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


@pytest.mark.parametrize("wants_image", [False, True])
def test_a_teacher_is_prepared_as_what_is_trained(wants_image: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the format of the images and compiled, it answers as before; traced as for any compiler, but run by torch."""
    compiled: list[Any] = []
    compile_network = torch.compile

    def without_kernels(network: Any) -> Any:
        compiled.append(network)
        return compile_network(network, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", without_kernels)
    source, given = batch("pix2pix").source.contiguous(memory_format=torch.channels_last), []
    plain = tiny_generator("pix2pix")
    for settings in ({}, {"channels_last": True}, {"channels_last": True, "compile": True}):
        network = tiny_generator("pix2pix")
        network.load_state_dict(plain.state_dict())
        teacher = FrozenTeacher(
            network,
            Accelerator(cpu=True),
            distill_config("pix2pix", **settings),
            wants_image=wants_image,
            wants_features=True,
        )
        given.append(teacher(source))
        convolution = next(
            parameter for parameter in network.parameters() if parameter.dim() == 4 and parameter.shape[1] > 1
        )
        assert convolution.is_contiguous(memory_format=torch.channels_last) == bool(settings)
    assert len(compiled) == 2, "whole, and for features alone"
    (image, features), *others = given
    for other_image, other_features in others:
        assert other_features.keys() == features.keys()
        for name, feature in features.items():
            torch.testing.assert_close(other_features[name], feature, rtol=1e-4, atol=1e-5)
        if wants_image:
            torch.testing.assert_close(other_image, image, rtol=1e-4, atol=1e-5)
        else:
            assert other_image is None


def test_a_distillation_prepares_its_teacher() -> None:
    objective = build("pix2pix", channels_last=True)
    weights = [weight for weight in objective._teacher._network.parameters() if weight.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
