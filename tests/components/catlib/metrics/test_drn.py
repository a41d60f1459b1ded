from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from components.catlib.errors import UserError
from components.catlib.metrics.drn import DilatedResidualNetwork, read_drn
from tests.components.catlib.metrics.segmenter_files import STAGES, published_layout, random_state, write_drn


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drn") / "drn-d-105_ms_cityscapes.pth"
    write_drn(path)
    return path


def by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network written out with functions alone."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance, weight, bias = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, variance, weight, bias)

    def convolution(x: Tensor, place: str, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = state[f"{place}.0.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return norm(functional.conv2d(x, weight, None, stride, padding, dilation), f"{place}.1").relu()

    x = convolution(convolution(convolution(x, "base.0"), "base.1"), "base.2", stride=2)
    for number, (_, _, count) in STAGES.items():
        stride, dilation = {3: (2, 1), 4: (2, 1), 5: (1, 2), 6: (1, 4)}[number]
        for block in range(count):
            place, step = f"base.{number}.{block}", stride if block == 0 else 1
            y = norm(functional.conv2d(x, state[f"{place}.conv1.weight"]), f"{place}.bn1").relu()
            y = functional.conv2d(y, state[f"{place}.conv2.weight"], None, step, dilation, dilation)
            y = norm(functional.conv2d(norm(y, f"{place}.bn2").relu(), state[f"{place}.conv3.weight"]), f"{place}.bn3")
            if block == 0:
                x = norm(
                    functional.conv2d(x, state[f"{place}.downsample.0.weight"], None, step), f"{place}.downsample.1"
                )
            x = (x + y).relu()
    x = convolution(convolution(x, "base.7", dilation=2), "base.8")
    scores = functional.conv2d(x, state["seg.weight"], state["seg.bias"])
    return functional.conv_transpose2d(scores, state["up.weight"], None, 8, 4, groups=19)


def test_a_file_of_the_published_layout_gives_the_published_network(file: Path):
    torch.manual_seed(1)
    images = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        logits = read_drn(file)(images)
        expected = by_hand(random_state(), images)
    assert logits.shape == (1, 19, 32, 48)
    assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert logits.std() > 1e-3


def test_its_tensors_are_named_as_in_the_published_file():
    with torch.device("meta"):
        state = DilatedResidualNetwork().state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert shapes == published_layout()
    backbone = sum(
        np.prod(shape) for name, shape in shapes.items() if name.startswith("base") and "running" not in name
    )
    classifier = 512 * 1000 + 1000  # of ImageNet, with which the paper's repository counts 54.8 M
    assert round((backbone + classifier) / 1e6, 1) == 54.8


def test_its_last_layer_interpolates_bilinearly():
    network = DilatedResidualNetwork(num_classes=2)
    scores = torch.rand(1, 2, 5, 6)
    larger = functional.interpolate(scores, scale_factor=8, mode="bilinear", align_corners=False)
    inside = slice(4, -4)  # the border of a transposed convolution fades to 0
    assert torch.allclose(network.up(scores)[..., inside, inside], larger[..., inside, inside], atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_counters_of_newer_files_and_the_prefix_of_parallel_training_do_not_matter(tmp_path: Path, prefix: str):
    state = random_state() | {"base.0.1.num_batches_tracked": torch.tensor(7)}
    torch.save({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "drn.pth")
    network = read_drn(tmp_path / "drn.pth")
    assert torch.equal(network.seg.weight, state["seg.weight"])
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"seg.weight": None}, r"lacks the tensor seg\.weight \(float32 \[19, 512, 1, 1\]\)"),
        ({"fc.weight": torch.zeros(2)}, r"holds the tensor fc\.weight, which such a network does not have"),
        ({"seg.bias": torch.zeros(20)}, r"tensor seg\.bias is float32 \[20\], expected float32 \[19\]"),
        ({"seg.bias": torch.full((19,), torch.nan)}, r"tensor seg\.bias holds NaN"),
    ],
)
def test_what_is_unexpected_is_named(tmp_path: Path, change: dict[str, Tensor | None], complaint: str):
    state = {name: tensor for name, tensor in (random_state() | change).items() if tensor is not None}
    torch.save(state, tmp_path / "drn.pth")
    with pytest.raises(UserError, match=complaint):
        read_drn(tmp_path / "drn.pth")


def test_another_file_is_refused_unread(tmp_path: Path):
    (tmp_path / "drn.pth").write_bytes(b"nothing that could be read")
    with pytest.raises(UserError, match="expected 0000"):
        read_drn(tmp_path / "drn.pth", sha256="0" * 64)
    with pytest.raises(UserError, match="not a PyTorch file"):
        read_drn(tmp_path / "drn.pth")
    with pytest.raises(UserError, match="no file"):
        read_drn(tmp_path / "missing.pth")
