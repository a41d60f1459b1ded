"""Reads files that the reference implementation, or anybody else, published.

Networks are `.pth` files with a state dict, perhaps with the prefix `module.` of a data-parallel run; statistics are
`.npz` files with `mu` [2048] and `sigma` [2048, 2048]. The files are not trusted: nothing in them is executed, and
anything unexpected ends in a `UserError` that names it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from components.catlib.artifacts import file_sha256
from components.catlib.errors import UserError
from components.catlib.networks.tensor_files import UnreadableError, load_tensors

MAX_FILE_BYTES = 4 * 2**30
"""Larger files are refused unread, compressed or not; the largest published network has a quarter of a gigabyte."""

MAX_TENSORS = 100_000
"""State dicts with more tensors are refused; the largest published network has about two thousand."""

MAX_NAME_LENGTH = 200

FEATURE_DIMENSIONS = 2048
"""Number of features of the FID Inception-v3 (method section 7)."""


class FeatureStatistics(NamedTuple):
    """Mean [D] and covariance [D, D] of image features, float64."""

    mu: np.ndarray
    sigma: np.ndarray


def load_statistics(path: Path, *, sha256: str | None = None) -> FeatureStatistics:
    """Reads published statistics of real images.

    Args:
        path: An `.npz` file with `mu` [2048] and `sigma` [2048, 2048].
        sha256: Expected digest of the file; None accepts any.

    Raises:
        UserError: The file holds something else, or is not the expected file; the message gives the reason.
    """
    check_file(path, sha256=sha256)
    try:
        arrays = read_arrays(path, ("mu", "sigma"))
    except Exception as error:  # an untrusted file can make the reader fail in any way
        raise UserError(f"{path} is not an .npz file of plain arrays ({first_line(error)}).") from error
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


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Reads those of the named arrays that an `.npz` file has.

    The caller catches every exception, because a damaged file can make NumPy fail in any way.

    Raises:
        ValueError: A name stands for something else than an array, of which NumPy returns the bytes.
    """
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in names if name in archive.files}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{name} is not an array")
    return arrays


def check_file(path: Path, *, sha256: str | None = None) -> None:
    """Checks a file from outside before it is read: that it exists, its size and, if known, its digest.

    Args:
        path: The file.
        sha256: Its expected digest; None accepts any.

    Raises:
        UserError: The file is missing, too large, another one, or a damaged archive.
    """
    try:
        there = path.is_file()
    except OSError as error:  # the name is too long, or a folder on the way may not be entered
        raise UserError(f"{path} cannot be read ({error.strerror}); correct the path.") from error
    if not there:
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
            raise UserError(f"{path} is a damaged zip archive ({first_line(error)}).") from error
        if unpacked > MAX_FILE_BYTES:
            raise UserError(f"{path} unpacks to more than {MAX_FILE_BYTES // 2**30} GiB; that is no file of this kind.")


def read_state_dict(path: Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """Reads a `.pth` file of tensors; a prefix `module.` on every name is removed.

    Args:
        path: The file.
        sha256: Its expected digest; None accepts any.

    Returns:
        Tensors on the CPU by name: floats as float32, integers as int64.

    Raises:
        UserError: The file is not a dictionary of dense tensors, holds code, is too large or not the expected file; the
            message gives the reason.
    """
    check_file(path, sha256=sha256)
    try:
        content = load_tensors(path)
    except UnreadableError as error:
        raise UserError(f"{path} is not a PyTorch file that holds tensors and nothing else ({error}).") from error
    if not isinstance(content, Mapping) or not 0 < len(content) <= MAX_TENSORS:
        raise UserError(
            f"{path} holds a {type(content).__name__}, expected a state dict of at most {MAX_TENSORS} tensors."
        )
    for name, value in content.items():
        if isinstance(value, Mapping) and any(isinstance(each, Tensor) for each in value.values()):
            entry = repr(str(name)[:40])
            raise UserError(
                f"{path} is a checkpoint, not a state dict: its entry {entry} holds tensors by name; save this entry "
                f"alone, torch.save(torch.load(FILE, weights_only=True)[{entry}], NEW_FILE), and give the new file."
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


def first_line(error: Exception) -> str:
    """Returns what an error says in its first line, or its type, to end a sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
