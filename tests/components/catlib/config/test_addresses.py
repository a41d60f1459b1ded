"""Every setting that names something outside a run is an `Address`, so it is checked before a run."""

import typing
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, create_model

from components.catlib.config import Recipe
from components.catlib.config.sections import Address, Section, addresses_in, models_in
from components.catlib.recipes import ADDRESSES, named_files

NO_ADDRESSES = {
    "name", "description", "budgets",  # words and numbers
    "sha256",  # a digest
    "uri", "experiment",  # of a server, in `tracking`
    "cpu", "memory", "accelerator", "node_selector", "key", "value", "store_secret",  # of Kubernetes
    "checkpoints",  # a place where trainings write, with a check of its own
    "to", "version", "licence",  # of `publish`: where it writes, and words
}  # fmt: skip
"""Settings that are free texts and name nothing that a stage reads."""


def free_texts(model: type[BaseModel]) -> Iterator[tuple[str, bool]]:
    """Yields every setting that takes any text, in a model and the models within it, and whether it is an address."""
    for name, field in model.model_fields.items():
        marked = name in addresses_in(create_model("One", __base__=Section, **{name: (field.annotation, field)}))
        inner = list(models_in(field.annotation))
        if _takes_text(field.annotation):
            yield name, marked and not inner
        for part in inner:
            yield from free_texts(part)


def _takes_text(annotation: Any) -> bool:
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return False
    if typing.get_origin(annotation) is dict:
        parts = parts[1:]
    return annotation is str or any(map(_takes_text, parts))


def forgotten(model: type[BaseModel]) -> set[str]:
    return {name for name, marked in free_texts(model) if not marked and name not in NO_ADDRESSES}


def test_every_free_text_of_a_recipe_is_an_address_or_names_nothing() -> None:
    assert forgotten(Recipe) == set(), "is it a path or an address? then make it an Address; else list it above"
    assert ("uri", True) in free_texts(Recipe)
    assert ("source", True) in free_texts(Recipe)


@pytest.mark.parametrize("annotation", [str, str | None, tuple[str, ...], dict[str, str]])
def test_a_new_text_that_nobody_thought_about_is_noticed(annotation: Any) -> None:
    class Inner(Section):
        depth_maps: annotation = None

    class Outer(Section):
        inner: Inner | None = None

    assert forgotten(Outer) == {"depth_maps"}


@pytest.mark.parametrize("annotation", [Address, Address | None])
def test_a_marked_setting_is_found_wherever_it_stands(annotation: Any) -> None:
    class Inner(Section):
        depth_maps: annotation = None

    class Outer(Section):
        inner: tuple[Inner, ...] = ()

    assert addresses_in(Outer) == {"depth_maps"}
    assert forgotten(Outer) == set()


def test_the_names_of_addresses_stand_for_nothing_else() -> None:
    """`recipes.with_files` goes by the name alone; only `tracking.uri` is left out there."""
    assert set(ADDRESSES) & NO_ADDRESSES == {"uri"}
    assert [name for name, marked in free_texts(Recipe) if name in ADDRESSES and not marked] == ["uri"]


def test_all_addresses_of_one_part_count_and_those_in_lists_too() -> None:
    weights = {"uri": "a.pth", "source": "b", "inner": [{"uri": "c.pth"}], "tracking": {"uri": "http://x"}}
    assert sorted(named_files(weights)) == ["a.pth", "b", "c.pth"]
