from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from components.catlib.config import RGB, ValuesConfig
from components.catlib.data.batches import (
    Batch,
    PackedBatch,
    TrainingBatches,
    channels_first,
    evaluation_batches,
    to_unit_range,
)
from components.catlib.data.packed import PackedDataset
from components.catlib.errors import UserError
from tests.components.catlib.data.image_folders import coordinates, pack_folder, write


def coordinate_folder(folder: Path, count_a: int, count_b: int, size: int = 12) -> Path:
    """Images that say which pixel of which image they show; those of B count from 100."""
    for domain, count, first in (("A", count_a, 0), ("B", count_b, 100)):
        for split in ("train", "test"):
            for index in range(count):
                write(folder / f"{split}{domain}/{index:03}.png", coordinates(first + index, size, size))
    return folder


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    folder = tmp_path_factory.mktemp("paired")
    data = coordinate_folder(folder / "data", 10, 10)
    return pack_folder(data, folder / "packed", layout="parallel", load_size=12, crop_size=(8, 10))


@pytest.fixture(scope="module")
def unpaired(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    folder = tmp_path_factory.mktemp("unpaired")
    return pack_folder(coordinate_folder(folder / "data", 4, 10), folder / "packed", load_size=12, crop_size=8)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    folder = tmp_path_factory.mktemp("labelled")
    for index in range(4):
        pixels = coordinates(index, 12, 12)
        write(folder / f"data/A/{index}.png", pixels[..., 2])
        write(folder / f"data/B/{index}.png", pixels)
        write(folder / f"data/instances/{index}.png", pixels[..., 2].astype(int) // 6 * 40000, np.uint16)
    return pack_folder(folder / "data", folder / "packed", num_labels=12, load_size=12, crop_size=8, test_fraction=0)


def to_bytes(images: Tensor) -> np.ndarray:
    """Back to the numbers in the files: int [N, C, H, W]."""
    return ((images + 1) * 127.5).round().int().numpy()


def indices(images: Tensor) -> list[int]:
    return to_bytes(images)[:, 0, 0, 0].tolist()


def crops(images: Tensor) -> list[tuple[int, int, bool]]:
    """Top, left and flip of every crop, after checking that it is one whole window of the image."""
    found = []
    for _, rows, columns in to_bytes(images):
        flipped = bool(columns[0, 0] > columns[0, -1])
        columns = columns[:, ::-1] if flipped else columns
        height, width = rows.shape
        top, left = int(rows[0, 0]), int(columns[0, 0])
        assert np.array_equal(rows, np.tile(np.arange(top, top + height)[:, None], (1, width)))
        assert np.array_equal(columns, np.tile(np.arange(left, left + width), (height, 1)))
        found.append((top, left, flipped))
    return found


def test_images_are_float32_between_minus_one_and_one_channels_first():
    tensor = to_unit_range(channels_first(np.array([[[[0, 255, 51]]]], dtype=np.uint8)))
    assert (tensor.dtype, tensor.shape, tensor.is_contiguous()) == (torch.float32, (1, 3, 1, 1), True)
    torch.testing.assert_close(tensor.flatten(), torch.tensor([-1.0, 1.0, -0.6]))


def test_pairs_stay_pairs_and_share_crop_and_flip(paired: PackedDataset):
    batch = TrainingBatches(paired, batch_size=5, flip=True, seed=3).batch(7).to("cpu")
    assert batch.source.shape == batch.target.shape == (5, 3, 8, 10)
    assert indices(batch.target) == [100 + index for index in indices(batch.source)]
    assert crops(batch.source) == crops(batch.target)


def test_a_batch_depends_on_seed_and_step_only(paired: PackedDataset):
    batches = TrainingBatches(paired, batch_size=4, flip=True, seed=5)
    forward = [batches.batch(step).to("cpu").source for step in range(6)]
    resumed = TrainingBatches(paired, batch_size=4, flip=True, seed=5)
    assert all(torch.equal(resumed.batch(step).to("cpu").source, forward[step]) for step in (5, 2, 4, 0, 3, 1))
    other = TrainingBatches(paired, batch_size=4, flip=True, seed=6)
    assert not torch.equal(other.batch(0).to("cpu").source, forward[0])


def test_every_epoch_visits_each_image_at_most_once_in_a_new_order(paired: PackedDataset):
    batches = TrainingBatches(paired, batch_size=5, flip=False, seed=0)
    assert batches.steps_per_epoch == 2
    epochs = [
        [index for step in (0, 1) for index in indices(batches.batch(2 * epoch + step).to("cpu").source)]
        for epoch in range(3)
    ]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_what_does_not_fill_a_batch_waits_for_another_epoch(paired: PackedDataset):
    batches = TrainingBatches(paired, batch_size=4, flip=False, seed=0)
    assert batches.steps_per_epoch == 2
    seen = [
        set(indices(batches.batch(step).to("cpu").source) + indices(batches.batch(step + 1).to("cpu").source))
        for step in range(0, 40, 2)
    ]
    assert all(len(epoch) == 8 for epoch in seen)
    assert set.union(*seen) == set(range(10))


def test_all_crop_positions_and_both_orientations_occur(paired: PackedDataset):
    batches = TrainingBatches(paired, batch_size=10, flip=True, seed=0)
    drawn = [crop for step in range(40) for crop in crops(batches.batch(step).to("cpu").source)]
    tops, lefts, flips = zip(*drawn, strict=True)
    assert (set(tops), set(lefts)) == (set(range(5)), set(range(3)))
    assert 140 < sum(flips) < 260


def test_without_flip_the_crops_are_the_same_but_upright(paired: PackedDataset):
    flipping = TrainingBatches(paired, batch_size=10, flip=True, seed=1).batch(3).to("cpu")
    upright = TrainingBatches(paired, batch_size=10, flip=False, seed=1).batch(3).to("cpu")
    assert [crop[:2] for crop in crops(flipping.source)] == [crop[:2] for crop in crops(upright.source)]
    assert not any(crop[2] for crop in crops(upright.source))


def test_unpaired_images_meet_at_random_with_crops_of_their_own(unpaired: PackedDataset):
    batches = TrainingBatches(unpaired, batch_size=5, flip=True, seed=0)
    assert batches.steps_per_epoch == 2
    drawn = [batches.batch(step).to("cpu") for step in range(60)]
    sources = [index for batch in drawn for index in indices(batch.source)]
    partners = [index - 100 for batch in drawn for index in indices(batch.target)]
    assert {(source, partner) for source, partner in zip(sources, partners, strict=True)} == {
        (source, partner) for source in range(4) for partner in range(10)
    }
    assert sum(crops(batch.source) == crops(batch.target) for batch in drawn) == 0
    for epoch in range(30):
        counts = np.bincount(sources[10 * epoch : 10 * epoch + 10], minlength=4)
        assert counts.tolist() == [3, 3, 2, 2]  # 10 visits of 4 images that wrap around


def test_labels_edges_and_photo_share_the_crop(labelled: PackedDataset):
    batches = TrainingBatches(labelled, batch_size=4, flip=True, seed=0)
    for step in range(6):
        batch = batches.batch(step).to("cpu")
        assert batch.source.shape == (4, 13, 8, 8)
        columns = to_bytes(batch.target)[:, 2]
        assert np.array_equal(batch.source[:, :12].argmax(1).numpy(), columns)
        assert torch.equal(batch.source[:, :12].sum(1), torch.ones(4, 8, 8))
        expected_edges = (columns == 5) | (columns == 6)
        assert np.array_equal(batch.source[:, 12].numpy(), expected_edges)


def test_evaluation_goes_through_the_test_images_in_order_and_whole(paired: PackedDataset):
    batches = list(evaluation_batches(paired, batch_size=4))
    assert [len(batch.source) for batch in batches] == [4, 4, 2]
    assert [index for batch in batches for index in indices(batch.source)] == list(range(10))
    together = torch.cat([batch.target for batch in batches])
    assert np.array_equal(to_bytes(together), paired.split("test").target.transpose(0, 3, 1, 2))


def test_evaluation_can_stop_early(paired: PackedDataset):
    assert [len(batch.source) for batch in evaluation_batches(paired, batch_size=4, limit=6)] == [4, 2]


def test_training_images_are_resized_for_evaluation(paired: PackedDataset):
    (batch,) = evaluation_batches(paired, batch_size=10, split="train")
    assert batch.source.shape == (10, 3, 8, 10)
    rows = to_bytes(batch.source)[0, 1]
    assert (rows.min(), rows.max()) == (0, 11)


def test_evaluation_of_unpaired_images_lets_the_shorter_side_end_first(unpaired: PackedDataset):
    sizes = [(len(batch.source), len(batch.target)) for batch in evaluation_batches(unpaired, batch_size=3)]
    assert sizes == [(3, 3), (1, 3), (0, 3), (0, 1)]


def test_evaluation_of_labels(labelled: PackedDataset, recwarn: pytest.WarningsRecorder):
    (batch,) = evaluation_batches(labelled, batch_size=4, split="train")
    assert batch.source.shape == (4, 13, 8, 8)
    assert set(batch.source.unique().tolist()) == {0.0, 1.0}
    assert not recwarn.list  # memory maps are read-only; torch warns when it is handed one


def test_a_batch_larger_than_the_data_is_the_users_mistake(paired: PackedDataset):
    with pytest.raises(
        UserError,
        match=r"teacher.batch_size 11 is larger than .* images in .*, 10; set teacher.batch_size to 10 or",
    ):
        TrainingBatches(paired, batch_size=11, flip=True, seed=0)


def test_a_dataset_without_targets_cannot_be_trained_on(tmp_path: Path):
    write(tmp_path / "data/x.png", coordinates(0))
    packed = pack_folder(tmp_path / "data", tmp_path / "packed")
    with pytest.raises(UserError, match="lacks training images of one domain or both"):
        TrainingBatches(packed, batch_size=1, flip=True, seed=0)
    (batch,) = evaluation_batches(packed, batch_size=4)
    assert (batch.source.shape, batch.target.shape) == ((1, 3, 8, 8), (0, 3, 8, 8))


def test_a_batch_can_be_moved(paired: PackedDataset):
    batch = TrainingBatches(paired, batch_size=2, flip=True, seed=0).batch(0).to("meta")
    assert batch.source.device.type == batch.target.device.type == "meta"


@pytest.mark.parametrize("kind", ["paired", "unpaired", "labelled"])
def test_shares_make_up_the_batch(request: pytest.FixtureRequest, kind: str):
    batches = TrainingBatches(request.getfixturevalue(kind), batch_size=4, flip=True, seed=0)
    whole, first, second = (batches.batch(5, rows).to("cpu") for rows in (slice(None), slice(0, 1), slice(1, 4)))
    assert torch.equal(whole.source, torch.cat([first.source, second.source]))
    assert torch.equal(whole.target, torch.cat([first.target, second.target]))


RANGES = {
    "colours": RGB,
    "12 bits": ValuesConfig(type="uint16", channels=4, range=(0, 4095)),
    "narrow bytes": ValuesConfig(type="uint8", channels=1, range=(3, 77)),
    "floats": ValuesConfig(type="float32", channels=2, range=(-1.7, 5.3)),
}


@pytest.mark.parametrize("name", RANGES)
def test_packed_numbers_become_floats_as_they_always_did(name: str):
    """To the last bit, what one expression of NumPy or torch made of them on the CPU."""
    values, random = RANGES[name], np.random.default_rng(0)
    numbers = random.uniform(*values.range, (2, values.channels, 50, 60)).astype(values.type)
    if values == RGB:
        expected = torch.from_numpy(numbers).to(torch.float32).div(127.5).sub(1)
    else:
        low, high = values.range
        expected = torch.from_numpy(((numbers - np.float64(low)) * (2 / (high - low)) - 1).astype(np.float32))
    before = numbers.copy()
    assert torch.equal(to_unit_range(numbers, values), expected)
    assert torch.equal(to_unit_range(torch.from_numpy(numbers), values), expected)
    assert np.array_equal(numbers, before)


def test_what_travels_is_what_is_packed(paired: PackedDataset, labelled: PackedDataset):
    packed = TrainingBatches(paired, batch_size=5, flip=True, seed=0).batch(0)
    assert packed.source.nbytes + packed.target.nbytes == 2 * 5 * 3 * 8 * 10
    packed = TrainingBatches(labelled, batch_size=4, flip=True, seed=0).batch(0)
    assert packed.instances is not None
    assert (packed.source.dtype, packed.target.dtype, packed.instances.dtype) == (
        *(torch.uint8, torch.uint8, torch.int32),
    )
    assert sum(part.nbytes for part in (packed.source, packed.target, packed.instances)) == 4 * 8 * 8 * (1 + 3 + 4)
    assert packed.to("cpu").source.nbytes == 4 * 8 * 8 * 13 * 4


@pytest.mark.parametrize("kind", ["paired", "labelled"])
def test_batches_for_a_gpu_are_pinned_and_do_not_wait(
    request: pytest.FixtureRequest, kind: str, monkeypatch: pytest.MonkeyPatch
):
    """Every part is pinned, and leaves for the device packed and without waiting; floats are made there."""
    pinned: list[int] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: (pinned.append(self.data_ptr()), self)[1])
    batches = TrainingBatches(request.getfixturevalue(kind), batch_size=4, flip=True, seed=0, pinned=True)
    packed = batches.batch(0)
    parts = [part for part in (packed.source, packed.target, packed.instances) if part is not None]
    assert pinned == [part.data_ptr() for part in parts]
    with FakeTensorMode(allow_non_fake_inputs=True), Copies() as copies:
        batch = packed.to("cuda")
    assert (batch.source.device.type, batch.target.dtype) == ("cuda", torch.float32)
    assert copies.found == [(part.dtype, True) for part in parts]


class Copies(TorchDispatchMode):
    """Notes the type of every tensor of the CPU that is copied to a GPU, and whether the program waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[torch.dtype, bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is torch.ops.aten._to_copy.default and torch.device(given.get("device") or "cpu").type == "cuda":
            self.found.append((args[0].dtype, given.get("non_blocking", False)))
        return func(*args, **given)


@pytest.mark.parametrize("values", [RANGES["colours"], RANGES["12 bits"]])
def test_batches_for_apples_gpu_become_floats_before(
    paired: PackedDataset, values: ValuesConfig, monkeypatch: pytest.MonkeyPatch
):
    """It lacks float64, in which ranges are computed; only floats of 32 bits travel."""
    summary = paired.summary.model_copy(update={"values": {"source": values, "target": values}})
    images = torch.zeros((2, values.channels, 4, 4), dtype=getattr(torch, values.type))
    packed = PackedBatch(images, images, None, summary)
    expected, travelled = packed.to("cpu"), list[tuple[Batch, str]]()
    monkeypatch.setattr(Batch, "to", lambda self, device, **_: (travelled.append((self, str(device))), self)[1])
    packed.to("mps")
    ((batch, device),) = travelled
    assert device == "mps"
    assert torch.equal(batch.source, expected.source)
    assert batch.target.dtype == torch.float32


@pytest.mark.parametrize("kind", ["paired", "unpaired", "labelled"])
def test_a_sample_is_made_of_the_first_batches(request: pytest.FixtureRequest, kind: str):
    batches = TrainingBatches(request.getfixturevalue(kind), batch_size=3, flip=True, seed=0)
    sample, first, second = (packed.to("cpu") for packed in (batches.sample(5), batches.batch(0), batches.batch(1)))
    assert torch.equal(sample.source, torch.cat([first.source, second.source])[:5])
    assert torch.equal(sample.target, torch.cat([first.target, second.target])[:5])
