"""Everything that reads what came from outside, each with a few whole files to begin with."""

import contextlib
import functools
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from components.catlib.artifacts import MANIFEST, file_sha256, parse_manifest, read_manifest
from components.catlib.config import InceptionConfig, PatchConfig, SegmenterConfig, WeightsConfig
from components.catlib.data.archives import open_archive
from components.catlib.data.decoding import read_instances, read_labels, read_picture
from components.catlib.data.files import SourceFile
from components.catlib.data.locating import open_source
from components.catlib.data.packed import PackedDataset
from components.catlib.data.samples import UnusableImageError
from components.catlib.errors import UserError
from components.catlib.metrics.features import read_inception
from components.catlib.metrics.segmenters import read_segmenter
from components.catlib.metrics.statistics import open_statistics
from components.catlib.networks.architecture_files import open_networks, read_generator_weights
from components.catlib.networks.directions import Direction
from components.catlib.networks.macs import paper_macs, parameters
from components.catlib.networks.model_files import read_discriminator, read_generator
from components.catlib.networks.published.discriminators import load_discriminator
from components.catlib.networks.published.generators import load_generator
from components.catlib.networks.published.reading import load_statistics
from components.catlib.recipes import RECIPE_FOLDER, load_recipe
from components.catlib.storage import Location, StoreSettings, is_remote, is_web, shown
from components.catlib.storage.addresses import split
from components.catlib.storage.cache import Cache
from components.catlib.storage.folders import FolderStore
from components.catlib.storage.leases import Lease
from components.catlib.storage.places import Places
from components.catlib.storage.web import Web, WebFile
from components.catlib.training.checkpoints import Checkpoints
from tests.faults.judging import Loader
from tests.faults.seeds import KEPT, arrays, other_images, png_images, segmenters, state_dicts, tars, zips
from tests.faults.simulator import World
from tests.memory_stores import MemoryStore
from tests.object_stores import COMPLETE

# ---------------------------------------------------------------------------------------------------------- documents


def _texts(*texts: str) -> Callable[[], list[bytes]]:
    return lambda: [text.encode() for text in texts]


def _files(*names: str, root: Path = KEPT) -> Callable[[], list[bytes]]:
    return lambda: [(root / name).read_bytes() for name in names]


def _written(content: bytes, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _text(content: bytes) -> str:
    """Returns what a command line makes of such bytes."""
    return content.decode("utf-8", "surrogateescape")


def _recipe(content: bytes, folder: Path) -> None:
    load_recipe(str(_written(content, folder / "recipe.yaml")))


def _override(content: bytes, _: Path) -> None:
    load_recipe("smoke", [_text(content)])


def _budget(content: bytes, _: Path) -> None:
    load_recipe("smoke", budgets=[_text(content)])


def _name(content: bytes, _: Path) -> None:
    text = _text(content)
    load_recipe(text if not text.endswith((".yaml", ".yml")) else text + "x")


def _manifest(content: bytes, folder: Path) -> None:
    parse_manifest(content, where=str(folder), kind="teacher|distill")
    _written(content, folder / MANIFEST)
    read_manifest(folder)


@contextlib.contextmanager
def _with_file(artifact: str, name: str, content: bytes, folder: Path) -> Iterator[Path]:
    """Gives a copy of a kept artifact in which one file is another, which the manifest knows."""
    copy = folder / "artifact"
    shutil.copytree(KEPT / artifact, copy)
    (copy / name).write_bytes(content)
    described = json.loads((copy / MANIFEST).read_bytes())
    described["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (copy / MANIFEST).write_text(json.dumps(described))
    yield copy


def _architecture(artifact_of: str, content: bytes, folder: Path) -> None:
    with _with_file(artifact_of, "architecture.json", content, folder) as artifact:
        networks = open_networks(artifact, "teacher")
        architecture = networks.architectures.generator(networks.direction)
        architecture.check_size(*networks.input_size, where=str(artifact))
        paper_macs(architecture, *networks.input_size), parameters(architecture)
        read_generator(networks, networks.direction)
        for domain in networks.architectures.discriminators:
            read_discriminator(networks, domain)


def _names(content: bytes, folder: Path) -> None:
    with _with_file("labels/dataset", "names.json", content, folder) as artifact:
        PackedDataset.open(artifact)


def _dataset_manifest(content: bytes, folder: Path) -> None:
    artifact = folder / "artifact"
    shutil.copytree(KEPT / "paired" / "dataset", artifact)
    (artifact / MANIFEST).write_bytes(content)
    PackedDataset.open(artifact)


def _checkpoint(facts: bytes, state: bytes, folder: Path) -> None:
    _written(facts, folder / "state" / "step-000000003.json")
    _written(state, folder / "state" / "step-000000003.pt")
    store = FolderStore(str(folder / "state"))
    with Checkpoints(store, origin={"teacher": {}}, read_origin=lambda _: {"teacher": {}}) as checkpoints:
        checkpoints.load_newest()


def _facts(content: bytes, folder: Path) -> None:
    _checkpoint(content, b"no tensors", folder)


def _state(content: bytes, folder: Path) -> None:
    described = json.loads((KEPT / "checkpoints" / "distill" / "step-000000003.json").read_bytes())
    described["tensors"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    _checkpoint(json.dumps(described).encode(), content, folder)


def _lease_records() -> list[bytes]:
    store = MemoryStore()
    lease = Lease(store, clock=World(0), attempt="first", thread=False)
    lease.acquire()
    living = store.read("owner-000001.json")
    lease.release()
    return [living, store.read("owner-000001.json")]


def _lease_record(content: bytes, _: Path) -> None:
    store = MemoryStore()
    store.write("owner-000001.json", content)
    lease = Lease(store, clock=World(0), attempt="second", thread=False)
    lease.acquire()
    lease.beat()
    lease.release()
    assert [name for name, *_ in store.entries()] == ["owner-000002.json"]


def _cache_note(content: bytes, folder: Path) -> None:
    """A note of the cache that a full disk or another program left."""
    cache = Cache(folder)
    source: Any = SimpleNamespace(
        version=lambda: "1", download=lambda path, sha256=None: _written(b"content", path) and "1"
    )
    kept = cache.get("https://host/file", source)
    (note,) = (folder / "addresses").iterdir()
    note.write_bytes(content)
    assert cache.get("https://host/file", source) == kept


# -------------------------------------------------------------------------------------------------------------- images


def _image(content: bytes, _: Path) -> None:
    file = SourceFile("images/a.png", len(content), lambda: content)
    refusals = []
    for read in (read_picture, functools.partial(read_labels, num_labels=4), read_instances):
        try:
            read(file)
        except UnusableImageError as refusal:
            refusals.append(refusal)
    if refusals:
        raise max(refusals, key=lambda refusal: len(str(refusal)))


# ------------------------------------------------------------------------------------------------------------ archives


def _archive(content: bytes, folder: Path) -> None:
    with open_archive(_written(content, folder / "data.zip"), where="data.zip") as tree:
        for file in tree.files.values():
            # Packing reads images through `_decode`, which turns any exception into a refusal of this image.
            with contextlib.suppress(UnusableImageError):
                read_picture(file)


# ------------------------------------------------------------------------------------------------- arrays and networks


def _published_statistics(content: bytes, folder: Path) -> None:
    load_statistics(_written(content, folder / "real_stat.npz"))


def _small_statistics() -> list[bytes]:
    with np.load(KEPT / "paired" / "real_stats" / "real_stats.npz") as archive:
        arrays = dict(archive)
    stream = io.BytesIO()
    np.savez_compressed(
        stream, **(arrays | {"features": arrays["features"][:1], "sigma": np.zeros_like(arrays["sigma"])})
    )
    return [stream.getvalue()]


def _statistics(content: bytes, folder: Path) -> None:
    with _with_file("paired/real_stats", "real_stats.npz", content, folder) as artifact:
        read = open_statistics(artifact).read(Direction.SOURCE_TO_TARGET)
        assert read.network.identity == read.identity


def _array(content: bytes, folder: Path) -> None:
    with _with_file("labels/dataset", "train_source.npy", content, folder) as artifact:
        PackedDataset.open(artifact)


def _published_network(content: bytes, folder: Path) -> None:
    path = _written(content, folder / "network.pth")
    refused = []
    for load in (
        functools.partial(load_generator, like=InceptionConfig(), input_size=(32, 32)),
        functools.partial(load_discriminator, like=PatchConfig()),
    ):
        try:
            load(path)
        except UserError as refusal:
            refused.append(refusal)
    if refused:
        raise max(refused, key=lambda refusal: len(str(refusal)))


def _inception(content: bytes, folder: Path) -> None:
    path = _written(content, folder / "inception.pth")
    read_inception(path, file_sha256(path))


def _weights(content: bytes, folder: Path) -> None:
    with _with_file("paired/teacher", "generator_source_to_target.safetensors", content, folder) as artifact:
        networks = open_networks(artifact, "teacher")
        read_generator_weights(networks, Direction.SOURCE_TO_TARGET)
        read_generator(networks, Direction.SOURCE_TO_TARGET)


def _segmenter(content: bytes, folder: Path) -> None:
    path = _written(content, folder / f"{hashlib.sha256(content).hexdigest()[:8]}.onnx")
    config = SegmenterConfig(
        architecture="onnx", weights=WeightsConfig(uri=str(path)), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    read_segmenter(config).classes(torch.zeros(3, 8, 8, dtype=torch.uint8), (8, 8))


# ----------------------------------------------------------------------------------------------------------- addresses


def _address(content: bytes, folder: Path) -> None:
    text = _text(content)
    shown(text), is_web(text), is_remote(text), split(text)
    if "://" in text:
        store = Places(COMPLETE).open(text)
        assert isinstance(store.address, str)
        assert str(Location.parse(text)) == str(Location.parse(str(Location.parse(text))))


def _endpoint(content: bytes, _: Path) -> None:
    settings = StoreSettings.from_environment({**COMPLETE, "S3_ENDPOINT": _text(content)})
    places = Places({**COMPLETE, "S3_ENDPOINT": f"http://{settings.host}"})
    assert places.objects.client is not None


def _web_address(content: bytes, _: Path) -> None:
    text = _text(content)
    if not is_web(text):
        return
    web = Web({}, patience=0.0)
    web.__dict__["connections"] = _nobody()
    WebFile(web, text).version()


def _nobody() -> Any:
    """Returns connections that take addresses apart as always, but reach nobody."""
    import urllib3
    from urllib3.exceptions import NewConnectionError

    class Nobody(urllib3.PoolManager):
        def connection_from_host(self, *args: Any, **given: Any) -> Any:
            pool = super().connection_from_host(*args, **given)

            def refuse(*_: Any, **__: Any) -> None:
                raise NewConnectionError(pool, "nobody there")  # type: ignore[arg-type]

            pool.urlopen = refuse  # type: ignore[assignment]
            return pool

    return Nobody()


def _source(content: bytes, folder: Path) -> None:
    """A path or an address that is given as a dataset; what would use the network has loaders of its own."""
    text = _text(content)
    if is_web(text) or is_remote(text):
        return
    if text.startswith("/"):
        return  # what lies there is nobody's business
    for read in (open_source, lambda place: contextlib.nullcontext(read_manifest(Path(place)))):
        with read(f"{folder}/{text}"):
            pass


ADDRESSES = (
    "s3://bucket/a/b",
    "minio://bucket",
    "s3://bucket/",
    "https://host:443/a?b#c",
    "http://[::1]/",
    "runs/a",
    "/",
)

LOADERS: dict[str, Loader] = {
    "recipe": Loader("yaml", _files("smoke.yaml", "demo-labels.yaml", "cityscapes.yaml", root=RECIPE_FOLDER), _recipe),
    "recipe text": Loader("text", _files("smoke.yaml", "ablation.yaml", root=RECIPE_FOLDER), _recipe),
    "override": Loader(
        "text",
        _texts(
            "teacher.epochs=2",
            "budgets=[1e9, 0.3x]",
            "teacher.adversarial=lsgan",
            "dataset.load_size=[2, 3]",
            "distill.distiller={kind: mse, weight: 1}",
            "teacher.generator.norm.kind=batch",
            "name=a",
        ),
        _override,
    ),
    "budget": Loader("text", _texts("0.3x", "5.6e9", "4.6G", "100M"), _budget),
    "recipe name": Loader("text", _texts("smoke", "demo"), _name),
    "manifest": Loader("json", _files("paired/teacher/manifest.json", "labels/dataset/manifest.json"), _manifest),
    "dataset manifest": Loader("json", _files("paired/dataset/manifest.json"), _dataset_manifest),
    "names": Loader("json", _files("labels/dataset/names.json"), _names),
    **{
        f"architecture, {kind}": Loader(
            "json", _files(f"{kind}/teacher/architecture.json"), functools.partial(_architecture, f"{kind}/teacher")
        )
        for kind in ("paired", "unpaired", "labels")
    },
    "checkpoint facts": Loader("json", _files("checkpoints/distill/step-000000003.json"), _facts),
    "checkpoint state": Loader("zip", lambda: state_dicts()[1:], _state),
    "lease record": Loader("json", _lease_records, _lease_record),
    "cache note": Loader(
        "json", _texts('{"address": "https://host/file", "version": "1", "sha256": "aa"}'), _cache_note
    ),
    "png": Loader("png", png_images, _image, (UnusableImageError,)),
    "image": Loader("bytes", other_images, _image, (UnusableImageError,)),
    "zip": Loader("zip", zips, _archive),
    "tar": Loader("bytes", tars, _archive),
    "published statistics": Loader("zip", arrays, _published_statistics),
    "statistics": Loader("zip", _small_statistics, _statistics),
    "array": Loader("bytes", _files("labels/dataset/train_source.npy"), _array),
    "pth": Loader("zip", state_dicts, _published_network),
    "inception": Loader("zip", state_dicts, _inception),
    "safetensors": Loader("bytes", _files("paired/teacher/generator_source_to_target.safetensors"), _weights),
    "onnx": Loader("bytes", segmenters, _segmenter),
    "address": Loader("text", _texts(*ADDRESSES), _address),
    "endpoint": Loader(
        "text", _texts("http://localhost:9000", "https://store.example.org", "http://[::1]:80"), _endpoint
    ),
    "web address": Loader(
        "text", _texts("https://host:443/a?b#c", "http://user:pw@host/é", "http://[::1]/"), _web_address
    ),
    "source": Loader("text", _texts("runs/a", "builtin:demo", "file://x", "maps"), _source),
}
