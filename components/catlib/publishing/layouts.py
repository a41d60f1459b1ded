"""The layouts of a published student: plain files, a model repository of Triton, a repository of the Hugging Face Hub.

`components/catlib/publishing/modelpack.py` has the fourth, for registries.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import yaml

from components.catlib.config.publish import Layout
from components.catlib.errors import UserError
from components.catlib.publishing.card import as_markdown
from components.catlib.publishing.modelpack import write_modelpack

CARD = "README.md"
CARD_FACTS = "model_card.json"

TRITON_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.UINT8: "TYPE_UINT8",
    onnx.TensorProto.INT8: "TYPE_INT8",
    onnx.TensorProto.INT64: "TYPE_INT64",
}
"""Triton's names of the number types that exported files have at their ends."""

HUB_LICENCES = frozenset(
    {"apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"}
)
"""Identifiers that the Hub knows; others are `other` with a name."""


@dataclass(frozen=True)
class Content:
    """What is published of a student.

    Attributes:
        card: The model card's facts.
        onnx: ONNX files by name.
        main: The name of the one that the export stage calls its file.
        weights: The safetensors file.
        facts: JSON files by name: the architecture, and what was measured.
        version: The version, if it was given.
    """

    card: dict[str, Any]
    onnx: Mapping[str, Path]
    main: str
    weights: Path
    facts: Mapping[str, Path]
    version: str | None

    @property
    def name(self) -> str:
        """The model's name."""
        return self.card["name"]


def write_layout(layout: Layout, content: Content, folder: Path) -> None:
    """Writes a student into an empty folder.

    Raises:
        UserError: An ONNX file needs another file, or has ends that the layout cannot describe.
    """
    for name, path in content.onnx.items():
        _check_whole(name, path)
    LAYOUTS[layout](content, folder)


def _check_whole(name: str, path: Path) -> None:
    model = onnx.load(path, load_external_data=False)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise UserError(f"{name} keeps weights in another file; export the student again, into one file.")


def _write_files(content: Content, folder: Path) -> None:
    _copy({**content.onnx, content.weights.name: content.weights, **content.facts}, folder)
    _write_card(content, folder)


def _write_huggingface(content: Content, folder: Path) -> None:
    """Writes a repository of the Hub: its page needs settings before the card, its programs `config.json`."""
    _copy({**content.onnx, "model.safetensors": content.weights}, folder)
    card = content.card
    architecture = json.loads(content.facts["architecture.json"].read_bytes())
    generator = architecture["generators"][card["direction"]]
    config = {"model_type": card["family"], "input_size": card["input_size"], "direction": card["direction"]}
    _write_json(folder / "config.json", config | {"values": architecture.get("values", {}), "generator": generator})
    _write_card(content, folder, before=f"---\n{_front_matter(card)}---\n\n")


def _front_matter(card: Mapping[str, Any]) -> str:
    licence = card["licence"]["weights"]
    identifier = (licence or "").lower()
    settings: dict[str, Any] = {"license": identifier if identifier in HUB_LICENCES else "other"}
    if identifier not in HUB_LICENCES:
        settings["license_name"] = licence or "not stated"
    metrics = [
        {"type": each["key"], "name": each["label"], "value": each["student"]["value"]} for each in card["metrics"]
    ]
    source = card["recipe"].get("dataset", {}).get("source", "not given")
    settings |= {"pipeline_tag": card["task"], "library_name": "onnx", "tags": [card["family"], "gan-compression"]}
    if metrics:
        result = {"task": {"type": card["task"]}, "dataset": {"name": source, "type": source}, "metrics": metrics}
        settings["model-index"] = [{"name": card["name"], "results": [result]}]
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def _write_triton(content: Content, folder: Path) -> None:
    """Writes a model repository, in which every ONNX file is a model: NAME, and NAME.int8 for `model.int8.onnx`."""
    main = Path(content.main).stem
    for name, path in content.onnx.items():
        rest = "" if name == content.main else re.sub(r"[^\w.-]", "_", Path(name).stem.removeprefix(f"{main}."))
        model = f"{content.name}.{rest}" if rest else content.name
        (folder / model / "1").mkdir(parents=True)
        shutil.copyfile(path, folder / model / "1" / "model.onnx")
        (folder / model / "config.pbtxt").write_text(triton_config(model, path), encoding="utf-8")
    _write_card(content, folder)


def triton_config(name: str, path: Path) -> str:
    """Returns the `config.pbtxt` of an ONNX file, with all dimensions of its ends; a free one is -1.

    Args:
        name: The model's name, of plain characters.
        path: The file.

    Raises:
        UserError: An end has numbers of a type that exported files do not have.
    """
    graph = onnx.load(path, load_external_data=False).graph
    # With max_batch_size 0, Triton takes the batch for a dimension like others, as clients send it.
    lines = [f'name: "{name}"', 'backend: "onnxruntime"', 'default_model_filename: "model.onnx"', "max_batch_size: 0"]
    for end, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            if tensor.elem_type not in TRITON_TYPES:
                raise UserError(f"{path.name}: {value.name} has a number type that Triton's settings do not name here.")
            dims = ", ".join(str(dim.dim_value) if dim.HasField("dim_value") else "-1" for dim in tensor.shape.dim)
            kind = TRITON_TYPES[tensor.elem_type]
            lines.append(f"{end} [{{ name: {json.dumps(value.name)}, data_type: {kind}, dims: [{dims}] }}]")
    return "\n".join(lines) + "\n"


def _write_oci(content: Content, folder: Path) -> None:
    files = {**content.onnx, content.weights.name: content.weights}
    pages = {
        CARD: as_markdown(
            content.card, {name: path.stat().st_size for name, path in {**files, **content.facts}.items()}
        ),
        CARD_FACTS: _json(content.card),
    }
    write_modelpack(folder, card=content.card, weights=files, facts=content.facts, pages=pages, version=content.version)


def _write_card(content: Content, folder: Path, *, before: str = "") -> None:
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*.*"))}
    files = {name: size for name, size in sizes.items() if (folder / name).is_file()}
    (folder / CARD).write_text(before + as_markdown(content.card, files), encoding="utf-8")
    _write_json(folder / CARD_FACTS, content.card)


def _copy(files: Mapping[str, Path], folder: Path) -> None:
    for name, path in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(_json(value), encoding="utf-8")


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


LAYOUTS: dict[Layout, Callable[[Content, Path], None]] = {
    "files": _write_files,
    "triton": _write_triton,
    "huggingface": _write_huggingface,
    "oci": _write_oci,
}
"""What writes each layout."""
