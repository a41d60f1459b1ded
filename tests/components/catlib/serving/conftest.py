"""Small exported generators, made once."""

from pathlib import Path

import pytest
import torch
from torch import nn

from components.catlib.networks.generator import Generator
from components.catlib.serving.model import Model, open_model
from tests.components.catlib.exporting.small_generators import NORMS, RUNNING, inception
from tests.components.catlib.serving.models import exported, negative


@pytest.fixture(scope="package")
def local_student(tmp_path_factory: pytest.TempPathFactory) -> tuple[Generator, Path]:
    """A student whose norms have running statistics, and its file."""
    torch.manual_seed(3)
    generator = inception(RUNNING)
    with torch.no_grad():
        for module in generator.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.weight *= 4  # else all pixels are nearly the same grey
    return generator, exported(generator, tmp_path_factory.mktemp("local") / "model.onnx")


@pytest.fixture(scope="package")
def whole_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a student whose norms use the statistics of the picture."""
    torch.manual_seed(3)
    return exported(inception(NORMS["instance"]), tmp_path_factory.mktemp("whole") / "model.onnx")


@pytest.fixture(scope="package")
def negative_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a model that makes the negative of 8-bit colours."""
    return negative(tmp_path_factory.mktemp("negative") / "model.onnx")


@pytest.fixture(scope="package")
def negative_model(negative_file: Path) -> Model:
    return open_model(negative_file, threads=1)
