"""What Kubeflow gets, compared with copies that a person reads; `--update-golden` writes them anew.

`STRUCTURE.yaml` is what a pipeline does and `components.yaml` what its tasks take and give, whatever the recipe.
`recipes/` holds every default once, and of each recipe what differs. `profiles/` is what tasks get on a cluster.
"""

import functools
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp.dsl.python_component import PythonComponent

import components.check.component
import components.dataset.component
import components.distill.component
import components.evaluate.component
import components.export.component
import components.fetch.component
import components.prune.component
import components.real_stats.component
import components.report.component
import components.sweep.component
import components.teacher.component
from components.catlib.config import Recipe
from components.catlib.recipes import load_recipe, recipe_names
from pipelines.compiling import PIPELINES, Compiled, compile_pipeline
from pipelines.parameters import PARAMETERS
from pipelines.resources import PROFILES
from tests.pipelines.readable import component_name, defaults, differences, interfaces, placement, structure

GOLDEN = Path(__file__).parent / "golden"
CLUSTER = ["resources.store_secret=store", "resources.checkpoints=s3://cat/checkpoints"]
STAGES = (
    *(
        components.check,
        components.dataset,
        components.distill,
        components.evaluate,
        components.export,
        components.fetch,
    ),
    *(components.prune, components.real_stats, components.report, components.sweep, components.teacher),
)
IMAGE = "cat-pipeline:golden"


@functools.cache
def recipe_of(name: str | None, *overrides: str) -> Recipe:
    return load_recipe(name, list(overrides))


@functools.cache
def compiled(pipeline: str, recipe: str, *overrides: str) -> Compiled:
    return compile_pipeline(
        pipeline, recipe_of(recipe, *CLUSTER, *overrides), image=IMAGE, code_digest="code of {}".format
    )


def compare(path: str, found: dict[str, Any], request: pytest.FixtureRequest) -> None:
    file = GOLDEN / f"{path}.yaml"
    if request.config.getoption("--update-golden"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(found, width=120, allow_unicode=True, sort_keys=False), encoding="utf-8")
    assert file.is_file(), "no golden copy: run pytest with --update-golden and read what it wrote"
    assert found == yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_structure_is_the_golden_one(pipeline: str, request: pytest.FixtureRequest) -> None:
    recipe = recipe_of("smoke")
    found = structure(compiled(pipeline, "smoke").spec, name=recipe.name, description=recipe.description)
    compare(pipeline, found, request)


def test_what_the_tasks_take_and_give_is_the_golden_one(request: pytest.FixtureRequest) -> None:
    found: dict[str, Any] = {}
    for pipeline in PIPELINES:
        for name, interface in interfaces(compiled(pipeline, "smoke").spec).items():
            assert found.setdefault(name, interface) == interface
    compare("components", dict(sorted(found.items())), request)


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_changes_defaults_and_placement_alone(pipeline: str, name: str) -> None:
    recipe, smoke, made = recipe_of(name, *CLUSTER), recipe_of("smoke"), compiled(pipeline, name)
    assert structure(made.spec, name=recipe.name, description=recipe.description) == structure(
        compiled(pipeline, "smoke").spec, name=smoke.name, description=smoke.description
    )
    found = {parameter: value.get("defaultValue") for parameter, value in made.parameters.items()}
    wanted = {
        parameter.name: None if parameter.required else parameter.default(recipe) for parameter in PARAMETERS[pipeline]
    }
    assert found == json.loads(json.dumps(wanted))
    assert placement(made.spec, made.platform) == placement(*profile_of(pipeline, recipe.resources.profile)), (
        "a recipe that changes more of its resources than the profile needs a golden copy of its own"
    )


def profile_of(pipeline: str, profile: str) -> tuple[dict[str, Any], dict[str, Any]]:
    made = compiled(pipeline, "smoke", f"resources.profile={profile}")
    return made.spec, made.platform


@pytest.mark.parametrize("profile", PROFILES)
def test_what_tasks_get_on_a_cluster_is_the_golden_one(profile: str, request: pytest.FixtureRequest) -> None:
    found: dict[str, Any] = {}
    tasks: dict[str, Any] = {}
    for pipeline in PIPELINES:
        placed = placement(*profile_of(pipeline, profile))
        assert found.setdefault("run", placed["run"]) == placed["run"]
        for name, given in placed["tasks"].items():
            assert tasks.setdefault(name, given) == given
    compare(f"profiles/{profile}", found | {"tasks": dict(sorted(tasks.items()))}, request)


def test_the_defaults_are_the_golden_ones(request: pytest.FixtureRequest) -> None:
    compare("recipes/defaults", defaults(recipe_of(None)), request)


@pytest.mark.parametrize("name", recipe_names())
def test_the_recipes_differ_from_the_defaults_as_the_golden_ones(name: str, request: pytest.FixtureRequest) -> None:
    compare(f"recipes/{name}", differences(recipe_of(name), recipe_of(None)), request)


def test_there_is_no_other_golden_copy() -> None:
    wanted = {f"{name}.yaml" for name in (*PIPELINES, "components")}
    wanted |= {f"profiles/{name}.yaml" for name in PROFILES}
    wanted |= {f"recipes/{name}.yaml" for name in (*recipe_names(), "defaults")}
    assert {path.relative_to(GOLDEN).as_posix() for path in GOLDEN.rglob("*") if path.is_file()} == wanted


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_task_runs_its_component_and_nothing_else(pipeline: str) -> None:
    functions = {
        function.__name__.replace("_", "-"): function
        for stage in STAGES
        for each in vars(stage.component).values()
        if isinstance(each, PythonComponent)
        for function in [each.python_func]
    }
    for label, executor in compiled(pipeline, "smoke").spec["deploymentSpec"]["executors"].items():
        container, function = executor["container"], functions[component_name(label)]
        shell, flag, launch, source = container["command"]
        assert (shell, flag) == ("sh", "-ec")
        assert launch.split() == LAUNCH.split()
        assert source == f"{IMPORTS}{inspect.getsource(function).partition(DECORATOR)[2]}\n"
        assert container["args"] == ["--executor_input", "{{$}}", "--function_to_execute", function.__name__]
        assert container["image"] == IMAGE
        assert set(container) <= {"command", "args", "image", "resources", "env"}
        assert set(executor) == {"container"}


LAUNCH = """
program_path=$(mktemp -d)
printf "%s" "$0" > "$program_path/ephemeral_component.py"
_KFP_RUNTIME=true python3 -m kfp.dsl.executor_main --component_module_path "$program_path/ephemeral_component.py" "$@"
"""
IMPORTS = "\nimport kfp\nfrom kfp import dsl\nfrom kfp.dsl import *\nfrom typing import *\n\n"
DECORATOR = "@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)\n"
