"""Wrong settings: what the sentence says, whom it blames, and what `--set` takes as it is typed."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.catlib.config import Recipe, validate
from components.catlib.errors import UserError
from components.catlib.recipes import load_recipe

JARGON = re.compile(r"dictionary|instance of|extract fields|tuple|Config\b|validation|parse|\[key\]|String should")
WORDS = ["null", "[]", "[batch]", "resnet", "3", "true"]
GROUPS = [
    *("dataset", "teacher", "distill", "evaluate", "prune", "export", "real_stats", "tracking", "resources"),
    *("teacher.generator", "teacher.generator.norm", "teacher.discriminator", "teacher.schedule", "distill.distiller"),
    *("teacher.published.generator", "evaluate.lpips", "evaluate.segmenter.weights", "resources.stages.teacher"),
]


@pytest.mark.parametrize("group", GROUPS)
def test_anything_else_than_settings_is_answered_in_plain_words(group: str) -> None:
    for word in WORDS:
        try:
            load_recipe("smoke", [f"{group}={word}"])
        except UserError as error:
            said = str(error)
            assert JARGON.search(said) is None, said
            assert said.startswith(f"--set '{group}={word}': {group}"), said
            assert said.endswith(".")


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("teacher.generator.norm=batch", "this is a group of settings; set teacher.generator.norm.kind: batch"),
        ("prune.student_norm=batch", "set prune.student_norm.kind: batch"),
        ("teacher=cyclegan", "set teacher.family: cyclegan"),
        ("dataset=photos", "set dataset.source: photos"),
        ("teacher.published=a/x.pth", "set teacher.published.generator.uri: a/x.pth"),
        ("evaluate.segmenter=x.onnx", "set evaluate.segmenter.weights.uri: x.onnx"),
        ("real_stats.weights=x.pth", "set real_stats.weights.uri: x.pth"),
        ("tracking=http://x", "set tracking.uri: http://x"),
        ("teacher.schedule=null", "name one of them, such as teacher.schedule.kind: linear .found null"),
        ("teacher=null", "leave it out for the defaults, or name one of them"),
        ("dataset.crop_size=256x256", r"must be a list, such as \[256, 256\]"),
        ("dataset.crop_size=[1, 2, 3]", "dataset.crop_size: takes at most 2 values"),
        ("dataset.crop_size=[32]", "dataset.crop_size: needs 2 values"),
        ("budgets=0.1x", r"budgets: must be a list, such as \[0.1x\]"),
        ("teacher.goes_on_from=5", r"must be a list, such as \[5\]"),
        ("teacher.epochs=ten", "must be a whole number .found 'ten'"),
        ("dataset.test_fraction=10%", "must be a number .found '10%'"),
        ("teacher.flip=maybe", "must be true or false"),
        ("resources.stages.teacher.memory=16GB", r"has the wrong form \(reserved memory, such as 16Gi\)"),
        ("resources.stages.teachr.gpus=1", "resources.stages.teachr: must be 'dataset', 'real_stats', 'teacher'"),
        ("dataset.sha256=0000", r"has the wrong form \(expected SHA-256 of the source"),
        ("epochs=5", "did you mean 'teacher.epochs' or 'distill.epochs'"),
        ("teacher.base_channels=5", "did you mean 'teacher.generator.base_channels' or 'teacher.discriminator"),
        ("teacher.generator.hidden_channels=3", "unknown key 'teacher.generator.hidden_channels'; valid keys here: "),
        ("teacher.batchsize=3", "did you mean 'batch_size'"),
        ("teacher..epochs=1", "has an empty key between its dots"),
    ],
)
def test_the_answer_fits_the_mistake(override: str, answer: str) -> None:
    with pytest.raises(UserError, match=answer) as refused:
        load_recipe("smoke", [override])
    assert str(refused.value).startswith(f"--set '{override}'")


MINE = "name: a\ndescription: A.\nbudgets: [1x]\n"


@pytest.mark.parametrize(
    ("written", "overrides", "blamed"),
    [
        ("teacher: {epochs: -1}\n", [], "Recipe mine.yaml: teacher.epochs"),
        ("teacher: {epochs: -1}\n", ["distill.epochs=1"], "Recipe mine.yaml: teacher.epochs"),
        ("teacher: {epochs: -1}\n", ["teacher.epochs=-2"], "--set 'teacher.epochs=-2': teacher.epochs"),
        ("", ["distill.epochs=1", "teacher.epochs=-1"], "--set 'teacher.epochs=-1': teacher.epochs"),
        ("", ["teacher.epochs=1", "teacher.epochs=-1"], "--set 'teacher.epochs=-1': teacher.epochs"),
        ("", ["teacher={epochs: -1}", "distill.epochs=1"], "--set 'teacher={epochs: -1}': teacher.epochs"),
        ("", ["dataset.load_size=8"], "--set 'dataset.load_size=8': dataset"),
        ("", ["teacher.epochs=0", "teacher.decay_epochs=0"], "--set 'teacher.decay_epochs=0': teacher"),
        ("", ["teacher.speed=fast", "teacher.adversarial=wgangp", "teacher.epochs=1"], "--set 'teacher.adversarial="),
    ],
)
def test_who_is_wrong_is_blamed(written: str, overrides: list[str], blamed: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINE + written)
    with pytest.raises(UserError) as refused:
        load_recipe(str(tmp_path / "mine.yaml"), overrides)
    assert str(refused.value).startswith(blamed)


@pytest.mark.parametrize("typed", [" #1", "2024-01-01", "5", "yes", "a: b", "[a]", "{a}", "1e3", "x ", "'", "*a", "%"])
def test_a_text_counts_as_it_is_typed(typed: str) -> None:
    recipe = load_recipe(
        "smoke",
        [
            f"dataset.source={typed}",
            f"tracking.experiment={typed}",
            f"evaluate.lpips.weights.uri={typed}",
            "teacher.reconstruction={kind: vgg, weights: {uri: x}}",
            f"teacher.reconstruction.weights.uri={typed}",
            f"resources.node_selector.zone={typed}",
        ],
    )
    assert recipe.dataset.source == recipe.tracking.experiment == typed
    assert recipe.evaluate.lpips is not None
    assert recipe.evaluate.lpips.weights.uri == recipe.resources.node_selector["zone"] == typed
    assert recipe.teacher.reconstruction.weights.uri == typed


@pytest.mark.parametrize(("typed", "text"), [('"a #1"', "a #1"), ("'5'", "5"), ('"a" "b"', '"a" "b"')])
def test_quotes_of_yaml_are_taken_off(typed: str, text: str) -> None:
    assert load_recipe("smoke", [f"dataset.source={typed}"]).dataset.source == text


@pytest.mark.parametrize("typed", ["null", "~", ""])
def test_a_text_that_may_be_missing_can_be_taken_away(typed: str) -> None:
    assert load_recipe("smoke", ["tracking.uri=x", f"tracking.uri={typed}"]).tracking.uri is None


def test_what_is_no_text_is_yaml() -> None:
    recipe = load_recipe("smoke", ["budgets=[1e9, 0.5x]", "teacher.flip=no", "dataset.crop_size=[32, 32]"])
    assert recipe.budgets == ("1e+09", "0.5x")
    assert recipe.teacher.flip is False
    assert recipe.dataset.crop_size == (32, 32)


def numbers(value: Any, key: str = "") -> Iterator[str]:
    """Yields the keys of all numbers in settings, also of those in lists."""
    if isinstance(value, dict | list | tuple):
        for name, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(below, f"{key}.{name}".removeprefix("."))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key


def with_value(value: Any, keys: list[str], new: Any) -> Any:
    if not keys:
        return new
    first, *rest = keys
    if isinstance(value, dict):
        return value | {first: with_value(value[first], rest, new)}
    return [with_value(each, rest, new) if str(i) == first else each for i, each in enumerate(value)]


@pytest.mark.parametrize("wrong", [True, False, "true"])
def test_no_number_of_a_recipe_may_be_true_or_false(wrong: bool | str) -> None:
    settings = load_recipe("smoke").model_dump(mode="json")
    keys = list(numbers(settings))
    assert len(keys) > 50
    for key in keys:
        with pytest.raises(UserError, match=rf"{key}: must be a (whole )?number .found '?{wrong}'?"):
            validate(Recipe, with_value(settings, key.split("."), wrong), where="recipe")


def test_a_square_and_parts_of_lists_may_not_be_true() -> None:
    for override in ("dataset.crop_size=true", "dataset.num_labels=true", "sweep.seeds=[0, true]"):
        with pytest.raises(UserError, match=r"must be a whole number .found True"):
            load_recipe("smoke", [override])
