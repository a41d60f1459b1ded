"""The table of parameters, and the function that Kubeflow reads a pipeline from."""

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kfp import dsl

from components.catlib.code_digest import code_digest
from components.catlib.errors import UserError
from components.catlib.recipes import load_recipe
from components.dataset.component import prepare_dataset
from pipelines.parameters import (
    PARAMETERS,
    Parameter,
    all_arguments,
    earlier_addresses,
    with_arguments,
    with_signature,
)


def graph(given: SimpleNamespace) -> str:
    """Adds up.

    Returns:
        The sum.
    """
    return f"{given.address} {given.sizes}"


def test_kubeflow_reads_names_types_defaults_and_sentences() -> None:
    parameters = (
        Parameter("address", "Where it lies.", required=True),
        Parameter("sizes", "How large.", setting="sweep.seeds", annotation=list[int]),
        Parameter("settings", "What else.", setting="prune", annotation=dict),
    )
    function = with_signature(graph, parameters, load_recipe("smoke", ["sweep.seeds=[3]", "prune.min_channels=5"]))
    address, sizes, settings = inspect.signature(function).parameters.values()
    assert (address.default, address.annotation) == (inspect.Parameter.empty, str)
    assert (sizes.default, sizes.annotation) == ([3], list[int])
    assert settings.default["min_channels"] == 5
    assert inspect.signature(function).return_annotation is str
    documented = "Adds up.\n\nArgs:\n    address: Where it lies.\n    sizes: How large.\n    settings: What else.\n\n"
    assert inspect.getdoc(function) == f"{documented}Returns:\n    The sum."
    assert function("here", [1], {}) == "here [1]"


@pytest.mark.parametrize("pipeline", PARAMETERS)
def test_every_default_is_an_argument_that_changes_nothing(pipeline: str) -> None:
    recipe = load_recipe("ablation")
    given = {each.name: each.default(recipe) for each in PARAMETERS[pipeline] if not each.required}
    assert with_arguments(recipe, pipeline, given) == recipe


@pytest.mark.parametrize(
    ("pipeline", "arguments", "path", "value"),
    [
        ("compress", {"budgets": ["0.3x"]}, ("budgets",), ("0.3x",)),
        ("sweep", {"seeds": [4, 5]}, ("sweep", "seeds"), (4, 5)),
        ("distill-only", {"teacher_settings": {"epochs": 7}}, ("teacher", "epochs"), 7),
    ],
)
def test_an_argument_replaces_its_setting(
    pipeline: str, arguments: dict[str, Any], path: tuple[str, ...], value: object
) -> None:
    changed: Any = with_arguments(load_recipe("smoke"), pipeline, arguments)
    for key in path:
        changed = getattr(changed, key)
    assert changed == value


def test_the_teacher_that_distill_only_fetches_is_no_setting() -> None:
    recipe = load_recipe("smoke")
    assert with_arguments(recipe, "distill-only", {"teacher": "s3://b/t"}) == recipe


@pytest.mark.parametrize("arguments", [{"report": {"heading": "x"}}, {"distill": {"epochs": -1}}])
def test_an_argument_with_a_wrong_setting_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"heading|epochs"):
        with_arguments(load_recipe("smoke"), "compress", arguments)


def test_addresses_of_earlier_models_are_found() -> None:
    assert earlier_addresses("distill-only", {"teacher": "s3://b/t"}) == [("model", "s3://b/t")]
    assert earlier_addresses("sweep", {"earlier_sweeps": ["a", "b"]}) == [("report", "a"), ("report", "b")]
    scored = {"teacher": "", "students": ["a", "b"]}
    assert earlier_addresses("evaluate-only", scored) == [("model", "a"), ("model", "b")]
    assert earlier_addresses("compress", {"teacher": {"epochs": 1}}) == []


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ({}, "builtin:satellite-to-relief"),
        ({"dataset": {"crop_size": 16}}, "builtin:satellite-to-relief"),
        ({"dataset_source": "s3://cat/mine"}, "s3://cat/mine"),
        ({"dataset": {"source": "s3://cat/mine", "crop_size": 16}}, "s3://cat/mine"),
        ({"dataset": {"crop_size": 16}, "dataset_source": "s3://cat/mine"}, "s3://cat/mine"),
    ],
)
def test_the_source_of_the_images_is_a_parameter_of_its_own(given: dict[str, Any], source: str) -> None:
    recipe = with_arguments(load_recipe("smoke"), "compress", given)
    assert recipe.dataset.source == source
    arguments = all_arguments(recipe, "compress", given)
    assert arguments["dataset_source"] == source
    assert "source" not in arguments["dataset"], "it stands in one place"
    assert with_arguments(load_recipe("smoke"), "compress", arguments) == recipe


def test_two_sources_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Whoever writes one into the form's field `dataset` must hear of it."""
    with pytest.raises(SystemExit) as ended:
        prepare_dataset.python_func(
            config={"source": "s3://cat/a"},
            source="s3://cat/b",
            code_digest=code_digest("dataset"),
            source_version="",
            dataset=dsl.Dataset(name="dataset", uri=str(tmp_path / "dataset")),
            metrics=dsl.Metrics(name="metrics", uri=str(tmp_path / "metrics")),
            page=dsl.HTML(name="page", uri=str(tmp_path / "page")),
        )
    assert ended.value.code == 2
    assert "names the source s3://cat/a, and dataset_source s3://cat/b" in capsys.readouterr().err
