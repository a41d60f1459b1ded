"""A teacher that answers and does no more than it is asked for."""

from functools import partial
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd

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


@pytest.mark.parametrize(
    ("wants_image", "settings"), [(True, {"channels_last": True}), (False, {"channels_last": True, "compile": True})]
)
def test_a_teacher_is_prepared_as_what_is_trained(
    wants_image: bool, settings: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers as before. Compiled, it does no more than before either; the compiled graph is run by torch itself."""
    convolutions: list[int] = []

    def counted(graph: Any, _inputs: Any) -> Any:
        convolutions.append(sum("convolution" in str(node.target) for node in graph.graph.nodes))
        return make_boxed_func(graph.forward)

    backend = partial(torch.compile, backend=aot_autograd(fw_compiler=counted, inference_compiler=counted))
    monkeypatch.setattr(torch, "compile", backend)
    source, plain = batch("pix2pix").source.contiguous(memory_format=torch.channels_last), tiny_generator("pix2pix")
    given = []
    for config in (None, distill_config("pix2pix", **settings)):
        network = tiny_generator("pix2pix")
        network.load_state_dict(plain.state_dict())
        teacher = FrozenTeacher(network, Accelerator(cpu=True), config, wants_image=wants_image, wants_features=True)
        given.append(teacher(source))
        weight = network.get_parameter("down_sampling.4.weight")
        assert weight.is_contiguous(memory_format=torch.channels_last) == (config is not None)
    (image, features), (other_image, other_features) = given
    assert other_features.keys() == features.keys()
    for name, feature in features.items():
        torch.testing.assert_close(other_features[name], feature, rtol=1e-4, atol=1e-5)
    if wants_image:
        torch.testing.assert_close(other_image, image, rtol=1e-4, atol=1e-5)
    else:
        assert other_image is None
        names = [name for name, module in plain.named_modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
        assert convolutions == [sum(not name.startswith("up_sampling") for name in names)]


def test_a_distillation_prepares_its_teacher() -> None:
    objective = build("pix2pix", channels_last=True)
    weights = [weight for weight in objective.teachers["source_to_target"].parameters() if weight.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
