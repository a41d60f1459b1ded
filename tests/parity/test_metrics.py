"""Metrics against the numbers of the published implementation."""

import re

import numpy as np
import pytest
import torch

from components.catlib.data.image_conversion import to_uint8
from components.catlib.metrics.frechet import Gaussian, frechet_distance
from components.catlib.metrics.kernel_distance import polynomial_mmd
from components.catlib.metrics.segmentation import confusion_matrix, intersection_over_union, mean_iou
from tests.parity.cases import Case

pytestmark = pytest.mark.cases("metrics*.json")


def test_frechet_distance(case: Case):
    for facts in case.facts["frechet"]:
        arrays = {name: tensor.numpy() for name, tensor in case.group(f"fid/{facts['i']}").items()}
        moments = [Gaussian.from_moments(arrays[f"mu{side}"], arrays[f"sigma{side}"]) for side in (1, 2)]
        samples = [Gaussian.from_samples(arrays[f"x{side}"]) for side in (1, 2)]
        for first, second in (moments, samples, (moments[0], samples[1])):
            if facts["frechet"] is not None:  # it fails in one dimension
                assert frechet_distance(first, second) == pytest.approx(facts["frechet"], rel=1e-6)
            assert frechet_distance(first, second) == pytest.approx(
                facts["eigenvalue_cross_check_not_reference"], rel=1e-6
            )
        # Differs: the published value for equal inputs may be slightly negative.
        assert [frechet_distance(gaussian, gaussian) for gaussian in moments + samples] == [0, 0, 0, 0]


def test_frechet_distance_from_no_variance_at_all(case: Case):
    facts = case.facts["frechet_zero_cov_vs_identity"]
    dims = int(re.findall(r"mu2=1\((\d+)\)", facts["inputs"])[0])
    nothing = Gaussian.from_moments(np.zeros(dims), np.zeros((dims, dims)))
    distance = frechet_distance(nothing, Gaussian.from_moments(np.ones(dims), np.eye(dims)))
    assert distance == pytest.approx(facts["value"], rel=1e-12)


def test_kernel_distance(case: Case):
    facts, tensors = case.facts["kid"], case.group("kid")
    first, second = tensors["codes_g"].numpy(), tensors["codes_r"].numpy()
    values = [
        polynomial_mmd(first[rows_first], second[rows_second])
        for rows_first, rows_second in zip(tensors["subset_idx_g"], tensors["subset_idx_r"], strict=True)
    ]
    assert values == pytest.approx(facts["mmd2"], rel=1e-9, abs=1e-12)
    assert np.mean(values) == pytest.approx(facts["mean"], rel=1e-9, abs=1e-12)
    assert np.std(values) == pytest.approx(facts["std"], rel=1e-9)
    for name in (key for key in facts if key.startswith("single_first")):
        rows = int(name.removeprefix("single_first"))
        value = polynomial_mmd(first[:rows], second[:rows])
        assert value == pytest.approx(facts[name]["mmd2"], rel=1e-9, abs=1e-12)


def test_mean_intersection_over_union(case: Case):
    facts, tensors = case.facts["miou"], case.group("miou")
    confusion = confusion_matrix(tensors["label"].numpy(), tensors["pred"].numpy(), num_classes=facts["num_classes"])
    assert np.array_equal(confusion, tensors["hist"].numpy())
    expected = [np.nan if value is None else value for value in facts["per_class_iou"]]
    assert intersection_over_union(confusion) == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert mean_iou(confusion) == pytest.approx(facts["unrounded"], rel=1e-12)


def test_images_are_rounded_where_the_published_ones_are_cut(case: Case):
    tensors = case.group("tensor2im")
    suffixes = [name.removeprefix("input") for name in tensors if name.startswith("input")]
    assert suffixes
    for suffix in suffixes:
        images = tensors["input" + suffix]
        ours = to_uint8(images).permute(0, 2, 3, 1)
        exact = ((images.double() + 1) * 127.5).clamp(0, 255).permute(0, 2, 3, 1)
        assert (ours - exact).abs().max() <= 0.5 + 1e-4
        assert ((exact - tensors["output" + suffix]) > 0.51).any(), "the published images are not the nearest ones"


def test_grey_values_that_the_published_conversion_changes_survive(case: Case):
    changed = torch.tensor(case.facts["tensor2im"]["roundtrip_u8_values_changed"], dtype=torch.uint8)
    assert len(changed)
    assert torch.equal(to_uint8(changed / 127.5 - 1), changed)
