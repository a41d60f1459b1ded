"""How much of a training's time goes into waiting for images: below 2 % of a step (they are read in a thread)."""

import time
from pathlib import Path

import pytest
import torch

from components.catlib.config import DatasetConfig, Pix2PixConfig
from components.catlib.data.batches import TrainingBatches
from components.catlib.data.packed import PackedDataset
from components.catlib.distributed.devices import Accelerator
from components.catlib.training.building import build_teacher_objective
from components.dataset import stage as dataset_stage
from tests.components.catlib.data.image_folders import noise, write

SIDE, BATCH = 128, 4


@pytest.mark.slow
def test_reading_a_batch_takes_less_than_two_percent_of_a_step(tmp_path: Path):
    for domain in "AB":
        for index in range(8):
            write(tmp_path / f"images/train{domain}/{index}.png", noise(index, SIDE + 16, SIDE + 16))
    config = DatasetConfig(
        source=str(tmp_path / "images"), layout="parallel", load_size=(144, 144), crop_size=(SIDE, SIDE)
    )
    dataset_stage.run(config, output=tmp_path / "dataset")
    dataset = PackedDataset.open(tmp_path / "dataset")
    batches = TrainingBatches(dataset, batch_size=BATCH, flip=True, seed=0)
    teacher = Pix2PixConfig.model_validate({"generator": {"base_channels": 16}, "discriminator": {"base_channels": 16}})
    objective = build_teacher_objective(
        teacher, in_channels=3, out_channels=3, crop_size=(SIDE, SIDE), accelerator=Accelerator(cpu=True)
    )
    torch.manual_seed(0)
    objective.step(batches.batch(0).to("cpu"))
    began = time.process_time()
    for step in range(50):
        batches.batch(step).to("cpu")
    reading = (time.process_time() - began) / 50
    batch = batches.batch(1).to("cpu")
    began = time.process_time()
    objective.step(batch)
    share = reading / (time.process_time() - began)
    print(f"a batch of {BATCH} images of {SIDE}x{SIDE}: {1e3 * reading:.2f} ms, {100 * share:.2f} % of a step")
    assert share < 0.02
