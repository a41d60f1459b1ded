"""Kernel alignment: how alike two networks see the samples of a batch (paper section 3.3, equations 3 to 5).

Two networks are aligned if they find the same pairs of images similar and the same pairs different; their features
themselves do not matter. With N samples, X [N, d1] and Y [N, d2]:

    KA(X, Y) = ⟨XXᵀ, YYᵀ⟩_F / (‖XXᵀ‖_F · ‖YYᵀ‖_F)  in [0, 1]

Example: features X = [[1, 0], [0, 1]] keep two samples apart, XXᵀ = [[1, 0], [0, 1]]; Y = [[1], [1]] does not,
YYᵀ = [[1, 1], [1, 1]]; KA = 2 / (√2 · 2) = 0.71. Rotating or scaling X or Y does not change it, and their channel
counts may differ.

Shape suffixes: N batch, D features of a sample.
"""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from components.catlib.config.distillers import KernelAlignmentConfig
from components.catlib.errors import UserError
from components.catlib.networks.discriminators import Discriminator
from components.catlib.networks.generator import Generator
from components.catlib.objectives.frozen_teacher import Features
from components.catlib.objectives.precision import at_least_float32

SMALLEST_KERNEL_NORM = 1e-12
"""Kernels of features scaled to norm 1 have norms of at least 1/√N; only those of zero features are below this."""


class KernelAlignment:
    """Compares features by −KA."""

    def __init__(self, config: KernelAlignmentConfig, networks: Mapping[str, nn.Module]) -> None:
        """Takes its settings.

        Args:
            config: Decides whether kernels are centred.
            networks: Empty; this loss has no networks of its own.
        """
        assert not networks, list(networks)
        self._centred = config.centred

    @staticmethod
    def own_networks(student: Generator, teacher: Generator, discriminator: Discriminator) -> dict[str, nn.Module]:
        """Returns the networks that are trained beside the student: none."""
        return {}

    def compare(self, student: Features, teacher: Features) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns for every layer the loss −KA, and the figure that the log shows: 1 − KA, detached.

        Raises:
            UserError: The batch is too small.
        """
        alignments = {
            name: kernel_alignment(student[name], wanted, centred=self._centred) for name, wanted in teacher.items()
        }
        losses = {name: -alignment for name, alignment in alignments.items()}
        return losses, {name: 1 - alignment.detach() for name, alignment in alignments.items()}


def kernel_alignment(first: Tensor, second: Tensor, *, centred: bool = False) -> Tensor:
    """Returns the alignment of the kernels of two sets of features.

    It is computed in float32 (float64 stays), also under autocast, and for any memory format. Features that are zero
    for the whole batch are aligned with nothing: the value and the gradients are 0, and such a layer is left to the
    other losses.

    Differs: the published implementation gives NaN there and a constant 1 for a single sample, and fails on channels
    last. It adds up the alignments of several devices, so their weight depends on the number of devices; here they are
    averaged, as every loss is.

    Args:
        first: [N, ...], usually the student's features.
        second: [N, ...], usually the teacher's features.
        centred: Subtract the mean over the batch first (CKA). Features after a ReLU share a large mean, which makes any
            two networks look aligned; without that mean there is more to learn from.

    Returns:
        A scalar in [0, 1].

    Raises:
        UserError: The batch has fewer than 2 samples, or 3 when centred.
    """
    num_samples = first.shape[0]
    assert second.shape[0] == num_samples, (first.shape, second.shape)
    smallest = 3 if centred else 2
    if num_samples < smallest:
        raise UserError(
            f"{'Centred kernel' if centred else 'Kernel'} alignment learns nothing from a batch of {num_samples}; "
            f"raise distill.batch_size so that every device gets at least {smallest} images."
        )
    with torch.autocast(device_type=first.device.type, enabled=False), _exact_products():
        return (_unit_kernel(first, centred=centred) * _unit_kernel(second, centred=centred)).sum()


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """Keeps GPUs from rounding factors to 10 bits (TF32): alignments differ from 1 in the fifth digit."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _unit_kernel(features: Tensor, *, centred: bool) -> Tensor:
    """Returns XXᵀ / ‖XXᵀ‖_F [N, N]; it is zero when all features are."""
    samples_ND = at_least_float32(features).flatten(1)
    if centred:
        samples_ND = samples_ND - samples_ND.mean(dim=0)
    # Alignment does not depend on scale, so a constant may be divided out: fourth powers of large features overflow.
    scale = torch.linalg.vector_norm(samples_ND.detach())
    samples_ND = samples_ND / scale.clamp_min(torch.finfo(scale.dtype).tiny)
    kernel_NN = samples_ND @ samples_ND.T
    return kernel_NN / torch.linalg.vector_norm(kernel_NN).clamp_min(SMALLEST_KERNEL_NORM)
