"""Feature distillation by mean squared error, through adaptors (method section 3): what kernel alignment replaces."""

from collections.abc import Mapping

from torch import Tensor, nn

from components.catlib.config.distillers import MseConfig
from components.catlib.networks.discriminators import Discriminator
from components.catlib.networks.generator import Generator
from components.catlib.objectives.frozen_teacher import Features
from components.catlib.objectives.reconstruction import l2_loss


class FeatureAdaptors(nn.Module):
    """1x1 convolutions from a student's channels to its teacher's, one per layer, for `mse` distillation."""

    def __init__(self, student: Generator, teacher: Generator) -> None:
        """Makes the convolutions with torch's default initialisation.

        Args:
            student: The generator whose features are adapted.
            teacher: The generator whose channel counts they get.
        """
        super().__init__()
        self._layers = student.distillation_layers
        ours, theirs = student.architecture.feature_widths, teacher.architecture.feature_widths
        self.convolutions = nn.ModuleList(nn.Conv2d(ours[name], theirs[name], kernel_size=1) for name in self._layers)

    def forward(self, features: Features) -> Features:
        """Maps the student's features [N, student's C, H, W] to [N, teacher's C, H, W]."""
        return {
            name: convolution(features[name]) for name, convolution in zip(self._layers, self.convolutions, strict=True)
        }


class FeatureMse:
    """Compares features by their mean squared error, after adaptors map the student's to the teacher's channels."""

    def __init__(self, _config: MseConfig, networks: Mapping[str, nn.Module]) -> None:
        """Takes its adaptors.

        Args:
            networks: What `own_networks` returned, as prepared for training.
        """
        self._adaptors = networks["adaptors"]

    @staticmethod
    def own_networks(student: Generator, teacher: Generator, discriminator: Discriminator) -> dict[str, nn.Module]:
        """Returns the networks that are trained beside the student: "adaptors"."""
        return {"adaptors": FeatureAdaptors(student, teacher)}

    def compare(self, student: Features, teacher: Features) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns for every layer the loss, and the figure that the log shows; both are the error, at least float32."""
        adapted = self._adaptors(student)
        errors = {name: l2_loss(adapted[name], wanted) for name, wanted in teacher.items()}
        return errors, {name: error.detach() for name, error in errors.items()}
