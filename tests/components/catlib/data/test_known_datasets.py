import re

import pytest

from components.catlib.config import DatasetConfig
from components.catlib.data.known_datasets import KNOWN, Dataset
from components.catlib.recipes import load_recipe, recipe_names


@pytest.mark.parametrize("dataset", KNOWN.values(), ids=list(KNOWN))
def test_every_dataset_says_what_is_needed_to_get_it(dataset: Dataset):
    assert dataset.megabytes > 0
    assert all((dataset.content, dataset.terms))
    assert dataset.homepage.startswith("https://")
    if dataset.url:
        assert re.fullmatch(rf"https?://\S+/{re.escape(dataset.files[0])}", dataset.url)
    assert dataset.sha256 is None or re.fullmatch("[0-9a-f]{64}", dataset.sha256)
    assert all(name in dataset.instructions for name in dataset.files)


def test_a_dataset_lies_in_a_folder_of_its_name_or_as_its_archive_beside_such_folders():
    assert [str(place) for place in KNOWN["horse2zebra"].places] == ["datasets/horse2zebra", "datasets/horse2zebra.zip"]
    assert [str(place) for place in KNOWN["cityscapes"].places] == ["datasets/cityscapes"]


def test_the_settings_list_every_name():
    description = DatasetConfig.model_fields["source"].description or ""
    assert [name for name in KNOWN if name not in description] == []


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_name_data_that_exists(name: str):
    source = load_recipe(name).dataset.source
    assert source in KNOWN or source.startswith("builtin:")
