"""Content relationship distillation: closed forms of distances and angles, invariances, and the gradient."""

import itertools
import math

import pytest
import torch

from components.catlib.config.distillers import ContentRelationsConfig
from components.catlib.objectives.distillers.content_relations import (
    SMALLEST_CONTRAST,
    ContentRelations,
    relations,
    sliced,
)


def test_the_example_of_the_docstring() -> None:
    distances, _ = relations(torch.tensor([[[0.0], [1.0], [3.0]]], dtype=torch.float64))
    torch.testing.assert_close(distances[0], torch.tensor([[0, 0.5, 1.5], [0.5, 0, 1], [1.5, 1, 0]]).double())


def test_angles_of_a_right_triangle() -> None:
    _, cosines = relations(torch.tensor([[[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]], dtype=torch.float64))
    assert cosines[0, 1, 0, 2].item() == pytest.approx(0, abs=1e-9)
    assert cosines[0, 0, 1, 2].item() == pytest.approx(3 / 5)
    assert cosines[0, 0, 2, 1].item() == pytest.approx(4 / 5)
    assert cosines[0, 1, 0, 1].item() == pytest.approx(1)
    assert (cosines[0, 0, 0] == 0).all()


def test_relations_are_those_of_the_definition() -> None:
    parts = torch.randn(2, 5, 7, dtype=torch.float64)
    distances, cosines = relations(parts)
    for n in range(2):
        lengths = [(parts[n, i] - parts[n, j]).norm().item() for i, j in itertools.permutations(range(5), 2)]
        mean = sum(lengths) / len(lengths)
        for i, j, k in itertools.permutations(range(5), 3):
            first, second = parts[n, i] - parts[n, j], parts[n, k] - parts[n, j]
            assert distances[n, i, j].item() == pytest.approx(first.norm().item() / mean)
            angle = torch.nn.functional.cosine_similarity(first, second, dim=0)
            assert cosines[n, i, j, k].item() == pytest.approx(angle.item())


def test_parts_are_strips_and_patches() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert sliced(image, 4, 1)[0, 1].tolist() == [4, 5, 6, 7]
    assert sliced(image, 1, 2)[0, 1].tolist() == [2, 3, 6, 7, 10, 11, 14, 15]
    assert sliced(image, 2, 2)[0, 2].tolist() == [8, 9, 12, 13]


def test_loss_of_two_rows_by_hand() -> None:
    """Two strips have one relation, which is 1 for every image; with three the Huber distance can be computed."""
    loss = ContentRelations(ContentRelationsConfig(parts=3))
    student = torch.tensor([0.0, 1.0, 3.0]).reshape(1, 1, 3, 1)
    teacher = torch.tensor([0.0, 1.0, 2.0]).reshape(1, 1, 3, 1)
    # Distances 0.5, 1.5, 1 against 0.75, 1.5, 0.75; all angles agree. One column: strips and patches are the same rows.
    expected = 2 * 2 * (0.25**2 / 2 * 2) / 9
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_contrast_and_brightness_do_not_count() -> None:
    loss = ContentRelations(ContentRelationsConfig(parts=4))
    image = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    assert loss(0.3 * image - 0.1, image).item() == pytest.approx(0, abs=1e-12)
    assert loss(torch.rand(2, 3, 8, 8, dtype=torch.float64), image).item() > 1e-3
    assert loss(image.bfloat16(), image.bfloat16()).dtype == torch.float32


def test_gradients_of_nearly_flat_images_are_bounded() -> None:
    loss = ContentRelations(ContentRelationsConfig(parts=4))
    pattern, wanted = torch.rand(2, 2, 3, 8, 8, dtype=torch.float64)

    def steepness(contrast: float) -> float:
        image = (contrast * pattern).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(image, wanted), image)
        return gradient.norm().item()

    assert steepness(0.5) == pytest.approx(2 * steepness(1.0), rel=0.01), "the same at every contrast: as 1 / contrast"
    bound = steepness(SMALLEST_CONTRAST / 2)
    assert all(steepness(contrast) < 1.2 * bound for contrast in (3e-2, 1e-2, 1e-3, 1e-5))


def test_a_nearly_flat_image_learns_contrast() -> None:
    """A step against the gradient raises the contrast, which relations of any contrast would leave as it is."""
    loss = ContentRelations(ContentRelationsConfig(parts=4))
    wanted = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    image = (1e-3 * wanted).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(image, wanted), image)
    assert (gradient * image).sum() < -1e-3 * gradient.norm() * image.norm()
    assert loss(image, wanted) > 0.1


def test_lengths_that_divide_are_at_least_the_given_one() -> None:
    parts = torch.tensor([[[0.0], [1.0], [3.0]]], dtype=torch.float64)
    distances, cosines = relations(parts, torch.tensor([4.0], dtype=torch.float64))
    torch.testing.assert_close(distances[0], torch.tensor([[0, 1, 3], [1, 0, 2], [3, 2, 0]]).double() / 4)
    assert cosines[0, 1, 0, 2].item() == pytest.approx(1 * 3 / 16)


def test_gradient_is_that_of_the_definition() -> None:
    image = torch.randn(2, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    wanted = torch.randn(2, 2, 4, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: ContentRelations(ContentRelationsConfig(parts=3))(x, wanted), (image,))


def test_an_image_of_one_colour_has_no_relations_and_finite_gradients() -> None:
    image = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    loss = ContentRelations(ContentRelationsConfig())(image, torch.rand(1, 3, 8, 8))
    loss.backward()
    assert image.grad is not None
    assert math.isfinite(loss.item())
    assert torch.isfinite(image.grad).all()
