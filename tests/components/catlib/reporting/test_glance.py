"""One artifact at a glance: what Kubeflow's interface shows of every stage."""

import re
from pathlib import Path

import pytest

from components.catlib.artifacts import writing
from components.catlib.config import DatasetConfig, RealStatsConfig
from components.catlib.recipes import load_recipe
from components.catlib.reporting.glance import html
from components.catlib.reporting.page import LARGEST_PAGE
from components.dataset.stage import run as pack
from tests.components.catlib.data.image_folders import cityscapes, noise, write
from tests.components.report.small_run import SmallRun, write_small_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return write_small_run(tmp_path_factory.mktemp("run"), budgets=("0.3x",))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "dataset"
    pack(load_recipe("smoke", ["dataset.max_images=8"]).dataset, output=folder)
    return folder


def folders(run: SmallRun, dataset: Path) -> list[Path]:
    return [dataset, run.real_stats, run.teacher, run.students[0], run.distilled[0], run.evaluations[0], run.exports[0]]


def test_every_stage_has_a_page_that_stands_alone(run: SmallRun, dataset: Path) -> None:
    for folder in folders(run, dataset):
        page = html(folder)
        assert len(page.encode()) <= LARGEST_PAGE
        addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
        assert all(address.startswith(("data:", "#")) for address in addresses), folder
        assert "<script" not in page


def test_a_dataset_shows_pairs_of_images(dataset: Path) -> None:
    page = html(dataset)
    assert page.count('src="data:image/webp') == 12
    assert "paired" in page


def test_a_dataset_says_that_it_is_small(dataset: Path) -> None:
    page = html(dataset)
    assert "8 pairs for training are few, below 400" in page
    assert "held-out target images are few, below 100" in page


def test_a_dataset_shows_histograms_and_doubles(dataset: Path, tmp_path: Path) -> None:
    page = html(dataset)
    assert len(re.findall(r"(source|target): share of pixels by brightness of (red|green|blue)", page)) == 6
    assert "in training too" not in page
    for place in ("train/a.png", "train/b.png", "test/c.png"):
        write(tmp_path / "images" / place, noise(place == "train/b.png", 16, 32))
    pack(DatasetConfig(source=str(tmp_path / "images"), load_size=16, crop_size=16), output=tmp_path / "packed")
    assert re.search(r"also in training.{0,60}c is a", html(tmp_path / "packed"), re.DOTALL)


def test_a_dataset_of_label_maps_shows_how_frequent_classes_are(tmp_path: Path) -> None:
    images = cityscapes(tmp_path / "images")
    config = DatasetConfig(source=str(images), num_labels=35, load_size=(4, 8), crop_size=(4, 8))
    pack(config, output=tmp_path / "packed")
    page = html(tmp_path / "packed")
    assert page.count("source: share of pixels by class") == 1
    assert page.count("target: share of pixels by brightness") == 3


def test_a_training_shows_its_curves_and_its_samples(run: SmallRun) -> None:
    for folder in (run.teacher, run.distilled[0]):
        page = html(folder)
        assert page.count("<svg") >= 2
        assert 'src="data:image/webp' in page


def test_pruning_shows_what_survived_of_every_layer(run: SmallRun) -> None:
    page = html(run.students[0])
    assert "down_sampling.2" in page
    assert page.count('class="meter"') > 10


def test_an_evaluation_shows_student_and_teacher_side_by_side(run: SmallRun) -> None:
    page = html(run.evaluations[0])
    assert "Teacher" in page
    assert 'src="data:image/webp' in page


def test_text_is_escaped(tmp_path: Path) -> None:
    with writing(tmp_path / "stats", kind="real_stats", config=RealStatsConfig()) as writer:
        writer.summary["metrics"] = {"<b>": 1}
    assert "&lt;b&gt;" in html(tmp_path / "stats")
