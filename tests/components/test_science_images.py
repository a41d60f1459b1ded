"""Images of 4 channels and 16 bits are translated into images of a single channel of floating-point numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from components.catlib.artifacts import read_manifest
from components.catlib.config import DatasetConfig, EvaluateConfig, ExportConfig, RealStatsConfig, ReportConfig
from components.catlib.data.batches import evaluation_batches
from components.catlib.data.packed import PackedDataset
from components.catlib.errors import UserError
from components.catlib.networks.architecture_files import open_networks
from components.catlib.recipes import load_recipe
from components.catlib.reporting import glance, origins
from components.dataset import stage as dataset_stage
from components.distill import stage as distill_stage
from components.evaluate import stage as evaluate_stage
from components.export import stage as export_stage
from components.real_stats import stage as real_stats_stage
from components.report import stage as report_stage
from tests.components.small_trainings import distill_config, make_student, make_teacher, teacher_config

VALUES: dict[str, Any] = {
    "source_values": {"channels": 4, "range": [0, 4095]},
    "target_values": {"type": "float32", "range": [-2, 6]},
}
SHORT = {"epochs": 1, "decay_epochs": 0, "evaluations": 1}


def make_files(folder: Path) -> dict[str, np.ndarray]:
    """Writes six pairs for training and three for testing; returns the numbers by path."""
    written = {}
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for number in range(count):
            source = random.integers(0, 4096, (16, 16, 4), dtype=np.uint16)
            target = (source[..., :1] / np.float32(4095) * 8 - 2).astype(np.float32)
            for side, numbers in (("A", source), ("B", target)):
                (folder / f"{split}{side}").mkdir(parents=True, exist_ok=True)
                written[f"{split}{side}/{number}"] = numbers
            tifffile.imwrite(folder / f"{split}A/{number}.tif", source, photometric="minisblack", planarconfig="contig")
            np.save(folder / f"{split}B/{number}.npy", target)
    return written


def pack(folder: Path, output: Path, **settings: Any) -> PackedDataset:
    given = {"layout": "parallel", "load_size": 16, "crop_size": 16, **VALUES, **settings}
    dataset_stage.run(DatasetConfig.model_validate({"source": str(folder), **given}), output=output)
    return PackedDataset.open(output)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages on these images: a folder per stage, and the images."""
    folder = tmp_path_factory.mktemp("science")
    make_files(folder / "images")
    pack(folder / "images", folder / "dataset")
    data = {"dataset": folder / "dataset", "real_stats": folder / "real_stats"}
    real_stats_stage.run(RealStatsConfig(), dataset=data["dataset"], output=data["real_stats"])
    make_teacher(folder, folder / "teacher", teacher_config("pix2pix", **SHORT))
    make_student(folder / "teacher", folder / "prune")
    networks = {"teacher": folder / "teacher", "student": folder / "prune"}
    distill_stage.run(distill_config("pix2pix", **SHORT), **networks, **data, output=folder / "distill")
    networks["student"] = folder / "distill"
    measured = EvaluateConfig(num_samples=2, latency_repeats=1)
    evaluate_stage.run(measured, **networks, **data, output=folder / "evaluate")
    report_stage.run(
        ReportConfig(),
        evaluations=[folder / "evaluate"],
        dataset=data["dataset"],
        output=folder / "report",
    )
    return folder


def test_packed_numbers_are_those_of_the_files(run: Path):
    packed = PackedDataset.open(run / "dataset")
    assert (packed.in_channels, packed.out_channels) == (4, 1)
    for split in ("train", "test"):
        images = packed.split(split)
        for row, name in enumerate(images.names):
            assert np.array_equal(images.source[row], tifffile.imread(run / f"images/{split}A/{name}.tif"))
            assert np.array_equal(images.target[row], np.load(run / f"images/{split}B/{name}.npy"))
    (batch,) = evaluation_batches(packed, batch_size=8)
    assert (tuple(batch.source.shape), tuple(batch.target.shape)) == ((3, 4, 16, 16), (3, 1, 16, 16))
    assert np.allclose((batch.target.numpy() + 1) * 4 - 2, images.target.transpose(0, 3, 1, 2), atol=1e-6)


def test_scores_are_measured_and_the_protocol_says_of_what(run: Path):
    measured = json.loads((run / "evaluate/metrics.json").read_text())
    assert {"l1", "psnr", "ssim", "frechet_random_features"} <= measured["student"].keys()
    assert measured["protocol"]["values"]["source"] == "4 channels of uint16, 0 to 4095"
    assert "threes" in measured["protocol"]["channels"]
    (median,) = measured["baseline"]["constant_colour"]
    targets = PackedDataset.open(run / "dataset").split("test").target
    assert median == pytest.approx(np.median(targets), abs=5e-3)
    assert measured["baseline"]["constant_l1"] == pytest.approx(
        np.abs(targets - np.median(targets)).mean() / 4, abs=1e-4
    )
    assert "unchanged_input" not in measured["baseline"]


def test_pages_say_how_they_show_the_channels(run: Path):
    expected = "4 channels of uint16, 0 to 4095, which networks see as −1 to 1; pictures show channels 1, 2 and 3 of 4"
    report = (run / "report/report.html").read_text(encoding="utf-8")
    assert expected in report
    assert "Pictures of source images show channels 1, 2 and 3 of 4 as red, green and blue." in report
    assert "Pictures of target images show the channel as grey." in report
    page = glance.html(run / "dataset")
    assert expected in page
    assert "brightness of channel 4" in page


def test_the_exported_file_states_its_values(run: Path):
    networks = open_networks(run / "distill", "distill")
    direction = networks.direction
    architecture = networks.architectures.generator(direction)
    metadata = export_stage._metadata(architecture, direction, networks, {"student": networks.manifest})
    assert json.loads(metadata["output_values"]) == {"type": "float32", "channels": 1, "range": [-2.0, 6.0]}
    assert metadata["input"] == "float32, NCHW, -1 to 1: 4 channels of uint16, 0 to 4095"
    values = export_stage._values_of_pictures(networks, direction)
    assert values["input_values"]["range"] == [0, 4095]
    assert origins._values(values["input_values"]) == "; −1 to 1 are 4 channels of uint16, 0 to 4095"
    assert origins._values(None) == ""


def test_networks_refuse_images_of_another_range(run: Path, tmp_path: Path):
    assert open_networks(run / "prune", "prune").values["source"].range == (0, 4095)
    values = {**VALUES, "source_values": {"channels": 4, "range": [0, 65535]}}
    pack(run / "images", tmp_path / "other", **values)
    with pytest.raises(UserError, match=r"made for source images of 4 channels of uint16, 0 to 4095, but dataset"):
        export_stage.run(ExportConfig(), student=run / "distill", dataset=tmp_path / "other", output=tmp_path / "x")


def test_other_sizes_are_resampled_within_the_values(run: Path, tmp_path: Path):
    packed = pack(run / "images", tmp_path / "packed", load_size=20, crop_size=12)
    split = packed.split("train")
    assert (split.source.dtype, split.source.shape) == (np.uint16, (6, 20, 20, 4))
    assert split.source.max() <= 4095
    assert (split.target.dtype, split.target.shape) == (np.float32, (6, 20, 20, 1))
    assert -2 <= split.target.min() < split.target.max() <= 6


def test_8_bit_colours_may_be_stated_too(run: Path, tmp_path: Path):
    for split in ("train", "test"):
        for name in PackedDataset.open(run / "dataset").split(split).names:  # type: ignore[arg-type]
            colours = np.random.default_rng(int(name)).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            for side in "AB":
                (tmp_path / f"images/{split}{side}").mkdir(parents=True, exist_ok=True)
                np.save(tmp_path / f"images/{split}{side}/{name}.npy", colours)
    stated = {"type": "uint8", "channels": 3}
    packed = pack(tmp_path / "images", tmp_path / "packed", source_values=stated, target_values=stated, load_size=18)
    assert packed.split("train").source.shape == (6, 18, 18, 3)
    assert np.array_equal(packed.split("test").source[0], np.load(tmp_path / "images/testA/0.npy"))


def test_unpaired_images_need_equal_channels(run: Path, tmp_path: Path):
    data = tmp_path / "data"
    pack(run / "images", data / "dataset", layout="unpaired")
    statistics = data / "real_stats"
    real_stats_stage.run(RealStatsConfig(), dataset=data / "dataset", output=statistics)
    with pytest.raises(UserError, match="4 source and 1 target channels"):
        make_teacher(data, data / "teacher", teacher_config("cyclegan", **SHORT))


def test_unpaired_images_of_several_channels_are_learned(tmp_path: Path):
    for number in range(2):
        for place in ("trainA", "trainB", "testA", "testB"):
            (tmp_path / "images" / place).mkdir(parents=True, exist_ok=True)
            numbers = np.random.default_rng(number).integers(0, 256, (16, 16, 2), dtype=np.uint16)
            np.save(tmp_path / f"images/{place}/{place}{number}.npy", numbers)
    two = {"channels": 2, "range": [0, 255]}
    pack(tmp_path / "images", tmp_path / "dataset", layout="unpaired", source_values=two, target_values=two)
    real_stats_stage.run(RealStatsConfig(), dataset=tmp_path / "dataset", output=tmp_path / "real_stats")
    make_teacher(tmp_path, tmp_path / "teacher", teacher_config("cyclegan", **SHORT))
    assert set(read_manifest(tmp_path / "teacher").summary["sample_rows"]) >= {"source", "target"}


def test_files_that_differ_are_refused_by_name(run: Path, tmp_path: Path):
    make_files(tmp_path / "images")
    np.save(tmp_path / "images/trainB/3.npy", np.zeros((16, 16, 2), np.float32))
    np.save(tmp_path / "images/testB/1.npy", np.full((16, 16, 1), np.nan, np.float32))
    with pytest.raises(UserError) as refused:
        pack(tmp_path / "images", tmp_path / "packed")
    sentence = str(refused.value)
    assert "trainB/3.npy (has 2 channels, but dataset.target_values.channels is 1)" in sentence
    assert "testB/1.npy (holds NaN" in sentence


def test_arrays_without_stated_values_are_refused_unless_they_lie_beside_pictures(tmp_path: Path):
    make_files(tmp_path / "images")
    with pytest.raises(UserError, match=r"B/\d\.npy is an array, .* dataset\.source_values or dataset\.target_values"):
        pack(tmp_path / "images", tmp_path / "packed", source_values=None, target_values=None)


def test_a_recipe_that_translates_both_ways_needs_equal_channels():
    with pytest.raises(UserError, match=r"source_values\.channels is 4 and dataset\.target_values\.channels 1 "):
        load_recipe("demo-unpaired", ["dataset.source_values={channels: 4}", "dataset.target_values={}"])


def test_a_dry_run_says_what_the_numbers_are(run: Path):
    config = DatasetConfig.model_validate({"source": str(run / "images"), "layout": "parallel", **VALUES})
    assert "source values: 4 channels of uint16, 0 to 4095" in dataset_stage.preview(config)


def test_the_earlier_setting_of_white_is_named():
    with pytest.raises(UserError, match=r"'dataset\.white_point'; it is 'dataset\.source_values\.range' now"):
        load_recipe("smoke", ["dataset.white_point=4095"])


def test_label_maps_take_no_values_and_builtin_images_neither(tmp_path: Path):
    with pytest.raises(ValueError, match="source_values describes source images, but num_labels"):
        DatasetConfig.model_validate({"num_labels": 3, **VALUES})
    config = DatasetConfig.model_validate({"source": "builtin:relief-to-satellite", **VALUES})
    with pytest.raises(UserError, match=r"dataset\.source_values is for files, but builtin:relief-to-satellite"):
        dataset_stage.run(config, output=tmp_path / "packed")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"type": "float32"}, "range"),
        ({"range": [4095, 0]}, "must begin with its lowest value"),
        ({"range": [0, 70000]}, "whole numbers within 0 … 65535"),
        ({"range": [0.5, 2]}, "whole numbers"),
        ({"channels": 17}, "less than or equal to 16"),
        ({"channels": 0}, "greater than or equal to 1"),
        ({"range": [0, float("inf")]}, "finite"),
    ],
)
def test_values_that_mean_nothing_are_refused(values: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        DatasetConfig.model_validate({"source_values": values})


def test_an_a_b_image_holds_two_halves_with_values_of_their_own(tmp_path: Path):
    halves = np.random.default_rng(0).integers(0, 100, (8, 16), dtype=np.uint16)
    for split in ("train", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for number in range(2):
            tifffile.imwrite(tmp_path / f"images/{split}/{number}.tif", halves + number)
    own = {"layout": "combined", "load_size": 8, "crop_size": 8}
    values = {"source_values": {"range": [0, 200]}, "target_values": {"range": [0, 150]}}
    packed = pack(tmp_path / "images", tmp_path / "packed", **own, **values, direction="BtoA").split("train")
    assert np.array_equal(packed.source[1, ..., 0], halves[:, 8:] + 1)
    assert np.array_equal(packed.target[1, ..., 0], halves[:, :8] + 1)
    with pytest.raises(UserError, match=r"set both dataset\.source_values and dataset\.target_values"):
        pack(tmp_path / "images", tmp_path / "half", **own, source_values={"channels": 1}, target_values=None)
