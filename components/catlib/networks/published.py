"""Reads networks and statistics that the reference implementation published.

Networks are `.pth` files with a state dict in the key layout of method sections 1 and 2, perhaps with the prefix
`module.` of a data-parallel run; statistics are `.npz` files with `mu` [2048] and `sigma` [2048, 2048]. What a network
is built from is inferred from the names and shapes of its tensors; the little that they cannot tell (padding, dropout,
activation, batch or sync-batch norm, sizes) comes from the recipe.

The files come from strangers: nothing in them is executed, and whatever is not as expected ends in a [UserError][
components.catlib.errors.UserError] that names it.
"""

from __future__ import annotations

import itertools
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from components.catlib.artifacts import file_sha256
from components.catlib.config import (
    DiscriminatorConfig,
    GeneratorConfig,
    InceptionConfig,
    InceptionSpadeConfig,
    NormConfig,
    PatchConfig,
    PixelConfig,
    Section,
    validate,
)
from components.catlib.errors import UserError
from components.catlib.networks.discriminator_architecture import DiscriminatorArchitecture
from components.catlib.networks.discriminators import Discriminator, build_discriminator
from components.catlib.networks.families import Architecture, parse_architecture
from components.catlib.networks.generators import Generator, build_generator
from components.catlib.networks.spade.architecture import UPSAMPLING_STEPS
from components.catlib.networks.state_dicts import build_with_state

MAX_FILE_BYTES = 4 * 2**30
"""Larger files are refused unread, compressed or not; the largest published network has a quarter of a gigabyte."""

MAX_TENSORS = 100_000
"""A state dict of more is refused; the largest published network has about two thousand."""

MAX_NAME_LENGTH = 200

MAX_CHANNELS = 2**16
MAX_KERNEL_SIZE = 2**8
"""Convolutions beyond these are refused: a few stored bytes can pose as a tensor of any shape."""

FEATURE_DIMENSIONS = 2048
"""Of the FID Inception-v3 (method section 7)."""


Settings = TypeVar("Settings", bound=Section)


class FeatureStatistics(NamedTuple):
    """Mean [D] and covariance [D, D] of image features, float64."""

    mu: np.ndarray
    sigma: np.ndarray


# ----------------------------------------------------------------------------------------------------------- from files


def load_generator(
    path: Path, *, like: GeneratorConfig | Architecture, input_size: tuple[int, int], sha256: str | None = None
) -> Generator:
    """Reads a published generator, teacher or student, in eval mode on the CPU.

    Args:
        path: A `.pth` file.
        like: Supplies what tensors cannot tell: padding, dropout, activation, momentum and epsilon of norms, batch or
            sync-batch norm, and for SPADE the number of up-sampling layers and the kind of norms without statistics.
        input_size: Height, width in pixels of the images it is used for; a SPADE generator makes images of this size.
        sha256: Expected digest of the file.

    Raises:
        UserError: The file is not such a network, or not the expected file; it says why.
    """
    state = read_state_dict(path, sha256=sha256)
    return generator_from_state(state, like=like, input_size=input_size, where=str(path))


def load_discriminator(
    path: Path, *, like: DiscriminatorConfig | DiscriminatorArchitecture, sha256: str | None = None
) -> Discriminator:
    """Reads a published discriminator, in eval mode on the CPU.

    Args:
        path: A `.pth` file.
        like: Supplies what tensors cannot tell: momentum and epsilon of norms, and batch or sync-batch norm.
        sha256: Expected digest of the file.

    Raises:
        UserError: The file is not such a network, or not the expected file; it says why.
    """
    return discriminator_from_state(read_state_dict(path, sha256=sha256), like=like, where=str(path))


def load_statistics(path: Path, *, sha256: str | None = None) -> FeatureStatistics:
    """Reads published statistics of real images.

    Args:
        path: An `.npz` file with `mu` [2048] and `sigma` [2048, 2048].
        sha256: Expected digest of the file.

    Raises:
        UserError: The file holds something else, or is not the expected file; it says why.
    """
    check_file(path, sha256=sha256)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("mu", "sigma") if name in archive.files}
    except Exception as error:  # an untrusted file can make the reader fail in any way
        raise UserError(f"{path} is not an .npz file of plain arrays ({_reason(error)}).") from error
    for name, shape in (("mu", (FEATURE_DIMENSIONS,)), ("sigma", (FEATURE_DIMENSIONS, FEATURE_DIMENSIONS))):
        if name not in arrays:
            raise UserError(f"{path} has no array {name}; statistics of real images hold mu and sigma.")
        array = arrays[name]
        if array.shape != shape or not np.issubdtype(array.dtype, np.floating):
            raise UserError(f"{path}: {name} is {array.dtype} {list(array.shape)}, expected floats {list(shape)}.")
        if not np.isfinite(array).all():
            raise UserError(f"{path}: {name} holds NaN or infinity.")
    mu, sigma = arrays["mu"].astype(np.float64), arrays["sigma"].astype(np.float64)
    if not np.allclose(sigma, sigma.T, rtol=1e-3, atol=1e-6) or sigma.diagonal().min() < 0:
        raise UserError(f"{path}: sigma is not a covariance matrix (symmetric, with variances of at least 0).")
    return FeatureStatistics(mu, sigma)


def check_file(path: Path, *, sha256: str | None = None) -> None:
    """Checks a file from outside before it is read: that it exists, its size and, when known, its digest.

    Raises:
        UserError: It says what is wrong.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"{path} is larger than {MAX_FILE_BYTES // 2**30} GiB; that is no file of this kind.")
    if sha256 is not None and (found := file_sha256(path)) != sha256:
        raise UserError(f"{path} has the SHA-256 {found}, expected {sha256}; it is another file, or damaged.")
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
        except Exception as error:  # as above
            raise UserError(f"{path} is a damaged zip archive ({_reason(error)}).") from error
        if unpacked > MAX_FILE_BYTES:
            raise UserError(f"{path} unpacks to more than {MAX_FILE_BYTES // 2**30} GiB; that is no file of this kind.")


def read_state_dict(path: Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Reads a `.pth` file of tensors; a prefix `module.` on every name is removed.

    Args:
        path: The file.
        sha256: Its expected digest.

    Returns:
        Tensors on the CPU by name: floats as float32, integers as int64.

    Raises:
        UserError: The file is not a dictionary of finite, dense tensors, holds code, is too large or not the expected
            file; it says why.
    """
    check_file(path, sha256=sha256)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an untrusted file can make the reader fail in any way
        raise UserError(
            f"{path} is not a PyTorch file that holds tensors and nothing else ({_reason(error)})."
        ) from error
    if not isinstance(content, Mapping) or not 0 < len(content) <= MAX_TENSORS:
        raise UserError(
            f"{path} holds a {type(content).__name__}, expected a state dict of at most {MAX_TENSORS} tensors."
        )
    for name, value in content.items():
        if not isinstance(name, str) or len(name) > MAX_NAME_LENGTH:
            raise UserError(f"{path}: an entry is called {str(name)[:40]!r}, which is no name of a tensor.")
        if not isinstance(value, Tensor):
            raise UserError(f"{path}: entry {name!r} is a {type(value).__name__}, expected only tensors.")
        if 0 in value.shape:
            raise UserError(f"{path}: tensor {name} is empty, of shape {list(value.shape)}.")
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_complex() or value.is_quantized:
            raise UserError(f"{path}: tensor {name} is not made of plain numbers.")
    # A few stored bytes can pose as a tensor of any size, so count before anything is copied.
    if sum(value.numel() for value in content.values()) * 4 > MAX_FILE_BYTES:
        raise UserError(
            f"{path} holds more than {MAX_FILE_BYTES // 2**30} GiB of weights; no such network is this large."
        )
    prefix = "module." if all(name.startswith("module.") for name in content) else ""
    return {name.removeprefix(prefix): _plain(value) for name, value in content.items()}


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float32 if tensor.is_floating_point() else torch.int64).contiguous()


def _reason(error: Exception) -> str:
    """Returns what a reader's error says without the paragraphs of advice that unpicklers add."""
    refused = re.search(r"(Trying to load )?[Uu]nsupported .*", str(error))
    lines = (refused[0] if refused else str(error)).strip().splitlines()
    return lines[0].partition(". ")[0].rstrip(".") if lines else type(error).__name__


# --------------------------------------------------------------------------------------------------------- from tensors


def generator_from_state(
    state: Mapping[str, Tensor], *, like: GeneratorConfig | Architecture, input_size: tuple[int, int], where: str
) -> Generator:
    """Builds the generator that a state dict belongs to, with its weights, in eval mode.

    Tensors that the published layout keeps for blocks without branches, where nothing reads them, are dropped.

    Args:
        state: float32 tensors by published name, int64 batch counters.
        like: As in [load_generator][].
        input_size: Height, width in pixels.
        where: What to call the state dict in a message.

    Raises:
        UserError: Names what is missing, unexpected or not finite.
    """
    names = _Names(state, where)
    if "down_sampling.1.weight" in state:
        architecture = _inception_architecture(names, _as(InceptionConfig, like))
        unread = [
            f"features.{i}.pw_bn."
            for i, block in enumerate(architecture["blocks"])
            if not any(block["res"] + block["dw"])
        ]
    elif "fc.weight" in state:
        architecture = _spade_architecture(names, _as(InceptionSpadeConfig, like), input_size)
        unread = [
            f"{name}.spade."
            for name, block in architecture["blocks"].items()
            if not any(block["branches"]["res"] + block["branches"]["dw"])
        ]
    else:
        raise UserError(
            f"{where} is not a generator: it has neither down_sampling.1.weight nor fc.weight but {names.some()}."
        )
    try:
        parsed = parse_architecture(architecture)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    read = {name: value for name, value in state.items() if not name.startswith(tuple(unread))}
    return build_with_state(lambda: build_generator(parsed), _with_batch_counters(read), where=where)


def discriminator_from_state(
    state: Mapping[str, Tensor], *, like: DiscriminatorConfig | DiscriminatorArchitecture, where: str
) -> Discriminator:
    """Builds the discriminator that a state dict belongs to, with its weights, in eval mode.

    Args:
        state: float32 tensors by published name, int64 batch counters.
        like: As in [load_discriminator][].
        where: What to call the state dict in a message.

    Raises:
        UserError: Names what is missing, unexpected or not finite.
    """
    names = _Names(state, where)
    if "model.0.weight" in state:
        settings = _patch_settings(names, _as(PatchConfig, like))
    elif "net.0.weight" in state:
        settings = _pixel_settings(names, _as(PixelConfig, like))
    elif "discriminator_0.model0.0.weight" in state:
        settings = _multiscale_settings(names)
    else:
        raise UserError(
            f"{where} is not a discriminator: it has none of model.0.weight, net.0.weight and "
            f"discriminator_0.model0.0.weight but {names.some()}."
        )
    architecture = validate(DiscriminatorArchitecture, settings, where=f"{where} is not a discriminator")
    return build_with_state(lambda: build_discriminator(architecture), _with_batch_counters(state), where=where)


def _as(family: type[Settings], like: Section) -> Settings:
    """Returns the settings of a family that agree with a section, or an architecture, where both have the same one."""
    shared = set(family.model_fields) - {"family", "base_channels", "num_layers"}
    return family.model_validate(like.model_dump(include=shared))


def _with_batch_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adds the counters of batches that norms of old PyTorch did not keep; with a momentum nothing reads them."""
    counters = {
        name.replace(".running_mean", ".num_batches_tracked"): torch.zeros((), dtype=torch.int64)
        for name in state
        if name.endswith(".running_mean")
    }
    return counters | dict(state)


# ---------------------------------------------------------------------------------------------- inferring architectures


@dataclass(frozen=True)
class _Names:
    """A state dict that is being explored."""

    state: Mapping[str, Tensor]
    where: str

    @cached_property
    def modules(self) -> frozenset[str]:
        """The paths of all modules, inner and outer, that hold a tensor."""
        paths = (name.split(".")[:-1] for name in self.state)
        return frozenset(".".join(path[:depth]) for path in paths for depth in range(1, len(path) + 1))

    def kernel(self, name: str) -> tuple[int, int, int]:
        """Returns output channels, input channels (per group) and kernel size of a convolution that must be there."""
        if name not in self.state:
            raise UserError(f"{self.where} lacks the tensor {name}.")
        shape = list(self.state[name].shape)
        if len(shape) != 4 or shape[2] != shape[3] or max(shape[:2]) > MAX_CHANNELS or shape[2] > MAX_KERNEL_SIZE:
            raise UserError(
                f"{self.where}: tensor {name} has the shape {shape}, expected that of a square convolution."
            )
        return shape[0], shape[1], shape[2]

    def numbers(self, prefix: str) -> list[int]:
        """Returns 0, 1, … as long as there is a module `<prefix><number>`."""
        return list(itertools.takewhile(lambda number: f"{prefix}{number}" in self.modules, itertools.count()))

    def count(self, prefix: str) -> int:
        """Returns how many modules `<prefix><number>` there are, counting those that hold no tensors between others."""
        numbered = (re.fullmatch(re.escape(prefix) + r"(\d{1,3})", path) for path in self.modules)
        return max((int(match[1]) + 1 for match in numbered if match), default=0)

    def some(self) -> str:
        """Returns a few names for a message."""
        return ", ".join(itertools.islice(self.state, 3)) + (", …" if len(self.state) > 3 else "")

    def norm(self, like: NormConfig, name: str, *, kind: str) -> dict[str, Any]:
        """Returns the configuration of norms such as the one of this name."""
        return like.model_dump() | {
            "kind": kind,
            "affine": f"{name}.weight" in self.state,
            "track_running_stats": f"{name}.running_mean" in self.state,
        }

    def norm_after(self, like: NormConfig, convolution: str, name: str) -> dict[str, Any]:
        """Returns the configuration of norms where convolutions have a bias exactly in front of instance norm."""
        batch = like.kind if like.kind != "instance" else "batch"
        return self.norm(like, name, kind="instance" if f"{convolution}.bias" in self.state else batch)


_Branches = tuple[list[tuple[int, int]], list[tuple[int, int]]]
"""Kernel size and hidden channels of the residual-conv and of the depthwise branches that exist, in order."""


def _branches(names: _Names, prefix: str, *, residual_convolution: str, depthwise_convolution: str) -> _Branches:
    """Reads off the convolution that shows a branch's kernel size; its output channels are the hidden ones."""
    found: _Branches = ([], [])
    for branches, path, convolution in zip(
        found, ("res_ops", "dw_ops"), (residual_convolution, depthwise_convolution), strict=True
    ):
        for number in names.numbers(f"{prefix}.{path}."):
            weight = f"{prefix}.{path}.{number}.{convolution}.weight"
            hidden, _, kernel_size = names.kernel(weight if weight in names.state else f"{weight}_orig")
            branches.append((kernel_size, hidden))
    return found


def _kernel_sizes(blocks: list[_Branches], where: str) -> tuple[int, ...]:
    """Returns every kernel size in the one order that all blocks keep to."""
    sequences = [[kernel_size for kernel_size, _ in branches] for block in blocks for branches in block]
    order = TopologicalSorter[int]()
    for size in sorted(set(itertools.chain(*sequences))):
        order.add(size)
    for sequence in sequences:
        for earlier, later in itertools.pairwise(sequence):
            order.add(later, earlier)
    try:
        return tuple(order.static_order())
    except CycleError as error:
        raise UserError(
            f"{where}: blocks hold the kernel sizes {sorted(set(error.args[1]))} in differing orders."
        ) from error


def _branch_channels(branches: _Branches, kernel_sizes: tuple[int, ...]) -> dict[str, list[int]]:
    return {
        kind: [dict(of_kind).get(kernel_size, 0) for kernel_size in kernel_sizes]
        for kind, of_kind in zip(("res", "dw"), branches, strict=True)
    }


def _inception_architecture(names: _Names, like: InceptionConfig) -> dict[str, Any]:
    first = names.kernel("down_sampling.1.weight")
    blocks = [
        _branches(names, f"features.{number}", residual_convolution="1.0", depthwise_convolution="2.0")
        for number in range(names.count("features."))
    ]
    kernel_sizes = _kernel_sizes(blocks, names.where) or like.kernel_sizes
    return {
        "family": "inception",
        "in_channels": first[1],
        "out_channels": names.kernel("up_sampling.7.weight")[0],
        "down": [first[0], names.kernel("down_sampling.4.weight")[0], names.kernel("down_sampling.7.weight")[0]],
        "blocks": [_branch_channels(block, kernel_sizes) for block in blocks],
        "up": [names.kernel("up_sampling.0.weight")[1], names.kernel("up_sampling.3.weight")[1]],
        "kernel_sizes": kernel_sizes,
        "norm": names.norm_after(like.norm, "down_sampling.1", "down_sampling.2"),
        "padding": like.padding,
        "dropout": like.dropout,
        "activation": like.activation,
    }


def _spade_architecture(names: _Names, like: InceptionSpadeConfig, input_size: tuple[int, int]) -> dict[str, Any]:
    width, semantic_channels, _ = names.kernel("fc.weight")
    if width % 16:
        raise UserError(f"{names.where}: tensor fc.weight makes {width} channels, expected a multiple of 16.")
    ups = [f"up_{number}" for number in names.numbers("up_")]
    blocks = {}
    for name in ["head_0", "G_middle_0", "G_middle_1", *ups]:
        main = _branches(names, name, residual_convolution="0.conv", depthwise_convolution="1.conv")
        spade = _branches(names, f"{name}.spade", residual_convolution="0.conv", depthwise_convolution="1.conv")
        blocks[name] = {"branches": main, "spade": spade}
    every = [branches for block in blocks.values() for branches in block.values()]
    kernel_sizes = _kernel_sizes(every, names.where) or like.kernel_sizes
    few = "normal" if like.num_upsampling_layers == "normal" else "more"
    upsampling = "most" if len(ups) == 5 else few
    height, crop_width = input_size
    multiple = 2 ** UPSAMPLING_STEPS[upsampling]
    if height % multiple or crop_width % multiple:
        raise UserError(
            f"{names.where} is a SPADE generator that doubles its size {UPSAMPLING_STEPS[upsampling]} times "
            f"(num_upsampling_layers {upsampling}): images must be multiples of {multiple} pixels, found "
            f"{height}x{crop_width}."
        )
    return {
        "family": "inception_spade",
        "semantic_channels": semantic_channels,
        "out_channels": names.kernel("conv_img.weight")[0],
        "base_channels": width // 16,
        "blocks": {
            name: {part: _branch_channels(branches, kernel_sizes) for part, branches in block.items()}
            for name, block in blocks.items()
        },
        "kernel_sizes": kernel_sizes,
        "num_upsampling_layers": upsampling,
        "crop_width": crop_width,
        "aspect_ratio": crop_width / height,
        "norm": _spade_branch_norm(names, like),
        "spade_norm": _spade_norm_kind(names, like),
        "spectral": any(name.endswith(".weight_orig") for name in names.state),
        "dropout": like.dropout,
        "activation": like.activation,
    }


def _spade_branch_norm(names: _Names, like: InceptionSpadeConfig) -> dict[str, Any]:
    """Convolutions always have a bias here, so only running statistics tell batch norm from instance norm."""
    of_branches = (name for name in names.state if re.search(r"_ops\.\d+\.0\.norm\.", name))
    norm = next(of_branches, "up_0.shortcut.0.weight").rpartition(".")[0]
    tracks = f"{norm}.running_mean" in names.state
    return names.norm(like.norm, norm, kind="syncbatch" if tracks and like.norm.kind == "instance" else like.norm.kind)


def _spade_norm_kind(names: _Names, like: InceptionSpadeConfig) -> str:
    if not any(name.endswith(".spade.param_free_norm.running_mean") for name in names.state):
        return "instance"
    return like.spade_norm if like.spade_norm != "instance" else "syncbatch"


def _patch_settings(names: _Names, like: PatchConfig) -> dict[str, Any]:
    width, in_channels, _ = names.kernel("model.0.weight")
    positions = [int(name.split(".")[1]) for name in names.state if re.fullmatch(r"model\.\d{1,3}\.weight", name)]
    return {
        "family": "patch",
        "in_channels": in_channels,
        "base_channels": width,
        "num_layers": (max(positions) - 2) // 3,
        "norm": names.norm_after(like.norm, "model.2", "model.3"),
    }


def _pixel_settings(names: _Names, like: PixelConfig) -> dict[str, Any]:
    width, in_channels, _ = names.kernel("net.0.weight")
    return {
        "family": "pixel",
        "in_channels": in_channels,
        "base_channels": width,
        "norm": names.norm_after(like.norm, "net.2", "net.3"),
    }


def _multiscale_settings(names: _Names) -> dict[str, Any]:
    width, in_channels, _ = names.kernel("discriminator_0.model0.0.weight")
    return {
        "family": "multiscale",
        "in_channels": in_channels,
        "base_channels": width,
        "num_layers": len(names.numbers("discriminator_0.model")) - 1,
        "num_scales": len(names.numbers("discriminator_")),
    }
