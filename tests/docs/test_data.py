"""Every tree that docs/data.md shows is built and read as it says there."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from components.catlib.config import DatasetConfig
from components.catlib.data.files import folder_tree
from components.catlib.data.layouts import meaning
from components.catlib.data.sources import open_tree
from tests.components.catlib.data.image_folders import noise, pack_folder, write

TEXT = (Path(__file__).parents[2] / "docs/data.md").read_text()
TREES = re.findall(r"```text (\S.*=.*)\n((?:.*\n)+?)```(?:\n\n```(?:csv|json)\n((?:.*\n)+?)```)?", TEXT)
"""Facts, folders (and files, whose content is the third part)."""


@pytest.mark.parametrize(("facts", "entries", "content"), TREES, ids=[" ".join(tree.split()) for _, tree, _ in TREES])
def test_a_tree_is_read_as_the_guide_says(facts: str, entries: str, content: str, tmp_path: Path):
    said = dict(word.split("=") for word in facts.split())
    folders = [entry for entry in entries.split() if entry.endswith("/")]
    for file in set(entries.split()) - set(folders):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(content)
    for folder in folders:
        for number in range(4):
            is_map = "labels" in said and any(meaning(part).domain in ("A", "instances") for part in folder.split("/"))
            pixels = np.arange(128).reshape(8, 16) % 3 if is_map else noise(number, 8, 16)
            write(tmp_path / folder / f"{number}.png", pixels)
    labels = int(said["labels"]) if "labels" in said else None
    config = DatasetConfig(layout=said.get("set", "auto"), num_labels=labels)
    found = open_tree(config, folder_tree(tmp_path, where="data"), {})
    assert (found.provenance["layout"], found.pairing) == (said["layout"], said["pairing"])
    for split, lists in (("train", found.train), ("test", found.test)):
        assert ",".join(str(len(samples.samples)) for samples in lists) == said[split]
        for samples in lists:
            assert all(image.size[1] == 8 for sample in samples.samples for image in sample.load().values())
    assert "left_over" not in found.provenance
    assert found.has_instances == any(word in entries for word in ("instances", "inst/"))


def test_the_guide_shows_every_layout_but_cityscapes():
    layouts = set(re.findall(r" ?layout=(\w+)", " ".join(facts for facts, _, _ in TREES)))
    assert layouts == {"combined", "parallel", "unpaired", "single", "imagefolder", "croissant"}
    assert len(TREES) >= 12


@pytest.mark.parametrize("row", re.findall(r"^\| (?:a split|a domain|both) \| (.*) \|$", TEXT, re.MULTILINE))
def test_the_names_in_the_guide_have_a_meaning(row: str):
    for name in re.findall(r"`(\w+)`", row):
        assert meaning(name) != (None, None), name


def test_the_values_that_the_guide_states_are_read_without_loss(tmp_path: Path):
    (stated,) = re.findall(r"```yaml\n(dataset:\n(?:.*\n)+?)```", TEXT)
    settings = yaml.safe_load(stated)["dataset"]
    low, high = settings["target_values"]["range"]
    for number in range(3):
        source = np.random.default_rng(number).integers(0, 4096, (8, 8, 4), dtype=np.uint16)
        for domain, numbers in (("A", source), ("B", np.linspace(low, high, 64, dtype=np.float32).reshape(8, 8))):
            (tmp_path / "data" / domain).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / f"data/{domain}/{number}.npy", numbers)
    packed = pack_folder(tmp_path / "data", tmp_path / "packed", **settings)
    assert (packed.pairing, packed.in_channels, packed.out_channels) == ("paired", 4, 1)
    for row, name in enumerate(packed.split("train").names):
        assert np.array_equal(packed.split("train").source[row], np.load(tmp_path / f"data/A/{name}.npy"))
