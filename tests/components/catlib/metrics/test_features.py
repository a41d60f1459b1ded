import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from components.catlib.artifacts import file_sha256
from components.catlib.errors import UserError
from components.catlib.metrics.features import (
    FID_WEIGHTS_SHA256,
    FeatureIdentity,
    InceptionFeatures,
    RandomFeatures,
    compute_features,
    load_feature_network,
    read_inception,
)
from components.catlib.metrics.frechet import Gaussian, frechet_distance

SIDE = 48


# ------------------------------------------------------------------------------------------------------ random features


def pictures(seed: int, count: int = 80) -> Tensor:
    """Pictures of overlapping coloured discs over a rough ground: uint8 [count, 3, SIDE, SIDE]."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    made = np.empty((count, SIDE, SIDE, 3))
    for picture in made:
        picture[:] = random.normal(random.uniform(60, 120, 3), 12, (SIDE, SIDE, 3))
        for _ in range(12):
            row, column, radius = *random.uniform(0, SIDE, 2), random.uniform(2, 12)
            inside = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
            picture[inside] = random.normal(random.uniform(40, 220, 3), 6, (inside.sum(), 3))
    return torch.from_numpy(made.clip(0, 255).round().astype(np.uint8)).permute(0, 3, 1, 2)


def blurred(images: Tensor, sigma: float) -> Tensor:
    offsets = torch.arange(-12, 13)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(3, 1)
    padded = functional.pad(images.float(), (12, 12, 12, 12), mode="reflect")
    padded = functional.conv2d(padded, kernel[:, None, None, :], groups=3)
    return functional.conv2d(padded, kernel[:, None, :, None], groups=3).round().to(torch.uint8)


def noisy(images: Tensor, deviation: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + deviation * noise).round().clamp(0, 255).to(torch.uint8)


def recoloured(images: Tensor, shift: float) -> Tensor:
    return (images + shift * torch.tensor([1.0, 0, -1]).view(3, 1, 1)).round().clamp(0, 255).to(torch.uint8)


def flattened(images: Tensor, lost: float) -> Tensor:
    means = images.float().mean(dim=(2, 3), keepdim=True)
    return (means + (1 - lost) * (images - means)).round().to(torch.uint8)


@pytest.mark.parametrize(
    ("degraded", "amounts"),
    [
        (blurred, (0.6, 1.0, 2.0, 4.0)),
        (noisy, (8, 16, 32, 64)),
        (recoloured, (10, 20, 40, 80)),
        (flattened, (0.2, 0.4, 0.6, 0.8)),
    ],
)
def test_random_features_order_degradations(degraded: Callable[[Tensor, float], Tensor], amounts: tuple[float, ...]):
    def gaussian(images: Tensor) -> Gaussian:
        return Gaussian.from_samples(RandomFeatures()(images).numpy())

    real, others = gaussian(pictures(0)), pictures(1)
    unchanged = frechet_distance(gaussian(others), real)
    distances = [frechet_distance(gaussian(degraded(others, amount)), real) for amount in amounts]
    assert distances == sorted(distances)
    assert distances[0] > 1.1 * unchanged
    assert distances[-1] > 5 * unchanged


def test_random_features_are_the_same_on_every_machine():
    network = RandomFeatures()
    assert network.identity.sha256 == "62d82fd89e648277826eba3f5aae7c8a524d19ee2face778b493e28c134d1097"
    assert network.identity.dims == network(pictures(0, 1)).shape[1]
    assert network.identity.distance_name == "frechet_random_features"
    # Nothing global is drawn from, so that reading statistics does not change a training.
    before = torch.get_rng_state()
    assert torch.equal(RandomFeatures()(pictures(0, 2)), network(pictures(0, 2)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (17, 16)])
def test_random_features_take_any_size(size: tuple[int, int]):
    features = RandomFeatures()(torch.zeros(2, 3, *size, dtype=torch.uint8))
    assert torch.isfinite(features).all()


def test_images_come_as_uint8_rgb():
    with pytest.raises(AssertionError, match="uint8"):
        RandomFeatures()(torch.zeros(1, 3, 8, 8))
    with pytest.raises(AssertionError, match="3, H, W"):
        RandomFeatures()(torch.zeros(1, 4, 8, 8, dtype=torch.uint8))


def test_batches_are_joined_in_order():
    images = pictures(0, 5)
    rows = images.permute(0, 2, 3, 1).numpy()
    together = compute_features(RandomFeatures(), [rows[:2], rows[2:]])
    assert np.allclose(together, RandomFeatures()(images), atol=1e-5)
    assert compute_features(RandomFeatures(), []).shape == (0, 192)


# ------------------------------------------------------------------------------------------------------------ inception


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like the published one: features and classifier, here with random weights that keep activations alive."""
    torch.manual_seed(1)
    state = InceptionFeatures("0" * 64).state_dict()
    for name, tensor in state.items():
        if name.endswith("conv.weight"):
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5)
    state |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(state, path)
    return path


def test_inception_computes_what_torch_fidelity_does(inception_file: Path):
    ours = read_inception(inception_file, file_sha256(inception_file))
    theirs = FeatureExtractorInceptionV3("test", ["2048"], feature_extractor_weights_path=str(inception_file))
    images = functional.interpolate(pictures(0, 2).float(), size=(299, 299)).to(torch.uint8)
    (expected,) = theirs(images)
    # Theirs subtracts 128 and divides by 128 where ours divides by 127.5 and subtracts 1: half a grey value.
    assert torch.allclose(ours(images), expected, rtol=0.05, atol=0.03 * expected.std().item())
    assert expected.std() > 0.01


def test_inception_resizes_as_published_statistics_do(inception_file: Path):
    network = read_inception(inception_file, file_sha256(inception_file))
    small = pictures(0, 1)
    resized = functional.interpolate(small.float(), size=(299, 299), mode="bilinear", align_corners=False)
    assert torch.allclose(network(small), network(resized.round().to(torch.uint8)), rtol=0.02, atol=1e-3)
    assert network(small).shape == (1, network.identity.dims)


def test_inception_is_frozen_and_draws_no_random_numbers(inception_file: Path):
    digest = file_sha256(inception_file)
    before = torch.get_rng_state()
    network = read_inception(inception_file, digest)
    assert torch.equal(torch.get_rng_state(), before)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert (network.identity.sha256, network.identity.distance_name) == (digest, "fid")


def test_inception_weights_are_checked_before_they_are_read(tmp_path: Path):
    with pytest.raises(UserError, match="do not exist"):
        read_inception(tmp_path / "missing.pth")
    path = tmp_path / "other.pth"
    path.write_bytes(b"not weights")
    with pytest.raises(UserError, match=f"expected {FID_WEIGHTS_SHA256}"):
        read_inception(path)
    with pytest.raises(UserError, match=r"does not hold the FID Inception-v3"):
        read_inception(path, hashlib.sha256(b"not weights").hexdigest())
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"does not hold the FID Inception-v3: .*Conv2d_1a_3x3"):
        read_inception(path, file_sha256(path))
    torch.save([1, 2], path)
    with pytest.raises(UserError, match=r"does not hold the FID Inception-v3"):
        read_inception(path, file_sha256(path))


def test_weights_that_would_run_code_are_refused(tmp_path: Path):
    class Runs:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "evil.pth"
    torch.save({"weight": Runs()}, path)
    with pytest.raises(UserError, match="does not hold"):
        read_inception(path, file_sha256(path))
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------------------------- identity


def test_an_identity_brings_its_network_back(inception_file: Path):
    network = read_inception(inception_file, file_sha256(inception_file))
    assert isinstance(load_feature_network(network.identity, inception_file), InceptionFeatures)
    assert isinstance(load_feature_network(RandomFeatures().identity, None), RandomFeatures)


def test_another_network_of_the_same_name_is_refused():
    other = FeatureIdentity(name="random", dims=192, sha256="1" * 64, preprocessing="none")
    with pytest.raises(UserError, match=r"random \(192 features, weights 1111.*, but this release has .*62d8"):
        load_feature_network(other, None)
    with pytest.raises(UserError, match="are missing beside the statistics"):
        load_feature_network(other.model_copy(update={"name": "inception"}), None)
