"""What an error says to do is tried, and leads past the error."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.__main__ import main
from components.catlib.config import PruneConfig
from components.catlib.data.enough import check_held_out
from components.catlib.data.packed import PackedDataset
from components.catlib.errors import UserError
from components.catlib.fitting import check_size
from components.catlib.networks.families import architecture_from_config
from components.catlib.networks.published.generators import load_generator
from components.catlib.networks.published.reading import read_state_dict
from components.catlib.pruning.search import smallest_student
from components.catlib.recipes import load_recipe
from tests.components.catlib.data.image_folders import cityscapes, noise, write

SMALL = ["--set", "dataset.load_size=[32,32]", "--set", "dataset.crop_size=[32,32]"]
TEACHER = {"epochs": 1, "decay_epochs": 0, "evaluations": 0, "batch_size": 2}


def images(folder: Path, *places: str, first: int = 0) -> None:
    for place in places:
        for number in range(first, first + 4):
            write(folder / place / f"{number}.png", noise(number, 32, 32))


def dataset(folder: Path, *settings: str) -> int:
    changes = [word for setting in settings for word in ("--set", setting)]
    places = ["--source", str(folder / "data"), "--output", str(folder / "dataset")]
    return main(["dataset", "--recipe", "smoke", *places, *SMALL, *changes])


def teacher(folder: Path, *settings: str) -> int:
    changes = [f"teacher.{name}={value}" for name, value in TEACHER.items()] + list(settings)
    inputs = ["--dataset", str(folder / "dataset"), "--real-stats", str(folder / "statistics")]
    return main([
        "teacher", "--recipe", "smoke", *inputs, "--output", str(folder / "teacher"),
        *(word for change in changes for word in ("--set", change)),
    ])  # fmt: skip


def single_pictures(folder: Path) -> None:
    images(folder, "train", "test")


def no_partners(folder: Path) -> None:
    images(folder, "A")
    images(folder, "B", first=10)


def two_folders_in_splits(folder: Path) -> None:
    images(folder, "train/a1", "test/a1")
    images(folder, "train/b1", "test/b1", first=10)


def both_ways(folder: Path) -> None:
    images(folder, "trainA", "trainB", "testA", "testB", "train", "test")


def photos_beside_folders(folder: Path) -> None:
    images(folder, "horses", "zebras", ".")


def too_many_classes(folder: Path) -> None:
    images(folder, "B")
    for number in range(4):
        write(folder / f"A/{number}.png", np.arange(32 * 32).reshape(32, 32) % 7)


def twelve_bits(folder: Path) -> None:
    for place in ("trainA", "trainB", "testA", "testB"):
        for number in range(4):
            random = np.random.default_rng(number)
            write(folder / place / f"{number}.png", random.integers(0, 4096, (32, 32)), np.uint16)


def damaged(folder: Path) -> None:
    images(folder, "A", "B")
    (folder / "A/3.png").write_bytes(b"no image")


def follow(said: str) -> list[str]:
    """Returns the settings that a message names, as `--set` takes them."""
    return [f"{name}={value}" for name, value in re.findall(r"set ([a-z_.]+\w)(?::| to) ([\w\[\],-]+(?:\.\d+)?)", said)]


@pytest.mark.parametrize(
    ("make", "settings", "advised"),
    [
        (single_pictures, [], "dataset.layout=combined"),
        (no_partners, [], "dataset.layout=unpaired"),
        (two_folders_in_splits, [], "dataset.layout=unpaired"),
        (both_ways, [], "dataset.layout=unpaired"),
        (photos_beside_folders, [], "dataset.layout=single"),
        (damaged, [], "dataset.on_error=skip"),
    ],
)
def test_a_setting_that_the_dataset_stage_names_leads_on(
    make: Callable[[Path], None],
    settings: list[str],
    advised: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    make(tmp_path / "data")
    assert dataset(tmp_path, *settings) == 2
    found = follow(capsys.readouterr().err)
    assert found[0] == advised
    assert dataset(tmp_path, *settings, found[0]) == 0


def test_the_number_of_classes_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    too_many_classes(tmp_path / "data")
    assert dataset(tmp_path, "dataset.num_labels=3") == 2
    assert "set dataset.num_labels to the number of classes (7 or more)" in capsys.readouterr().err
    assert dataset(tmp_path, "dataset.num_labels=7") == 0


def test_the_range_that_is_named_keeps_every_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    twelve_bits(tmp_path / "data")
    assert dataset(tmp_path) == 0
    said = capsys.readouterr().err
    advised = re.findall(r"set (dataset\.\w+_values) to (\{.*?\}) with their largest value", said)
    assert {setting for setting, _ in advised} == {"dataset.source_values", "dataset.target_values"}
    assert {values for _, values in advised} == {"{channels: 1, range: [0, 4095]}"}
    assert dataset(tmp_path, *(f"{setting}={values}" for setting, values in advised)) == 0
    assert "grey levels" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stated", "advised"),
    [
        ({"type": "uint16", "channels": 3, "range": [0, 4095]}, r"(channels) to (\d+) if all files have that many"),
        ({"type": "float32", "channels": 4, "range": [0, 99]}, r"(range) to the lowest and highest value of all files"),
        ({"type": "uint16", "channels": 4, "range": [0, 1000]}, r"(type) to another type, or save the files as uint16"),
    ],
)
def test_what_is_said_about_stated_numbers_leads_on(
    stated: dict[str, Any], advised: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    numbers = np.random.default_rng(0).integers(0, 2001, (5, 32, 32, 4)) / np.float32(2)
    for number, values in enumerate(numbers):
        for place in ("A", "B"):
            (tmp_path / "data" / place).mkdir(parents=True, exist_ok=True)
            np.save(
                tmp_path / f"data/{place}/{number}.npy", values.astype(np.uint16 if "channels" in advised else "f4")
            )
    right = {"channels": 4, "range": [int(numbers.min()), int(numbers.max())], "type": "float32"}
    true = f"dataset.target_values={json.dumps(right)}"
    assert dataset(tmp_path, f"dataset.source_values={json.dumps(stated)}", true) == 2
    (found,) = re.findall(rf"set dataset\.source_values\.{advised}", capsys.readouterr().err)
    name, *value = [found] if isinstance(found, str) else found
    assert value in ([], [str(right[name])])
    assert dataset(tmp_path, f"dataset.source_values={json.dumps(stated | {name: right[name]})}", true) == 0


def test_a_range_that_is_too_wide_is_set_to_that_of_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    twelve_bits(tmp_path / "data")
    right = "dataset.target_values={range: [0, 4095]}"
    assert dataset(tmp_path, "dataset.source_values={range: [0, 65535]}", right) == 0
    said = capsys.readouterr().err
    setting = "dataset.source_values.range"
    assert f"of {setting} [0, 65535]; set {setting} to the lowest and highest value of all files" in said
    assert "dataset.target_values" not in said
    assert dataset(tmp_path, "dataset.source_values={range: [0, 4095]}", right) == 0
    assert "a small part of" not in capsys.readouterr().err


def test_pictures_of_classes_are_read_as_label_maps_if_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    too_many_classes(tmp_path / "data")
    assert dataset(tmp_path) == 0
    assert "if the values are classes, number them 0 … 6 and set dataset.num_labels" in capsys.readouterr().err
    assert dataset(tmp_path, "dataset.num_labels=7") == 0
    assert "look like maps of classes" not in capsys.readouterr().err


@pytest.mark.parametrize("rows", ["file_name;target_file_name\nA/0.png;B/0.png\n", "file_name\nA/\udcff.png\n"])
def test_the_layout_is_set_where_a_description_cannot_be_read(
    rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    images(tmp_path / "data", "A", "B")
    (tmp_path / "data/metadata.csv").write_text(rows, encoding="utf-8", errors="surrogateescape")
    assert dataset(tmp_path) == 2
    assert "or set dataset.layout if the folders say enough." in capsys.readouterr().err
    assert dataset(tmp_path, "dataset.layout=parallel") == 0


@pytest.mark.parametrize("change", ["dataset.layout=unpaired", ""])
def test_label_maps_are_never_sent_to_the_unpaired_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
):
    too_many_classes(tmp_path / "data")
    for path in (tmp_path / "data/A").iterdir():
        path.rename(path.with_stem(f"{path.stem}_labels"))
    assert dataset(tmp_path, "dataset.num_labels=7", *filter(None, [change])) == 2
    assert "set dataset.layout: unpaired" not in capsys.readouterr().err


def test_coloured_label_maps_are_not_to_be_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    images(tmp_path / "data", "A", "B")
    assert dataset(tmp_path, "dataset.num_labels=7") == 2
    said = capsys.readouterr().err
    assert "must have one channel, but this image has the mode RGB" in said
    assert "; replace the colours by numbers, one per class or instance, in grey or palette images, or set " in said
    assert "repair" not in said


def test_cityscapes_with_other_maps_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for path in cityscapes(tmp_path / "data", size=(32, 64)).rglob("*_labelIds.png"):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    assert dataset(tmp_path, "dataset.num_labels=19") == 2
    said = capsys.readouterr().err
    assert "/gtFine has no maps that end in _gtFine_labelIds.png, which hold the classes; " in said
    assert "remove dataset.num_labels to use the colours" in said
    assert dataset(tmp_path) == 0


@pytest.fixture
def statistics(tmp_path: Path) -> Callable[[], None]:
    def make() -> None:
        arguments = ["--dataset", str(tmp_path / "dataset"), "--output", str(tmp_path / "statistics")]
        assert main(["real-stats", "--recipe", "smoke", *arguments]) == 0

    return make


def test_names_that_are_equal_on_both_sides_are_taken_for_partners(
    tmp_path: Path, statistics: Callable[[], None], capsys: pytest.CaptureFixture[str]
):
    images(tmp_path / "data", "trainA", "trainB", "testA", "testB")
    assert dataset(tmp_path) == 0
    statistics()
    assert teacher(tmp_path) == 2
    said = capsys.readouterr().err
    assert follow(said), said
    (advised,) = follow(said)
    assert advised == "dataset.layout=parallel"
    assert dataset(tmp_path, advised) == 0
    statistics()
    assert teacher(tmp_path) == 0


def test_a_batch_that_is_too_large_names_the_setting_of_its_stage(
    tmp_path: Path, statistics: Callable[[], None], capsys: pytest.CaptureFixture[str]
):
    images(tmp_path / "data", "A/train", "B/train", "A/test", "B/test")
    assert dataset(tmp_path) == 0
    statistics()
    assert teacher(tmp_path, "teacher.batch_size=80") == 2
    said = capsys.readouterr().err
    assert follow(said), said
    (advised,) = follow(said)
    assert advised == "teacher.batch_size=4"
    assert teacher(tmp_path, advised) == 0


@pytest.mark.parametrize(
    ("settings", "advised"),
    [(["dataset.test_fraction=0"], "dataset.test_fraction=0.1"), (["dataset.max_images=1"], "dataset.max_images=2")],
)
def test_too_few_held_out_images_say_how_to_hold_out_more(settings: list[str], advised: str, tmp_path: Path):
    images(tmp_path / "data", "A", "B")
    assert dataset(tmp_path, *settings) == 0
    with pytest.raises(UserError, match=r"has \d held-out source images, but scores need at least two") as refused:
        check_held_out(PackedDataset.open(tmp_path / "dataset"), ["source", "target"])
    assert "evaluations" not in str(refused.value)
    assert follow(str(refused.value)) == [advised]
    assert dataset(tmp_path, *settings, advised) == 0
    check_held_out(PackedDataset.open(tmp_path / "dataset"), ["source", "target"])


def test_a_folder_without_held_out_images_is_not_advised_to_set_a_share(tmp_path: Path):
    images(tmp_path / "data", "train/A", "train/B")
    for place in ("A", "B"):
        write(tmp_path / f"data/test/{place}/9.png", noise(9, 32, 32))
    assert dataset(tmp_path, "dataset.layout=parallel") == 0
    with pytest.raises(UserError, match="put at least two images into the source's folder of held-out images"):
        check_held_out(PackedDataset.open(tmp_path / "dataset"), ["source"])


@pytest.mark.parametrize(("size", "fitting"), [((30, 33), [28, 32]), ((4, 64), [12, 64])])
def test_a_size_that_is_named_for_a_generator_fits(size: tuple[int, int], fitting: list[int]):
    config = load_recipe("smoke").teacher
    with pytest.raises(UserError, match=r"multiples of 4, at least 12; set dataset\.crop_size to") as refused:
        check_size(config, size, channels=(3, 3), where="It")
    assert follow(str(refused.value)) == [f"dataset.crop_size=[{fitting[0]},{fitting[1]}]"]
    architecture_from_config(config.generator, in_channels=3, out_channels=3, crop_size=(32, 32)).check_size(
        fitting[0], fitting[1], where="It"
    )


def test_the_size_that_is_named_for_a_discriminator_fits():
    config = load_recipe("smoke", ["teacher.discriminator.num_layers=5"]).teacher
    with pytest.raises(UserError, match="to no less, or lower teacher") as no:
        check_size(config, (32, 32), channels=(3, 3), where="It")
    smallest = int(re.findall(r"set dataset.crop_size to at least (\d+)", str(no.value))[0])
    fitting = -(-smallest // 4) * 4
    check_size(config, (fitting, fitting), channels=(3, 3), where="It")


@pytest.mark.parametrize(
    ("changes", "named", "then"),
    [
        (["teacher.patience=3"], r"set evaluations to at least patience \+ 2 = (\d+)", "teacher.evaluations"),
        (["teacher.schedule=plateau"], r"set evaluations to at least schedule.* = (\d+)", "teacher.evaluations"),
        (["teacher.compile=true", "teacher.adversarial=wgangp"], "set compile: (false)", "teacher.compile"),
        (["teacher.generator.norm=batch"], "set teacher.generator.norm.kind: (batch)", "teacher.generator.norm.kind"),
        (["dataset.crop_size=30"], r"set dataset.crop_size to (\[28,28\])", "dataset.crop_size"),
    ],
)
def test_a_setting_that_a_recipe_is_told_leads_on(changes: list[str], named: str, then: str):
    def check(*more: str) -> None:
        own = [each for each in changes if not then.startswith(each.partition("=")[0])] if more else changes
        recipe = load_recipe("smoke", [*own, *more])
        check_size(recipe.teacher, recipe.dataset.crop_size, channels=(3, 3), where="It")

    with pytest.raises(UserError, match=named) as refused:
        check()
    check(f"{then}={re.findall(named, str(refused.value))[0]}")


@pytest.mark.parametrize("setting", ["min_channels", "min_feature_channels"])
def test_the_number_of_channels_that_is_named_fits(setting: str):
    config = load_recipe("smoke").teacher.generator
    architecture = architecture_from_config(config, in_channels=3, out_channels=3, crop_size=(32, 32))
    with pytest.raises(UserError, match=rf"set prune\.{setting} to at most \d+") as refused:
        smallest_student(architecture, PruneConfig.model_validate({"min_channels": 2, setting: 99}))
    (advised,) = re.findall(r"at most (\d+)", str(refused.value))
    smallest_student(architecture, PruneConfig.model_validate({"min_channels": 2, setting: int(advised)}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"epoch": 3, "state_dict": {"a": torch.zeros(1)}}, "is a checkpoint, .* its entry 'state_dict' holds tensors"),
        ({"epoch": 3, "a": torch.zeros(1)}, "entry 'epoch' is a int"),
        (
            {"model.1.weight": torch.zeros(1), "model.10.conv_block.1.weight": torch.zeros(1)},
            "a ResNet generator of pytorch-CycleGAN-and-pix2pix, whose blocks have no branches to prune; leave the",
        ),
        (
            {"model.model.0.weight": torch.zeros(1), "model.model.1.model.2.weight": torch.zeros(1)},
            "a U-Net generator of pytorch-CycleGAN",
        ),
        ({"head_0.conv_0.weight_orig": torch.zeros(1)}, "a generator of SPADE itself"),
        ({"layer1.0.conv1.weight": torch.zeros(1)}, "is not a generator: .*; give a generator that CAT published"),
    ],
)
def test_a_file_of_another_kind_is_called_what_it_is(content: dict[str, Any], said: str, tmp_path: Path):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=said):
        load_generator(tmp_path / "w.pth", like=load_recipe("smoke").teacher.generator, input_size=(32, 32))


def test_what_is_said_about_a_checkpoint_leads_on(tmp_path: Path):
    torch.save({"epoch": 3, "model": {"a": torch.zeros(1)}}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"torch\.save\(torch\.load\(FILE, weights_only=True\)\['model'\], NEW_FILE\)"):
        read_state_dict(tmp_path / "w.pth")
    torch.save(torch.load(tmp_path / "w.pth", weights_only=True)["model"], tmp_path / "new.pth")
    assert list(read_state_dict(tmp_path / "new.pth")) == ["a"]


def test_what_a_later_stage_will_refuse_is_told_by_the_commands_before_it(
    tmp_path: Path, statistics: Callable[[], None], capsys: pytest.CaptureFixture[str]
):
    images(tmp_path / "data", "A/train", "B/train", "A/test", "B/test")
    assert dataset(tmp_path, "distill.batch_size=80") == 0
    warning = "stage distill will refuse these images: distill.batch_size 80 is larger than the number of training"
    assert warning in capsys.readouterr().err
    statistics()
    assert teacher(tmp_path, "distill.batch_size=80") == 2
    said = capsys.readouterr().err
    assert follow(said) == ["distill.batch_size=4"], said
    assert not (tmp_path / "teacher").exists()
    assert teacher(tmp_path, "distill.batch_size=4") == 0


# ------------------------------------------------------------------------------------------------- nothing is forgotten

FOLLOWED = {
    "set dataset.layout: {} to leave them out.": "both_ways",
    "set dataset.layout: unpaired": "no_partners",
    "set dataset.layout: unpaired if these are two domains, or combined if each image shows both.": (
        "two_folders_in_splits"
    ),
    "set dataset.layout: single to take all as source images for evaluation.": "photos_beside_folders",
    "set dataset.layout: combined if each does show two images, or single if these are single pictures": (
        "single_pictures"
    ),
    "set dataset.on_error: skip to leave them out.": "damaged",
    "set dataset.num_labels to the number of classes ({} or more)": "test_the_number_of_classes_is_named",
    "set dataset.{}_values to {channels: {}, range: [0, {}]} with their largest value, else brighten them": (
        "test_the_range_that_is_named_keeps_every_level"
    ),
    "set {} to the lowest and highest value of all files": "test_a_range_that_is_too_wide_is_set_to_that_of_the_files",
    "set {}.channels to {} if all files have that many": "test_what_is_said_about_stated_numbers_leads_on",
    "set {}.range to the lowest and highest value of all files": "test_what_is_said_about_stated_numbers_leads_on",
    "set {}.type to another type, or save the files as {}": "test_what_is_said_about_stated_numbers_leads_on",
    "set dataset.num_labels": "test_pictures_of_classes_are_read_as_label_maps_if_they_are",
    "set dataset.layout if the folders say enough.": "test_the_layout_is_set_where_a_description_cannot_be_read",
    "set dataset.layout: parallel if images of equal names are partners, use teacher.family {}": (
        "test_names_that_are_equal_on_both_sides_are_taken_for_partners"
    ),
    "set {}.batch_size to {} or less.": "test_a_batch_that_is_too_large_names_the_setting_of_its_stage",
    "set dataset.max_images to 2 or more and run the dataset stage again": (
        "test_too_few_held_out_images_say_how_to_hold_out_more"
    ),
    "set dataset.test_fraction to 0.1 and run the dataset stage again": (
        "test_too_few_held_out_images_say_how_to_hold_out_more"
    ),
    "set dataset.crop_size to [{},{}].": "test_a_size_that_is_named_for_a_generator_fits",
    "set dataset.crop_size to at least {}, and dataset.load_size to no less, or lower "
    "teacher.discriminator.num_layers.": "test_the_size_that_is_named_for_a_discriminator_fits",
    "set compile: false": "test_a_setting_that_a_recipe_is_told_leads_on",
    "set evaluations to at least schedule.patience + 3 = {}": "test_a_setting_that_a_recipe_is_told_leads_on",
    "set evaluations to at least patience + 2 = {}": "test_a_setting_that_a_recipe_is_told_leads_on",
    "set prune.{} to at most {}.": "test_the_number_of_channels_that_is_named_fits",
    "set {}.{}: {}": "test_a_setting_that_a_recipe_is_told_leads_on",
}
"""Every advice of the library to set something, and the test or the folder above that follows it."""

FOLLOWED_ELSEWHERE = {
    "set {} to {} if this file is right.": "tests/pipelines/test_preflight.py",
    "set schedule: one_cycle, or steps: null": "tests/components/catlib/test_config.py",
    "set steps: null, or goes_on_from: []": "tests/components/catlib/test_config.py",
    "set sweep.seconds=0 or distill.steps=null.": "tests/components/sweep/test_component.py",
    "set perceptual: 0": "tests/components/catlib/test_config.py",
    "set prune.generator to that.": "tests/pipelines/test_main.py",
    "set dataset.crop_size and dataset.load_size to {} or more, or remove evaluate.lpips.": (
        "tests/pipelines/test_main.py"
    ),
    "set prune.generator to {}.": "tests/components/fetch/test_teacher.py",
    "set prune.generator to one of these.": "tests/components/prune/test_stage.py",
    "set segmenter.input_size to a size that it takes.": ("tests/components/catlib/metrics/test_segmenters.py"),
    "set real_stats.weights.sha256 if this file is right.": "tests/components/catlib/metrics/test_features.py",
    "set dataset.layout: unpaired to train without the pairs, use teacher.family {}": (
        "tests/components/teacher/test_stage.py"
    ),
    "set dataset.num_labels if the source images are label maps, use teacher.family {}": (
        "tests/components/teacher/test_stage.py"
    ),
    "set dataset.source to the path of your copy (terms: {})": "tests/components/catlib/data/test_locating.py",
    "set both dataset.source_values and dataset.target_values, or neither.": "tests/components/test_science_images.py",
    "set dataset.{}_values alike, or give the dataset that they were trained on.": (
        "tests/components/test_science_images.py"
    ),
    "set teacher.family={}, or leave teacher.start_from out.": "tests/components/catlib/training/test_starting.py",
    "set teacher.{}.{}={}": "tests/components/catlib/training/test_starting.py",
    "set teacher.generator.norm.track_running_stats: true": "tests/components/catlib/test_config.py",
    "set prune.student_norm.track_running_stats: true": "tests/components/catlib/test_config.py",
    "set teacher.generator.norm.track_running_stats: true and start from weights with them, or from none": (
        "tests/components/catlib/training/test_building.py"
    ),
    "set prune.student_norm.track_running_stats: true with prune.student_init: fresh, prune again, and start from "
    "weights with them, or from none": "tests/components/catlib/training/test_building.py",
    "set {}.stop_on: [] to go on from here.": "tests/components/catlib/training/test_watching.py",
    "set one of the two to false": "tests/components/catlib/objectives/test_recomputing.py",
    "set images_per_pass to a smaller number, or to null for the whole batch": (
        "tests/components/catlib/objectives/test_parts.py"
    ),
    "set images_per_pass: null, and where memory is short set recompute_activations: true or a smaller batch_size": (
        "tests/components/catlib/objectives/test_parts.py"
    ),
    "set {}.recompute_activations: true, {}.images_per_pass or {}.precision: bf16, or lower {}.batch_size": (
        "tests/components/catlib/test_memory.py"
    ),
    "set compile: false.": "tests/components/catlib/distributed/test_devices.py",
    "set speed: exact, or use a machine with such a GPU.": "tests/components/catlib/distributed/test_devices.py",
    "set resources.profile to gpu.": "tests/pipelines/test_preflight.py",
    "set export.rewrites to all or none.": "tests/components/catlib/exporting/test_choosing.py",
    "set resources.profile to cpu.": "tests/components/catlib/distributed/test_devices.py",
    "set publish.name, of letters, digits, dots, hyphens and underscores": "tests/components/publish/test_stage.py",
    "set dataset.dont_care_plane: true": "tests/components/catlib/diagnosis/test_datasets.py",
    "set distiller.levels to {} or less": "tests/components/catlib/objectives/distillers/test_wavelet.py",
    "set distiller.online: false": "tests/components/catlib/objectives/test_teacher_alone.py",
    "set distill.distiller: mse": "tests/components/catlib/diagnosis/test_recorded.py",
    "set teacher.generator.norm.track_running_stats: true (a student's: prune.student_norm) or norm.kind: instance": (
        "tests/components/catlib/diagnosis/test_recorded.py"
    ),
}
"""The same for advice whose message a test beside its code provokes."""

NO_SETTING = {"set the clocks."}


def advice() -> Iterator[str]:
    """Yields every "set …" in a text of the code that is no docstring; {} stands for what is filled in."""
    for path in sorted([*Path("components").rglob("*.py"), *Path("pipelines").rglob("*.py")]):
        seen: set[int] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if id(node) in seen:
                continue
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                seen.add(id(node.value))  # a docstring
            elif isinstance(node, ast.JoinedStr):
                seen |= {id(part) for part in ast.walk(node)}
                parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
                yield from _in("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from _in(node.value)


def _in(text: str) -> list[str]:
    return [found.strip() for found in re.findall(r"(?:^|[;,] |\bor |\band )(set (?=[a-z{])[^;]*)", text)]


def test_every_advice_to_set_something_is_followed_by_a_test():
    found = set(advice())
    known = {*FOLLOWED, *FOLLOWED_ELSEWHERE, *NO_SETTING}
    assert found - known == set(), "follow it in a test, and list it above"
    assert known - found == set(), "no message says this any more"
    here = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in FOLLOWED.values() if f"def {name}(" not in here] == []


def test_every_advice_names_its_setting():
    assert [each for each in advice() if each.startswith(("set it ", "set them ", "set this "))] == []


def test_an_advice_that_nobody_follows_is_noticed():
    assert _in("x is wrong; set teacher.epochs to {}.") == ["set teacher.epochs to {}."]
    assert _in("remove it, or set a.b: c") == ["set a.b: c"]
    assert _in("a set of images") == []
