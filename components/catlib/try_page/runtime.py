"""Fetches onnxruntime-web by npm, checks it against the digest below, and packs the parts that a page needs."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from components.catlib.artifacts import replacing
from components.catlib.disk import temporary_folder, writing_to
from components.catlib.errors import Unavailable, UserError
from components.catlib.storage.cache import user_folder

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Digest of the package's file, as lock files of npm write it."""

FILE = f"{PACKAGE}-{VERSION}.tgz"

SECONDS = 600
"""Time that npm has for the download of 33 MB."""

PARTS = {
    "cpu-script": "package/dist/ort.wasm.bundle.min.mjs",
    "cpu-binary": "package/dist/ort-wasm-simd-threaded.wasm",
    "gpu-script": "package/dist/ort.webgpu.bundle.min.mjs",
    "gpu-binary": "package/dist/ort-wasm-simd-threaded.asyncify.wasm",
}
"""Name in the page -> file of the package; both builds, because the one with WebGPU is slow on the CPU."""


@dataclass(frozen=True)
class Runtime:
    """What a page needs of ONNX Runtime.

    Attributes:
        parts: Name of a part (`PARTS`) -> the packed file.
        licence: Its licence, as text.
        notices: Licences of what it contains, packed.
    """

    parts: Mapping[str, str]
    licence: str
    notices: str


@functools.cache
def load_runtime() -> Runtime:
    """Returns onnxruntime-web, which npm fetches unless an earlier call did.

    The package has no text of its licence. The Python package of the same project has both texts.

    Raises:
        UserError: npm is not installed, or what it fetched is not the recorded file.
        Unavailable: npm cannot fetch the package now.
    """
    with tarfile.open(fetch()) as archive:
        parts = {name: packed(_member(archive, file)) for name, file in PARTS.items()}
    texts = Path(onnxruntime.__file__).parent
    return Runtime(
        parts,
        (texts / "LICENSE").read_text(encoding="utf-8"),
        packed((texts / "ThirdPartyNotices.txt").read_bytes()),
    )


def fetch(folder: Path | None = None) -> Path:
    """Returns the package's file, which is downloaded once.

    Args:
        folder: Where it is kept; None: the user's cache folder.

    Raises:
        UserError: npm is not installed, or what it fetched is not the recorded file.
        Unavailable: npm cannot fetch the package now.
    """
    folder = user_folder() / "npm" if folder is None else folder
    kept = folder / FILE
    if kept.is_file() and _integrity(kept) == INTEGRITY:
        return kept
    with temporary_folder("npm-") as place:
        _download(place)
        if not (place / FILE).is_file() or _integrity(place / FILE) != INTEGRITY:
            raise UserError(
                f"npm fetched another {PACKAGE} {VERSION} than the one whose digest this project records, so no page "
                "is made of it; check the registry that npm is set to use."
            )
        with writing_to(kept):
            folder.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as partial:
            shutil.copyfile(place / FILE, partial)
    return kept


def packed(content: bytes) -> str:
    """Returns bytes compressed and as text; the same bytes give the same text."""
    return base64.b64encode(gzip.compress(content, compresslevel=6, mtime=0)).decode("ascii")


def _download(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"npm is not installed, which fetches {PACKAGE} {VERSION} for the page; install Node.js with npm, then run "
            "this again."
        )
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--fetch-retries=1"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=SECONDS)
        failed, lines = done.returncode != 0, done.stderr.splitlines()
    except (OSError, subprocess.TimeoutExpired) as error:
        failed, lines = True, [str(error)]
    if failed:
        # "npm error code ENOTFOUND" comes first; what it means comes next.
        reasons = [line.removeprefix("npm error ") for line in lines if line.strip() and "A complete log" not in line]
        reason = ", ".join(reasons[:2]) or "no reason given"
        raise Unavailable(f"npm cannot fetch {PACKAGE} {VERSION} ({reason}); run this again when it can.")


def _integrity(path: Path) -> str:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha512").digest()
    return f"sha512-{base64.b64encode(digest).decode('ascii')}"


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    assert stream is not None, name  # the digest was right
    return stream.read()
