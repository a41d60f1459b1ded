"""What every generator network offers, whatever its family."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from components.catlib.networks.architecture import GeneratorArchitecture


class Generator(nn.Module):
    """A network that translates images, or paints label maps.

    Attributes:
        architecture: The architecture that it was built from.
        distillation_layers: Paths of the modules whose outputs are compared with another generator's.
    """

    def __init__(self, architecture: GeneratorArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.distillation_layers: tuple[str, ...] = tuple(architecture.feature_widths)

    @property
    def segments(self) -> tuple[str, ...]:
        """Paths of the modules that `forward` calls one after the other and that make most of the activations."""
        return tuple(name for name, _ in self.named_children())

    def fuse_branches(self, fuse: bool = True) -> None:
        """Chooses whether the parallel branches of each block run together (`fusing.py`); weights stay as they are."""
        for module in self.modules():
            if "fuses" in vars(module):
                module.fuses = fuse  # pyright: ignore[reportArgumentType]  # a plain attribute

    @abstractmethod
    def forward(self, x: Tensor, return_features: bool = False) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Makes images.

        Args:
            x: [N, in_channels, H, W], images in [-1, 1] or semantic planes.
            return_features: Whether to return the outputs of `distillation_layers` as well.

        Returns:
            The images [N, out_channels, H, W] in [-1, 1]; with `return_features` also the features by name, in order.
        """
