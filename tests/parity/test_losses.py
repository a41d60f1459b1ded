"""Losses on given tensors, against the published implementation's values and gradients."""

import numpy as np
import pytest
import torch

from components.catlib.errors import UserError
from components.catlib.objectives.adversarial import discriminator_loss, generator_loss
from components.catlib.objectives.distillers.kernel_alignment import kernel_alignment
from components.catlib.objectives.reconstruction import feature_matching_loss
from tests.parity.cases import Case

pytestmark = pytest.mark.cases("losses*.json")


@pytest.fixture(autouse=True)
def _facts_are_there(case: Case) -> None:
    assert all(case.facts[kind] for kind in ("gan", "multiscale_hinge", "feature_matching", "ka"))


def test_adversarial_losses_and_gradients(case: Case) -> None:
    checked: set[str] = set()
    for fact in case.facts["gan"]:
        objective, real = fact["gan_mode"], fact["target_is_real"]
        logits = case.tensors[fact["pred"]].clone().requires_grad_()
        if fact["for_discriminator"]:
            loss = discriminator_loss(objective, logits, real=real)
        elif real:
            loss = generator_loss(objective, logits)
        else:
            continue  # a generator never wants its images judged fake
        loss.backward()
        assert loss.shape == ()
        torch.testing.assert_close(loss.item(), fact["loss"], rtol=1e-5, atol=1e-7)
        name = fact["pred"].split("/")[-1]
        key = f"gan/grad/{name}/{objective}/real={real}/for_discriminator={fact['for_discriminator']}"
        torch.testing.assert_close(logits.grad, case.tensors[key], rtol=1e-5, atol=1e-8)
        checked.add(objective)
    assert checked == {fact["gan_mode"] for fact in case.facts["gan"]}


def _scales(case: Case, prefix: str) -> list[list[torch.Tensor]]:
    """Reads <prefix>/<scale>/<feature> as a multi-scale discriminator's answer."""
    features = case.group(prefix)
    scales: dict[str, list[torch.Tensor]] = {}
    for name in sorted(features, key=lambda name: [int(part) for part in name.split("/")]):
        scales.setdefault(name.split("/")[0], []).append(features[name])
    return list(scales.values())


def test_hinge_over_scales_is_a_scalar(case: Case) -> None:
    """Bug 14 of the published implementation: there it has shape [1]."""
    judgement = _scales(case, "gan/multiscale")
    assert len(judgement) > 1
    for fact in case.facts["multiscale_hinge"]["results"]:
        if fact["for_discriminator"]:
            loss = discriminator_loss("hinge", judgement, real=fact["target_is_real"])
        else:
            loss = generator_loss("hinge", judgement)
        assert loss.shape == ()
        (expected,) = np.ravel(fact["loss"])
        torch.testing.assert_close(loss.item(), expected, rtol=1e-5, atol=1e-7)


def test_feature_matching(case: Case) -> None:
    fact = case.facts["feature_matching"]
    scales = _scales(case, "feat")
    assert len(scales) == fact["num_D"]
    half = scales[0][0].shape[0] // 2
    fake = [[feature[:half] for feature in features] for features in scales]
    real = [[feature[half:] for feature in features] for features in scales]
    loss = fact["lambda_feat"] * feature_matching_loss(fake, real)
    torch.testing.assert_close(loss.item(), fact["loss"], rtol=1e-5, atol=0)


def test_kernel_alignment_and_gradients(case: Case) -> None:
    for fact in case.facts["ka"]:
        first, second = (case.tensors[f"ka/{fact['i']}/{name}"] for name in ("X", "Y"))
        if first.shape[0] == 1:
            with pytest.raises(UserError, match="batch of 1"):  # bug 6: constantly 1, no gradient
                kernel_alignment(first, second)
            continue
        for dtype, expected, rtol in ((torch.float32, fact["KA"], 1e-5), (torch.float64, fact["KA_float64"], 1e-12)):
            alignment = kernel_alignment(first.to(dtype), second.to(dtype))
            torch.testing.assert_close(alignment.item(), expected, rtol=rtol, atol=0)
        expected_gradient = case.tensors[f"ka/{fact['i']}/grad_X"]
        ours, exact = (
            alignment_gradient(first.to(dtype), second.to(dtype)) for dtype in (torch.float32, torch.float64)
        )
        # Saturated kernels have gradients of nearly nothing, which float32 rounds.
        rounding = (ours - exact).norm()
        assert (ours - expected_gradient).norm() < max(1e-4 * expected_gradient.norm(), 5 * rounding)
        assert (exact - expected_gradient).norm() < 1e-3 * expected_gradient.norm() + 1e-7


def alignment_gradient(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    variable = first.clone().requires_grad_()
    kernel_alignment(variable, second).backward()
    assert variable.grad is not None
    return variable.grad
