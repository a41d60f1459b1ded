"""Feature networks turn each image into a vector; distances between sets of images are distances of such vectors.

Two networks share one interface, `FeatureNetwork`. *inception* is the Inception-v3 that defines FID and KID; its
weights come from outside. *random* needs nothing from outside: a small convolutional network with fixed random weights.
Its distance orders blur, noise, colour and texture errors, but it knows no objects, and its numbers must not be called
FID.

A `FeatureIdentity` is stored with every statistics file and every result: it names the network that made the number.

Shape suffixes: N images, C channels, H height, W width, D features, K kernel size.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from components.catlib.artifacts import file_sha256
from components.catlib.data.image_conversion import in_threes, mean_of_threes
from components.catlib.errors import UserError
from components.catlib.metrics.catalogue import distance_of
from components.catlib.networks.tensor_files import load_tensors

FID_WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Digest of `pt_inception-2015-12-05-6726825d.pth`, the weights that define FID."""

INCEPTION_SIDE = 299
INCEPTION_FEATURES = 2048

RANDOM_SEED = 0
RANDOM_WIDTHS = (24, 40, 56, 72)
"""Channels per scale; together the number of features."""


class FeatureIdentity(BaseModel):
    """Which feature network made a number; numbers of different identities must not be compared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["inception", "random"] = Field(description="the network")
    dims: int = Field(ge=1, description="features per image")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="digest of the weights, or of their file")
    preprocessing: str = Field(description="what happens to 8-bit images before the first layer")

    @property
    def distance_name(self) -> str:
        """Key of the Fréchet distance of these features: `fid` for Inception only."""
        return distance_of(self.name).key


class FeatureNetwork(nn.Module):
    """A frozen network from uint8 RGB images [N, 3, H, W] to float32 features [N, D]."""

    identity: FeatureIdentity


class InceptionFeatures(FeatureNetwork):
    """Average-pooled last features of the FID Inception-v3 (Szegedy et al. 2015, the TensorFlow weights of 2015-12-05).

    The blocks are torch-fidelity's. The resize is the one that PyTorch implementations of FID share and that published
    statistics were made with: half-pixel centres, no antialiasing. (torch-fidelity imitates TensorFlow 1 there.)
    """

    def __init__(self, sha256: str) -> None:
        """Makes the network with random weights; `read_inception` loads those of a file with this digest."""
        super().__init__()
        from torch_fidelity import feature_extractor_inceptionv3 as blocks  # takes seconds, and most runs use others

        self.Conv2d_1a_3x3 = blocks.BasicConv2d(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = blocks.BasicConv2d(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = blocks.BasicConv2d(32, 64, kernel_size=3, padding=1)
        self.Conv2d_3b_1x1 = blocks.BasicConv2d(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = blocks.BasicConv2d(80, 192, kernel_size=3)
        self.Mixed_5b = blocks.InceptionA(192, pool_features=32)
        self.Mixed_5c = blocks.InceptionA(256, pool_features=64)
        self.Mixed_5d = blocks.InceptionA(288, pool_features=64)
        self.Mixed_6a = blocks.InceptionB(288)
        self.Mixed_6b = blocks.InceptionC(768, channels_7x7=128)
        self.Mixed_6c = blocks.InceptionC(768, channels_7x7=160)
        self.Mixed_6d = blocks.InceptionC(768, channels_7x7=160)
        self.Mixed_6e = blocks.InceptionC(768, channels_7x7=192)
        self.Mixed_7a = blocks.InceptionD(768)
        self.Mixed_7b = blocks.InceptionE_1(1280)
        self.Mixed_7c = blocks.InceptionE_2(2048)
        self.identity = FeatureIdentity(
            name="inception",
            dims=INCEPTION_FEATURES,
            sha256=sha256,
            preprocessing="bilinear resize to 299x299 (half-pixel centres, no antialiasing), scaled to [-1, 1]",
        )
        self.eval().requires_grad_(False)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Computes features [N, 2048] from uint8 RGB images of any size."""
        _check_images(images_NCHW)
        x_NCHW = images_NCHW.float() / 255
        x_NCHW = functional.interpolate(
            x_NCHW, size=(INCEPTION_SIDE, INCEPTION_SIDE), mode="bilinear", align_corners=False
        )
        x_NCHW = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(2 * x_NCHW - 1)))
        x_NCHW = functional.max_pool2d(x_NCHW, kernel_size=3, stride=2)
        x_NCHW = functional.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x_NCHW)), kernel_size=3, stride=2)
        x_NCHW = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x_NCHW)))
        x_NCHW = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x_NCHW)))))
        x_NCHW = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x_NCHW)))
        return x_NCHW.mean(dim=(2, 3))


class RandomFeatures(FeatureNetwork):
    """Four random 3x3 convolutions, each at half the size of the one before; the features are log mean activations.

    Every weight is a random sign, scaled by √(2 / fan-in); in high dimensions such filters are nearly orthogonal. Three
    quarters of them have their mean over the 3x3 window removed, so that they see edges and texture, not brightness.
    Signs come from the raw bits of a PCG64 generator, whose stream is fixed by its definition: the network is the same
    on every machine and with every library version, which its digest proves. The logarithm turns ratios of band
    energies into differences: blur, which takes away a small but telling share of the energy, would hardly show
    otherwise.
    """

    def __init__(self) -> None:
        """Makes the network; there is only this one."""
        super().__init__()
        bits = np.random.PCG64(RANDOM_SEED)
        widths = (3, *RANDOM_WIDTHS)
        filters = [_random_filters(bits, *pair) for pair in itertools.pairwise(widths)]
        self._filters = [f"filters_{scale}" for scale in range(len(filters))]
        for name, weight_DCKK in zip(self._filters, filters, strict=True):
            self.register_buffer(name, torch.from_numpy(weight_DCKK))
        self.identity = FeatureIdentity(
            name="random",
            dims=sum(RANDOM_WIDTHS),
            sha256=hashlib.sha256(b"".join(weight.astype("<f4").tobytes() for weight in filters)).hexdigest(),
            preprocessing="scaled to [-1, 1], no resize",
        )

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Computes features [N, 192] from uint8 RGB images of any size."""
        _check_images(images_NCHW)
        x_NCHW = images_NCHW.float() / 127.5 - 1
        features = []
        for name in self._filters:
            padded_NCHW = functional.pad(x_NCHW, (1, 1, 1, 1), mode="replicate")
            x_NCHW = functional.relu(functional.conv2d(padded_NCHW, self.get_buffer(name)))
            # 0.02 is about what a difference of one grey value gives; below it there is only rounding.
            features.append(torch.log(x_NCHW.mean(dim=(2, 3)) + 0.02))
            x_NCHW = functional.avg_pool2d(x_NCHW, kernel_size=2, ceil_mode=True)
        return torch.cat(features, dim=1)


def read_inception(weights: Path, sha256: str = FID_WEIGHTS_SHA256) -> InceptionFeatures:
    """Reads the weights of the FID Inception-v3.

    Args:
        weights: A `.pth` state dict.
        sha256: Digest the file must have; it is checked before anything is read from the file.

    Raises:
        UserError: The file is missing, has another digest, or does not hold this network.
    """
    if not weights.is_file():
        raise UserError(f"The Inception weights {weights} do not exist; give real_stats.weights.uri another path.")
    found = file_sha256(weights)
    if found != sha256:
        raise UserError(
            f"The Inception weights {weights} have the SHA-256 {found}, expected {sha256}; give the original "
            "pt_inception-2015-12-05-6726825d.pth, or set real_stats.weights.sha256 if this file is right."
        )
    with torch.device("meta"):
        network = InceptionFeatures(sha256)
    try:
        state = load_tensors(weights)
        # The classifier is not part of the features.
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
        network.load_state_dict(state, assign=True)
    except Exception as error:  # whoever gives the digest too can give any file, which can fail in any way
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{weights} does not hold the FID Inception-v3: {reason.rstrip('.')}.") from error
    return network


def load_feature_network(identity: FeatureIdentity, weights: Path | None) -> FeatureNetwork:
    """Makes the network that an identity names.

    Args:
        identity: From a statistics file.
        weights: The weights file; needed by `inception`.

    Raises:
        UserError: The weights are missing, or this release makes another network of that name.
    """
    match identity.name:
        case "inception":
            if weights is None:
                raise UserError(
                    f"The weights of the Inception network {identity.sha256[:12]}… are missing beside the statistics; "
                    "run the real-stats stage again."
                )
            network: FeatureNetwork = read_inception(weights, identity.sha256)
        case "random":
            network = RandomFeatures()
    if network.identity != identity:
        raise UserError(
            f"The statistics were made with the feature network {_described(identity)}, but this release has "
            f"{_described(network.identity)}; run the real-stats stage again."
        )
    return network


def features_of(network: FeatureNetwork, images_NCHW: Tensor) -> Tensor:
    """Computes features [N, D] of uint8 images of any number of channels: the mean over what is seen in threes."""
    return mean_of_threes(network(in_threes(images_NCHW)), len(images_NCHW))


@torch.inference_mode()
def compute_features(
    network: FeatureNetwork, batches: Iterable[NDArray[np.uint8]], device: str | torch.device = "cpu"
) -> NDArray[np.float32]:
    """Runs batches of images through a feature network.

    Args:
        network: The network; it is moved to `device`.
        batches: uint8 [N, H, W, C] each.
        device: Where to compute.

    Returns:
        float32 [total, D].
    """
    network = network.to(device)
    found = [
        features_of(network, torch.from_numpy(np.array(batch)).to(device).permute(0, 3, 1, 2)).cpu().numpy()
        for batch in batches
    ]
    return np.concatenate([np.empty((0, network.identity.dims), np.float32), *found])


def _random_filters(bits: np.random.PCG64, in_channels: int, num_filters: int) -> NDArray[np.float32]:
    shape = (num_filters, in_channels, 3, 3)
    words = bits.random_raw((np.prod(shape) + 63) // 64).astype("<u8")
    signs = np.unpackbits(words.view(np.uint8), bitorder="little")[: np.prod(shape)]
    weight_DCKK = signs.reshape(shape).astype(np.float32) * 2 - 1
    edges = num_filters * 3 // 4
    weight_DCKK[:edges] -= weight_DCKK[:edges].mean(axis=(2, 3), keepdims=True)
    return weight_DCKK * np.float32(np.sqrt(2 / (9 * in_channels)))


def _check_images(images_NCHW: Tensor) -> None:
    assert images_NCHW.dtype == torch.uint8, f"feature networks take uint8 images, got {images_NCHW.dtype}"
    assert images_NCHW.ndim == 4, f"feature networks take [N, 3, H, W], got {tuple(images_NCHW.shape)}"
    assert images_NCHW.shape[1] == 3, f"feature networks take [N, 3, H, W], got {tuple(images_NCHW.shape)}"


def _described(identity: FeatureIdentity) -> str:
    return f"{identity.name} ({identity.dims} features, weights {identity.sha256[:12]}…, {identity.preprocessing})"
