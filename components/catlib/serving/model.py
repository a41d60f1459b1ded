"""Opens an exported generator with ONNX Runtime, and reads from its metadata which pictures it takes.

Suffixes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from components.catlib.disk import check_plain
from components.catlib.errors import UserError, one_line

MODEL_FILE = "model.onnx"
FLOAT32 = "tensor(float)"


@dataclass(frozen=True)
class Values:
    """What the numbers in pictures mean.

    Attributes:
        type: "uint8", "uint16" or "float32".
        channels: Number of channels.
        range: Lowest and highest value, which the network sees as -1 and 1.
    """

    type: str
    channels: int
    range: tuple[float, float]

    @property
    def colours(self) -> bool:
        """Whether these are 8-bit colours."""
        return self == RGB

    def __str__(self) -> str:
        """Describes them for messages: "4 channels of uint16, 0 to 4095"."""
        low, high = self.range
        return f"{self.channels} channel{'s' * (self.channels > 1)} of {self.type}, {low:.9g} to {high:.9g}"

    def to_network(self, numbers: NDArray[Any]) -> NDArray[np.float32]:
        """Returns float32 numbers in [-1, 1] in a new array, rounded as trainings round them."""
        low, high = self.range
        if (self.type, self.range) == (RGB.type, RGB.range):
            colours = numbers.astype(np.float32, order="C")
            colours /= 127.5
            colours -= 1
            return colours
        exact = np.subtract(numbers, low, dtype=np.float64, order="C")
        exact *= 2 / (high - low)
        exact -= 1
        return exact.astype(np.float32)

    def from_network(self, made: NDArray[np.float32]) -> NDArray[Any]:
        """Returns numbers of `type`; whole ones are rounded to the nearest, and what leaves the range is clipped."""
        low, high = self.range
        if (self.type, self.range) == (RGB.type, RGB.range):
            numbers = made + np.float32(1)
            numbers *= 127.5
        else:
            numbers = made.astype(np.float64)
            numbers += 1
            numbers *= (high - low) / 2
            numbers += low
        if self.type != "float32":
            np.rint(numbers, out=numbers)
        return np.clip(numbers, low, high, out=numbers).astype(self.type)


RGB = Values("uint8", 3, (0.0, 255.0))


@dataclass(frozen=True)
class Planes:
    """What the planes are that a generator of label maps reads: classes, and optionally pixels of no class.

    Attributes:
        num_labels: Number of classes, a plane each.
        dont_care_plane: Whether pixels of no class have a plane of their own.
    """

    num_labels: int
    dont_care_plane: bool


@dataclass(frozen=True)
class Model:
    """An exported generator, ready to run.

    Attributes:
        where: The file's name in messages.
        session: The loaded file.
        size_step: Height and width must be multiples of this many pixels.
        smallest_size: Least height and width in pixels.
        fixed_size: Height and width in pixels of all its pictures; None if it takes others.
        receptive_radius: A pixel depends on those at most this many pixels away; None: on all.
        reads: What its input's numbers mean, or what its planes are.
        makes: What its output's numbers mean.
    """

    where: str
    session: onnxruntime.InferenceSession
    size_step: int
    smallest_size: int
    fixed_size: tuple[int, int] | None
    receptive_radius: int | None
    reads: Values | Planes
    makes: Values

    def __call__(self, images_CHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Translates one image [C, H, W], in [-1, 1] or planes of 0 and 1, to [C', H, W] in [-1, 1].

        Raises:
            UserError: ONNX Runtime cannot run it, most likely because memory ran out.
        """
        (given,) = self.session.get_inputs()
        try:
            (made,) = self.session.run(None, {given.name: images_CHW[None]})
        except Exception as error:  # ONNX Runtime has classes of its own, which share no other parent
            height, width = images_CHW.shape[1:]
            raise UserError(
                f"ONNX Runtime cannot run {self.where} on {height}x{width} pixels ({reason(error)})."
            ) from error
        return np.asarray(made)[0]


def open_session(path: Path, *, threads: int | None) -> onnxruntime.InferenceSession:
    """Loads an ONNX file for the CPU.

    Memory of a run is given back after it, so that a large picture leaves no trace.

    Args:
        path: The file.
        threads: Threads within an operation; None: one per core.

    Raises:
        UserError: There is no such file, or it is no ONNX model that ONNX Runtime can run.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; give the file in it, such as {path / 'model.onnx'}.")
    check_plain(path)
    if not path.is_file():
        raise UserError(f"There is no file {path}; give an .onnx file, or the artifact that the export stage wrote.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 4  # errors come as exceptions
    options.enable_cpu_mem_arena = False
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # as above
        raise UserError(
            f"{path} is no ONNX model that ONNX Runtime can load ({reason(error)}); give another, or export it again."
        ) from error


def open_model(path: Path, *, threads: int | None = None) -> Model:
    """Loads a generator that the export stage wrote.

    Args:
        path: An `.onnx` file.
        threads: As in `open_session`.

    Raises:
        UserError: The file is no such generator; the message says what it is instead.
    """
    session = open_session(path, threads=threads)
    texts: dict[str, str] = session.get_modelmeta().custom_metadata_map
    if texts.get("profile") == "pixels":
        raise UserError(f"{path} has pixels of 0 to 255, for another program; give model.onnx of the same export.")
    if "size_step" not in texts:
        raise UserError(
            f"{path} does not state which pictures it takes: it comes from another program or from version 0.1.0; "
            "export the student again (python -m components export)."
        )
    try:
        facts = {name: json.loads(texts[name]) for name in _FACTS}
        reads = _planes(texts, path) if texts["input_kind"] == "labels" else _values(json.loads(texts["input_values"]))
        model = Model(
            where=str(path),
            session=session,
            size_step=int(facts["size_step"]),
            smallest_size=int(facts["smallest_size"]),
            fixed_size=None if facts["fixed_size"] is None else (facts["fixed_size"][0], facts["fixed_size"][1]),
            receptive_radius=None if facts["receptive_radius"] is None else int(facts["receptive_radius"]),
            reads=reads,
            makes=_values(facts["output_values"]),
        )
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"{path} has metadata that cannot be read ({type(error).__name__}: {error}); export the student again."
        ) from error
    _check_tensors(model)
    return model


_FACTS = ("size_step", "smallest_size", "fixed_size", "receptive_radius", "output_values")


def _values(facts: Mapping[str, Any]) -> Values:
    low, high = facts["range"]
    np.dtype(facts["type"])
    return Values(str(facts["type"]), int(facts["channels"]), (float(low), float(high)))


def _planes(texts: Mapping[str, str], path: Path) -> Planes:
    if "input_planes" not in texts:
        raise UserError(
            f"{path} paints label maps, but does not state what its planes mean; export the student again with "
            "--dataset."
        )
    facts = json.loads(texts["input_planes"])
    if facts["instances"]:
        raise UserError(
            f"{path} also reads the edges of instances, which translate does not make; run it from a program of yours."
        )
    return Planes(int(facts["num_labels"]), bool(facts["dont_care_plane"]))


def _check_tensors(model: Model) -> None:
    """Refuses a file whose tensors are not those that its metadata describes."""
    inputs, outputs = model.session.get_inputs(), model.session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise UserError(
            f"{model.where} has {len(inputs)} inputs and {len(outputs)} outputs; a generator has one of each."
        )
    reads = model.reads
    expected = reads.channels if isinstance(reads, Values) else reads.num_labels + reads.dont_care_plane
    for tensor, channels in ((inputs[0], expected), (outputs[0], model.makes.channels)):
        if tensor.type != FLOAT32 or len(tensor.shape) != 4 or tensor.shape[1] != channels:
            raise UserError(
                f"{model.where}: {tensor.name} is {tensor.type} {tensor.shape}, but its metadata describes float32 "
                f"[N, {channels}, H, W]; export the student again."
            )


@contextlib.contextmanager
def local_model(address: str) -> Iterator[Path]:
    """Makes an exported generator available as a file for the time of the body.

    Args:
        address: An `.onnx` file, an artifact of the export stage, or `s3://…` of either.

    Raises:
        UserError: There is neither at the address, or the store refuses.
    """
    with contextlib.ExitStack() as stack:
        path = Path(address)
        if "://" in address:
            path = _downloaded(address, stack)
        if not path.is_dir():
            yield path
            return
        manifest = path / "manifest.json"
        kind = _kind(manifest) if manifest.is_file() else None
        if kind in ("export", "publish") and (path / MODEL_FILE).is_file():
            yield path / MODEL_FILE
            return
        found = f"{address} is {_article(kind)} artifact" if kind else f"{address} is a folder without a manifest.json"
        advice = (
            f"export it first: python -m components export --student {address} --output DIR"
            if kind in ("teacher", "distill", "prune")
            else "give an .onnx file, or the artifact that the export stage wrote"
        )
        raise UserError(f"{found}, not an exported generator; {advice}.")


def _downloaded(address: str, stack: contextlib.ExitStack) -> Path:
    from components.catlib.disk import temporary_folder  # only here: they take a while
    from components.catlib.storage import Storage, is_remote

    if not is_remote(address):
        scheme = address.partition("://")[0]
        raise UserError(f"A model has no {scheme}:// address; give a file, an artifact or s3://BUCKET/KEY.")
    folder = stack.enter_context(temporary_folder("model-")) / "model"
    storage = Storage()
    if storage.is_file(address):
        return storage.fetch_files(address, folder)
    return storage.fetch(address, folder, "export|publish")


def _kind(manifest: Path) -> str:
    try:
        return str(json.loads(manifest.read_bytes())["kind"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{manifest} is damaged ({type(error).__name__}); run the stage that wrote it again."
        ) from error


def _article(kind: str | None) -> str:
    return f"{'an' if kind and kind[0] in 'aeiou' else 'a'} {kind}"


_CAUSES = (
    (r"Protobuf parsing failed|INVALID_PROTOBUF|ModelProto does not have a graph", "it is no ONNX model, or damaged"),
    (r"external data|External data|model_path|GetFileLength", "the file that holds its weights is not beside it"),
    (r"Unsupported model IR version|opset \d+ is under development|Opset \d+", "it is made for a newer ONNX Runtime"),
    (
        r"not a registered function/op|NOT_IMPLEMENTED|Could not find an implementation",
        "it has an operation unknown here",
    ),
    (r"bad_alloc|Failed to allocate memory|out of memory", "memory ran out"),
    (r"Permission denied", "permission is denied"),
)
"""What ONNX Runtime's own text holds -> the cause in a few words."""


def reason(error: Exception) -> str:
    """Returns why ONNX Runtime failed, in a few words: a known cause, or the first sentence of its text."""
    text = str(error)
    known = next((cause for pattern, cause in _CAUSES if re.search(pattern, text)), None)
    if known:
        return known
    plain = re.sub(
        r"\[ONNXRuntimeError\] : \d+ : \w+ : |\S+\.cc:\d+ .*?(?:\)|&&\)) ?|^Exception during \w+: ", "", text
    )
    return one_line(plain.strip().partition("\n")[0])[:_LONGEST_REASON].rstrip(" .:") or type(error).__name__


_LONGEST_REASON = 160
