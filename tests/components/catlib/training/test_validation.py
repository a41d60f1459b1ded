import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from components.catlib.artifacts import writing
from components.catlib.config import RealStatsConfig
from components.catlib.data.packed import PackedDataset
from components.catlib.data.pictures import label_colours
from components.catlib.distributed.devices import Accelerator
from components.catlib.errors import UserError
from components.catlib.metrics import statistics
from components.catlib.metrics.statistics import open_statistics
from components.catlib.networks.directions import Direction
from components.catlib.training import artifact
from components.catlib.training.artifact import train_and_write
from components.catlib.training.building import build_teacher_objective
from components.catlib.training.validation import Validation, translate
from components.real_stats import stage as real_stats_stage
from tests.components.catlib.data.image_folders import cityscapes, pack_folder
from tests.components.catlib.metrics.segmenter_files import write_onnx
from tests.components.small_trainings import make_dataset, teacher_config


class Inverting(nn.Module):
    """Gives the exact target of the paired data, and notes in which mode it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: set[bool] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.modes.add(self.training)
        return -images[:, :3]


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("paired"), "paired")


def validation(data: Path, directions: list[str], **settings: Any) -> Validation:
    return Validation(
        PackedDataset.open(data / "dataset"),
        open_statistics(data / "real_stats"),
        directions=[Direction(direction) for direction in directions],
        config=teacher_config("pix2pix", **settings),
        device=torch.device("cpu"),
    )


def picture_pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


def test_a_perfect_generator_scores_perfectly_and_keeps_its_mode(paired: Path):
    generator = Inverting().train()
    random_state = torch.get_rng_state()
    evaluation = validation(paired, ["source_to_target"])({"source_to_target": generator})
    assert evaluation.chosen_by == "frechet_random_features"
    assert evaluation.scores["source_to_target"]["l1"] == pytest.approx(0, abs=1e-6)
    assert evaluation.scores["source_to_target"]["frechet_random_features"] == pytest.approx(0, abs=1e-3)
    assert generator.training
    assert generator.modes == {False}
    assert torch.equal(torch.get_rng_state(), random_state)


def test_two_evaluations_are_equal(paired: Path):
    evaluate = validation(paired, ["source_to_target"])
    generator = nn.Conv2d(3, 3, 3, padding=1)
    assert evaluate({"source_to_target": generator}) == evaluate({"source_to_target": generator})


def test_the_picture_shows_source_target_and_output(paired: Path):
    evaluate = validation(paired, ["source_to_target"])
    pixels = picture_pixels(evaluate({"source_to_target": Inverting()}).picture)
    assert evaluate.rows == ["source", "target", "source_to_target"]
    source, target, output = pixels.reshape(3, -1, *pixels.shape[1:])
    assert np.abs(target - output).mean() < 4
    assert np.abs(source - target).mean() > 40
    assert np.abs(source.mean() + target.mean() - 255) < 8


def test_the_picture_of_label_maps_has_their_colours(tmp_path: Path):
    data = make_dataset(tmp_path, "labels")
    picture = validation(data, ["source_to_target"])({"source_to_target": Inverting()}).picture
    pixels = picture_pixels(picture)[:32].reshape(-1, 3)
    distances = np.abs(pixels[:, None] - label_colours(4)[None]).sum(axis=-1).min(axis=1)
    assert np.median(distances) < 20


def test_a_direction_without_statistics_is_refused(paired: Path):
    with pytest.raises(UserError, match="target_to_source"):
        validation(paired, ["target_to_source"])


def test_translate_restores_the_mode():
    generator = nn.BatchNorm2d(3)
    images = torch.rand(2, 3, 4, 4)
    for mode in (True, False):
        generator.train(mode)
        assert translate(generator, images).shape == images.shape
        assert generator.training is mode
    assert int(generator.num_batches_tracked or 0) == 0


def test_with_a_segmenter_weights_are_chosen_by_miou(tmp_path: Path, paired: Path):
    colours = np.random.default_rng(0).random((19, 3), dtype=np.float32)
    uri = str(write_onnx(tmp_path / "s.onnx", colours))
    segmenter = {"architecture": "onnx", "weights": {"uri": uri}, "mean": [0, 0, 0], "std": [1, 1, 1]}
    streets = cityscapes(tmp_path / "streets", size=(16, 16), names=("bonn/bonn_1", "bonn/bonn_2"))
    sizes = {"load_size": 16, "crop_size": 16}
    dataset = pack_folder(
        streets, tmp_path / "data/dataset", layout="cityscapes", direction="BtoA", num_labels=35, **sizes
    )
    real_stats_stage.run(RealStatsConfig(), dataset=dataset.folder, output=tmp_path / "data/real_stats")
    evaluation = validation(tmp_path / "data", ["source_to_target"], segmenter=segmenter)(
        {"source_to_target": Inverting()}
    )
    assert evaluation.chosen_by == "miou"
    score = evaluation.scores["source_to_target"]["miou"]
    assert 0 < score < 50
    assert evaluation.shortfalls() == {"source_to_target": 100 - score}
    with pytest.raises(UserError, match="has no true classes"):
        validation(paired, ["source_to_target"], segmenter=segmenter)


def test_directions_share_a_feature_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """CycleGAN scores two directions with one network; the same scores as with one each."""
    data = make_dataset(tmp_path, "unpaired")
    read: list[object] = []
    load = statistics.load_feature_network
    monkeypatch.setattr(statistics, "load_feature_network", lambda *given: (read.append(given), load(*given))[1])
    generators = {"source_to_target": Inverting(), "target_to_source": Inverting()}
    both = validation(data, [*generators])
    assert len(read) == 1
    alone = [validation(data, [name])(generators).scores[name] for name in generators]
    assert [*both(generators).scores.values()] == alone


class Stop(Exception):
    pass


@pytest.mark.parametrize("main", [True, False])
def test_only_the_main_process_reads_feature_networks(
    paired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: bool
):
    """The others evaluate at the same steps, but nothing of their own."""
    read, found = [], []
    load = statistics.load_feature_network
    monkeypatch.setattr(statistics, "load_feature_network", lambda *given: (read.append(given), load(*given))[1])

    def train(*_: object, evaluate: object, **__: object) -> None:
        found.append(evaluate)
        raise Stop

    monkeypatch.setattr(artifact, "train", train)
    dataset, real = PackedDataset.open(paired / "dataset"), open_statistics(paired / "real_stats")
    accelerator, config = Accelerator(cpu=True), teacher_config("pix2pix")
    monkeypatch.setattr(accelerator, "process_index", 0 if main else 1)
    objective = build_teacher_objective(
        config, in_channels=3, out_channels=3, crop_size=dataset.crop_size, accelerator=accelerator
    )
    with pytest.raises(Stop), writing(tmp_path / "out", kind="teacher", config=config, inputs={}) as writer:
        train_and_write(
            objective,
            config=config,
            stage="teacher",
            dataset=dataset,
            statistics=real,
            inputs={"dataset": dataset.manifest, "real_stats": real.manifest},
            accelerator=accelerator,
            checkpoint=None,
            writer=writer,
        )
    assert len(read) == main
    assert found[0] is not None
    assert isinstance(found[0], Validation) is main
