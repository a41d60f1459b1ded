import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import AlexNet

from components.catlib import artifacts
from components.catlib.config import (
    EvaluateConfig,
    GeneratorConfig,
    NormConfig,
    RealStatsConfig,
    WeightsConfig,
    validate,
)
from components.catlib.errors import UserError
from components.catlib.metrics.catalogue import METRICS, PerPair
from components.catlib.metrics.features import InceptionFeatures
from components.catlib.metrics.scoring import score_generator
from components.catlib.networks.families import architecture_from_config, build_generator
from components.catlib.networks.macs import paper_macs, parameters, true_macs
from components.catlib.networks.model_files import write_networks
from components.evaluate.stage import run
from components.real_stats import stage as real_stats_stage
from tests.components.catlib.data.image_folders import noise, pack_folder, write
from tests.components.opened import read_generator, read_statistics

SIDE = 16
CONFIG = EvaluateConfig(batch_size=2, num_samples=3, latency_repeats=2)
SPADE = {
    "family": "inception_spade",
    "spade_hidden_channels": 12,
    "num_upsampling_layers": "normal",
    "norm": NormConfig(kind="batch", track_running_stats=True),
}


class Run:
    """The artifacts that an evaluation reads."""

    def __init__(self, folder: Path, layout: str, *, size: int = SIDE, **settings: Any) -> None:
        self.folder = folder
        for split, count in (("train", 2), ("test", 5)):
            for index in range(count):
                labels = noise(index, size, size)[..., 0] % 4 if "num_labels" in settings else noise(index, size, size)
                write(folder / f"data/{split}A/{index}.png", labels)
                write(folder / f"data/{split}B/{index}.png", noise(100 + index, size, size))
        self.dataset = pack_folder(
            folder / "data", folder / "dataset", layout=layout, load_size=size, crop_size=size, **settings
        )
        real_stats_stage.run(RealStatsConfig(), dataset=self.dataset.folder, output=folder / "real_stats")
        self.teacher = self.model("teacher", "teacher", base_channels=6, directions=self.directions)
        self.student = self.model("student", "distill", base_channels=3, directions=self.directions[-1:])

    @property
    def directions(self) -> list[str]:
        both = self.dataset.pairing == "unpaired"
        return ["source_to_target", "target_to_source"] if both else ["source_to_target"]

    def model(self, name: str, kind: str, *, base_channels: int, directions: list[str], **settings: Any) -> Path:
        """Writes an artifact with untrained generators."""
        labelled = self.dataset.num_labels is not None
        family = SPADE if labelled else {"num_blocks": 1}
        config = validate(GeneratorConfig, {"base_channels": base_channels, **family, **settings}, where="generator")
        architecture = architecture_from_config(
            config, in_channels=self.dataset.in_channels, out_channels=3, crop_size=self.dataset.crop_size
        )
        generators: dict[str, nn.Module] = {direction: build_generator(architecture) for direction in directions}
        with artifacts.writing(self.folder / name, kind=kind, config=config) as writer:
            write_networks(writer.folder, generators=generators, discriminators={}, input_size=self.dataset.crop_size)
        return self.folder / name

    def evaluate(self, **changes: Any) -> dict[str, Any]:
        """Runs the stage and returns `metrics.json`."""
        inputs = {
            "student": self.student,
            "teacher": self.teacher,
            "dataset": self.dataset.folder,
            "real_stats": self.folder / "real_stats",
        }
        config = changes.pop("config", CONFIG)
        run(config, **(inputs | changes), output=self.folder / "evaluation")
        return json.loads((self.folder / "evaluation/metrics.json").read_text())


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.manual_seed(0)
    return Run(tmp_path_factory.mktemp("paired"), "parallel")


@pytest.fixture(scope="module")
def unpaired(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.manual_seed(0)
    return Run(tmp_path_factory.mktemp("unpaired"), "unpaired")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.manual_seed(0)
    return Run(tmp_path_factory.mktemp("labelled"), "parallel", size=32, num_labels=4)


@pytest.fixture(scope="module")
def metrics(paired: Run) -> dict[str, Any]:
    return paired.evaluate()


OF_PAIRS = {
    metric.key for metric in METRICS if isinstance(metric.measured, PerPair) and metric.measured.measure is not None
}
"""Metrics of every image with a true target that need no network."""


def read_picture(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_scores_are_those_of_training_on_all_images(paired: Run, metrics: dict[str, Any]):
    statistics = read_statistics(paired.folder / "real_stats", "source_to_target")
    for name, folder in (("student", paired.student), ("teacher", paired.teacher)):
        expected = score_generator(read_generator(folder, "source_to_target"), paired.dataset, statistics)
        assert {key: metrics[name][key] for key in expected} == pytest.approx(expected, rel=1e-3)
        assert {"l1", "psnr", "ssim"} <= OF_PAIRS
        assert set(expected) == OF_PAIRS | {"frechet_random_features", "gradient_energy_ratio"}
        assert metrics[name]["images"] == 5
        assert set(metrics[name]["confidence"]) == set(expected)
        for key, (low, high) in metrics[name]["confidence"].items():
            assert low < metrics[name][key] < high


def test_cost_is_counted_and_compared(paired: Run, metrics: dict[str, Any]):
    for name, folder in (("student", paired.student), ("teacher", paired.teacher)):
        architecture = read_generator(folder, "source_to_target").architecture
        assert metrics[name]["paper_macs"] == paper_macs(architecture, SIDE, SIDE)
        assert metrics[name]["true_macs"] == true_macs(architecture, SIDE, SIDE)
        assert metrics[name]["parameters"] == parameters(architecture)
        assert 0 < metrics[name]["latency_ms"]["low"] <= metrics[name]["latency_ms"]["median"]
    for key in ("paper_macs", "true_macs", "parameters"):
        assert metrics["ratio"][key] == metrics["teacher"][key] / metrics["student"][key] > 1
    assert metrics["ratio"]["latency"] > 0


def test_the_protocol_stands_beside_the_numbers(paired: Run, metrics: dict[str, Any]):
    protocol = metrics["protocol"]
    statistics = read_statistics(paired.folder / "real_stats", "source_to_target")
    assert protocol["features"] == statistics.identity.model_dump()
    assert protocol["real_images"] == statistics.protocol
    assert (protocol["num_images"], protocol["num_real_images"], protocol["size"]) == (5, 5, [SIDE, SIDE])
    assert protocol["latency"]["repeats"] == 2
    assert "kernel_distance" not in protocol
    assert "squared steps" in protocol["gradient_energy"]
    assert not {"lpips", "segmentation", "checkerboards"} & set(protocol)
    assert "not that distances of few images are too large" in protocol["confidence"]["covers"]


def test_the_baselines_take_no_network(paired: Run, metrics: dict[str, Any]):
    split = paired.dataset.split("test")
    targets = split.target.astype(float)
    median = np.median(targets.reshape(-1, 3), axis=0)
    assert metrics["baseline"]["constant_l1"] == pytest.approx(np.abs(targets - median).mean() / 127.5, rel=1e-6)
    difference = np.abs(split.source.astype(float) - targets).mean() / 127.5
    assert metrics["baseline"]["unchanged_input"]["l1"] == pytest.approx(difference, rel=1e-4)


def test_the_summary_is_flat_and_finite(paired: Run, metrics: dict[str, Any]):
    summary = artifacts.read_manifest(paired.folder / "evaluation", "evaluate").summary["metrics"]
    assert all(isinstance(value, int | float) and np.isfinite(value) for value in summary.values())
    assert summary["student_l1"] == metrics["student"]["l1"]
    assert summary["teacher_paper_macs"] == metrics["teacher"]["paper_macs"]
    assert summary["paper_macs_ratio"] == metrics["ratio"]["paper_macs"]
    assert summary["student_latency_ms"] == metrics["student"]["latency_ms"]["median"]
    assert summary["constant_l1"] == metrics["baseline"]["constant_l1"]


def test_samples_are_spread_over_the_images_and_shown_alone_and_together(paired: Run, metrics: dict[str, Any]):
    samples = metrics["samples"]
    assert [sample["name"] for sample in samples] == ["0", "2", "4"]
    columns = ["input", "target", "teacher", "student"]
    assert list(samples[0]) == ["name", *columns]
    folder = paired.folder / "evaluation"
    grid = read_picture(folder / "grid.webp")
    assert grid.shape == (3 * SIDE, 4 * SIDE, 3)
    for column in columns:
        assert read_picture(folder / samples[1][column]).shape == (SIDE, SIDE, 3)
    # WebP is lossy: the average colour is what can be compared.
    shown = read_picture(folder / samples[1]["target"]).mean(axis=(0, 1))
    assert shown == pytest.approx(paired.dataset.split("test").target[2].mean(axis=(0, 1)), abs=12)


def test_a_student_alone(paired: Run, metrics: dict[str, Any]):
    alone = paired.evaluate(teacher=None)
    assert alone["teacher"] is None
    assert alone["ratio"] == {}
    assert alone["student"]["l1"] == metrics["student"]["l1"]
    assert list(alone["samples"][0]) == ["name", "input", "target", "student"]


def test_a_student_that_translates_back_is_compared_with_source_images(unpaired: Run):
    metrics = unpaired.evaluate()
    assert metrics["protocol"]["direction"] == "target_to_source"
    assert "source domain" in metrics["protocol"]["real_images"]
    assert set(metrics["student"]) >= {"frechet_random_features", "gradient_energy_ratio", "paper_macs", "latency_ms"}
    assert "l1" not in metrics["student"]
    assert "constant_l1" not in metrics["baseline"]
    assert list(metrics["samples"][0]) == ["name", "input", "teacher", "student"]


def test_label_maps_are_shown_in_colour(labelled: Run):
    metrics = labelled.evaluate()
    assert metrics["student"]["l1"] > 0
    assert "unchanged_input" not in metrics["baseline"]
    shown = read_picture(labelled.folder / "evaluation" / metrics["samples"][0]["input"])
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 4
    assert shown.std(axis=2).max() > 30


def test_a_dataset_of_another_size_or_kind_is_refused(paired: Run, labelled: Run):
    with pytest.raises(UserError, match=r"made for images of 16x16 pixels, but .* crops of 32x32"):
        paired.evaluate(dataset=labelled.dataset.folder, real_stats=labelled.folder / "real_stats")
    wide = paired.model("wide", "distill", base_channels=3, directions=["source_to_target"])
    described = json.loads((wide / "architecture.json").read_text())
    described["generators"]["source_to_target"]["in_channels"] = 5
    (wide / "architecture.json").write_text(json.dumps(described))
    manifest = json.loads((wide / "manifest.json").read_text())
    manifest["files"]["architecture.json"]["bytes"] = (wide / "architecture.json").stat().st_size
    (wide / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"source_to_target .* takes 5 channels, but .* has 3 in its source images"):
        paired.evaluate(student=wide)


def test_a_teacher_without_the_student_s_direction_is_refused(unpaired: Run):
    forward = unpaired.model("forward", "teacher", base_channels=3, directions=["source_to_target"])
    with pytest.raises(UserError, match="no generator target_to_source"):
        unpaired.evaluate(teacher=forward)


def test_statistics_of_other_images_are_told(paired: Run, unpaired: Run, caplog: pytest.LogCaptureFixture):
    paired.evaluate(real_stats=unpaired.folder / "real_stats")
    assert "computed from another dataset" in caplog.text


def test_statistics_of_another_feature_network_are_refused(paired: Run, tmp_path: Path):
    statistics = read_statistics(paired.folder / "real_stats", "source_to_target")
    changed = statistics.identity.model_copy(update={"sha256": "1" * 64})
    with artifacts.writing(tmp_path / "stats", kind="real_stats", config=RealStatsConfig()) as writer:
        object.__setattr__(statistics, "identity", changed)
        statistics.save(writer.folder / "real_stats.npz")
    with pytest.raises(UserError, match=r"feature network random .*1111.*run the real-stats stage again"):
        paired.evaluate(real_stats=tmp_path / "stats")


def test_lpips_is_measured_of_pairs_when_its_backbone_is_given(labelled: Run, unpaired: Run, tmp_path: Path):
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in AlexNet().features.state_dict().items()}
    torch.save({f"features.{name}": torch.randn(shape) * 0.05 for name, shape in shapes.items()}, tmp_path / "alex.pth")
    lpips = {"backbone": "alex", "weights": {"uri": str(tmp_path / "alex.pth")}}
    config = EvaluateConfig.model_validate(CONFIG.model_dump() | {"lpips": lpips})
    metrics = labelled.evaluate(config=config)
    for name in ("student", "teacher"):
        low, high = metrics[name]["confidence"]["lpips"]
        assert 0 < low < metrics[name]["lpips"] < high
    assert metrics["protocol"]["lpips"]["sha256"] == artifacts.file_sha256(tmp_path / "alex.pth")
    assert read_manifest_metrics(labelled)["student_lpips"] == metrics["student"]["lpips"]
    with pytest.raises(UserError, match="LPIPS compares images with their true targets"):
        unpaired.evaluate(config=config)


def test_images_that_are_too_small_for_lpips_are_refused(paired: Run, tmp_path: Path):
    state = {f"features.{name}": tensor for name, tensor in AlexNet().features.state_dict().items()}
    torch.save(state, tmp_path / "alex.pth")
    lpips = {"backbone": "alex", "weights": {"uri": str(tmp_path / "alex.pth")}}
    with pytest.raises(UserError, match=r"backbone alex needs images of at least 31 pixels a side.*\(16, 16\)"):
        paired.evaluate(config=EvaluateConfig.model_validate(CONFIG.model_dump() | {"lpips": lpips}))


def test_a_segmenter_needs_true_classes(paired: Run, tmp_path: Path):
    segmenter = {"weights": {"uri": str(tmp_path / "drn.pth")}}
    with pytest.raises(UserError, match="has no true classes"):
        paired.evaluate(config=EvaluateConfig.model_validate(CONFIG.model_dump() | {"segmenter": segmenter}))


def test_with_the_inception_network_there_are_fid_and_kid_with_intervals(paired: Run, tmp_path: Path):
    torch.manual_seed(0)
    inception = InceptionFeatures("0" * 64)
    for weight in inception.parameters():
        if weight.ndim == 4:
            nn.init.kaiming_normal_(weight)  # with smaller weights all images would look alike
    torch.save(inception.state_dict(), tmp_path / "inception.pth")
    digest = artifacts.file_sha256(tmp_path / "inception.pth")
    weights = WeightsConfig(uri=str(tmp_path / "inception.pth"), sha256=digest)
    config = RealStatsConfig(features="inception", weights=weights)
    real_stats_stage.run(config, dataset=paired.dataset.folder, output=tmp_path / "real_stats")
    metrics = paired.evaluate(teacher=None, real_stats=tmp_path / "real_stats")
    student = metrics["student"]
    assert "frechet_random_features" not in student
    assert student["kid_std"] >= 0
    for key in ("fid", "kid"):
        low, high = student["confidence"][key]
        assert low < student[key] < high
    assert metrics["protocol"]["features"]["sha256"] == digest
    assert metrics["protocol"]["kernel_distance"] == {"subsets": 100, "subset_size": 5, "seed": 0}


def read_manifest_metrics(run: Run) -> dict[str, float]:
    return artifacts.read_manifest(run.folder / "evaluation", "evaluate").summary["metrics"]
