"""A ModelPack artifact in an OCI image layout, as tools of registries read it (`skopeo copy oci:DIR docker://…`).

Every file is a blob under its SHA-256 and a layer of the manifest. No time is written, so equal content gives equal
digests. The media types are those of the CNCF's ModelPack specification.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.catlib.artifacts import file_sha256
from components.catlib.reporting.formatting import quantity

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
WEIGHT_TYPE = "application/vnd.cncf.model.weight.v1.raw"
FACTS_TYPE = "application/vnd.cncf.model.weight.config.v1.raw"
PAGE_TYPE = "application/vnd.cncf.model.doc.v1.raw"
FILE_PATH = "org.cncf.model.filepath"
REFERENCE = "org.opencontainers.image.ref.name"

Descriptor = dict[str, Any]


def write_modelpack(
    folder: Path,
    *,
    card: Mapping[str, Any],
    weights: Mapping[str, Path],
    facts: Mapping[str, Path],
    pages: Mapping[str, str],
    version: str | None,
) -> None:
    """Writes `oci-layout`, `index.json` and `blobs/sha256/…` into an empty folder.

    Args:
        folder: The folder.
        card: The model card's facts.
        weights: ONNX and safetensors files by name.
        facts: JSON files by name.
        pages: Texts for people by name.
        version: The artifact's tag; None: it has none.
    """
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layers = [
        *(_file_blob(blobs, path, WEIGHT_TYPE, name) for name, path in weights.items()),
        *(_file_blob(blobs, path, FACTS_TYPE, name) for name, path in facts.items()),
        *(_blob(blobs, text.encode(), PAGE_TYPE, name) for name, text in pages.items()),
    ]
    config = _blob(blobs, _json(_config(card, layers, version)), CONFIG_TYPE)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": config,
        "layers": layers,
    }
    entry = _blob(blobs, _json(manifest), MANIFEST_TYPE) | {"artifactType": ARTIFACT_TYPE}
    if version is not None:
        entry["annotations"] = {REFERENCE: version}
    (folder / "index.json").write_bytes(_json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}))
    (folder / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))


def _config(card: Mapping[str, Any], layers: list[Descriptor], version: str | None) -> dict[str, Any]:
    descriptor = {"name": card["name"], "family": card["family"], "title": card["name"]}
    licence = card["licence"]["weights"]
    return {
        "descriptor": descriptor
        | ({} if version is None else {"version": version})
        | ({} if licence is None else {"licenses": [licence]}),
        "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
        "config": {
            "architecture": "generator",
            "format": "onnx",
            "paramSize": quantity(card["costs"]["parameters"]).replace(" ", ""),
            "precision": "float32",
            "capabilities": {"inputTypes": ["image"], "outputTypes": ["image"]},
        },
    }


def _blob(blobs: Path, content: bytes, media_type: str, name: str = "") -> Descriptor:
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    return _descriptor(media_type, digest, len(content), name)


def _file_blob(blobs: Path, path: Path, media_type: str, name: str) -> Descriptor:
    digest = file_sha256(path)
    shutil.copyfile(path, blobs / digest)
    return _descriptor(media_type, digest, path.stat().st_size, name)


def _descriptor(media_type: str, digest: str, size: int, name: str) -> Descriptor:
    annotations = {"annotations": {FILE_PATH: name}} if name else {}
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size, **annotations}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()
