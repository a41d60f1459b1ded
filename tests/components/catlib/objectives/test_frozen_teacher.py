"""A teacher that answers and does no more than it is asked for."""

from typing import Any

import pytest
import torch
from torch import nn

from components.catlib.distributed.devices import Accelerator
from components.catlib.objectives.frozen_teacher import FrozenTeacher
from tests.components.catlib.objectives.tiny import batch, tiny_generator


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
