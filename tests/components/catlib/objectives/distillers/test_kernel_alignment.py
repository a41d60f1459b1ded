"""Kernel alignment: closed forms, invariances, and where the published implementation breaks down (bug 6)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.catlib.errors import UserError
from components.catlib.objectives.distillers.kernel_alignment import kernel_alignment


def _features(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_example_of_the_docstring() -> None:
    alignment = kernel_alignment(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0], [1.0]]))
    assert alignment.shape == ()
    assert alignment.item() == pytest.approx(2**-0.5)


@given(st.integers(0, 2**30), st.integers(3, 8), st.integers(1, 9), st.integers(1, 9), st.booleans())
@settings(max_examples=50, deadline=None)
def test_invariances(seed: int, samples: int, first_size: int, second_size: int, centred: bool) -> None:
    first, second = _features(seed, samples, first_size), _features(seed + 1, samples, second_size)
    alignment = kernel_alignment(first, second, centred=centred).item()
    rotation, _ = torch.linalg.qr(_features(seed + 2, first_size, first_size))
    assert -1e-12 <= alignment <= 1 + 1e-12
    assert kernel_alignment(first, first, centred=centred).item() == pytest.approx(1)
    assert kernel_alignment(second, first, centred=centred).item() == pytest.approx(alignment)
    assert kernel_alignment(7 * first @ rotation, second, centred=centred).item() == pytest.approx(alignment)
    if centred:
        shifted = first + _features(seed + 3, 1, first_size)
        assert kernel_alignment(shifted, second, centred=True).item() == pytest.approx(alignment)


def test_gradient_is_that_of_the_definition() -> None:
    first, second = _features(0, 4, 3, 2, 2).requires_grad_(), _features(1, 4, 5, 2, 2)
    assert torch.autograd.gradcheck(lambda x: kernel_alignment(x, second), (first,))
    assert torch.autograd.gradcheck(lambda x: kernel_alignment(x, second, centred=True), (first,))


def test_a_batch_that_teaches_nothing_is_refused() -> None:
    one, two = _features(0, 1, 3, 2, 2), _features(0, 2, 3, 2, 2)
    with pytest.raises(UserError, match="at least 2 images"):
        kernel_alignment(one, one)
    with pytest.raises(UserError, match="at least 3 images"):
        kernel_alignment(two, two, centred=True)
    assert kernel_alignment(two, _features(1, 2, 3, 2, 2)).item() < 1


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_features_are_aligned_with_nothing(centred: bool, dtype: torch.dtype) -> None:
    zero, other = torch.zeros(3, 4, 2, 2, dtype=dtype, requires_grad=True), torch.randn(3, 5, 2, 2, requires_grad=True)
    alignment = kernel_alignment(zero, other, centred=centred)
    alignment.backward()
    assert alignment.item() == 0
    for features in (zero, other):
        assert features.grad is not None
        assert (features.grad == 0).all()
    assert kernel_alignment(zero, zero).item() == 0


@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_any_scale(scale: float) -> None:
    """Fourth powers of such features do not fit into float32."""
    first, second = torch.randn(4, 6).abs(), torch.randn(4, 3).abs()
    scaled = (first * scale).requires_grad_()
    alignment = kernel_alignment(scaled, second)
    torch.testing.assert_close(alignment, kernel_alignment(first, second))
    alignment.backward()
    assert scaled.grad is not None
    assert torch.isfinite(scaled.grad).all()
    assert scaled.grad.abs().max() > 0


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_any_memory_format(layout: torch.memory_format) -> None:
    first, second = torch.randn(3, 8, 4, 4), torch.randn(3, 5, 4, 4)
    expected = kernel_alignment(first, second)
    given_first = first.to(memory_format=layout).requires_grad_()
    alignment = kernel_alignment(given_first, second.to(memory_format=torch.channels_last))
    torch.testing.assert_close(alignment, expected)
    alignment.backward()
    assert given_first.grad is not None
    torch.testing.assert_close(kernel_alignment(first.transpose(2, 3), second), kernel_alignment(first.mT, second))


def test_float32_under_autocast() -> None:
    first, second = torch.rand(6, 500), torch.rand(6, 400)
    expected = kernel_alignment(first, second)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (first @ first.T).dtype == torch.bfloat16
        alignment = kernel_alignment(first, second)
    assert alignment.dtype == torch.float32
    assert alignment.item() == expected.item()
    assert kernel_alignment(first.bfloat16(), second.bfloat16()).dtype == torch.float32


def test_products_are_exact_whatever_networks_compute_in() -> None:
    """TF32 rounds factors to 10 bits, alignments differ from 1 in the fifth digit."""
    seen: list[str] = []

    class Watched(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if "matmul" in func.__name__:
                seen.append(torch.get_float32_matmul_precision())
            return super().__torch_function__(func, types, args, kwargs)

    torch.set_float32_matmul_precision("high")
    try:
        kernel_alignment(torch.rand(6, 5).as_subclass(Watched), torch.rand(6, 4).as_subclass(Watched))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["highest", "highest"]


def test_centring_takes_away_what_everything_has_in_common() -> None:
    """Two networks that see different things in the same images, through ReLUs around a common mean."""
    first, second = ((torch.randn(20, 3) @ torch.randn(3, 1000) + 3).relu() for _ in range(2))
    assert kernel_alignment(first, second).item() > 0.9
    assert kernel_alignment(first, second, centred=True).item() < 0.5


def test_saturation() -> None:
    """What method section 3 warns of: independent noise after a ReLU looks aligned."""
    assert kernel_alignment(torch.randn(20, 40_000).relu(), torch.randn(20, 40_000).relu()).item() > 0.999
