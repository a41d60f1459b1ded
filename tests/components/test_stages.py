"""The table of stages."""

import inspect
import subprocess
import sys
from typing import get_args

import pytest

from components.catlib.config import Recipe, StageName
from components.stages import ALIASES, STAGES, TRAININGS, Stage


def test_recipes_give_resources_to_the_stages_of_the_table_and_to_what_else_a_pipeline_does() -> None:
    assert {stage.section for stage in STAGES.values()} | {"other"} == set(get_args(StageName))


def test_every_stage_has_its_section_in_a_recipe() -> None:
    for name, stage in STAGES.items():
        assert stage.section in Recipe.model_fields or stage.section == "report"
        assert name.replace("-", "_") == stage.section
    assert all(target in STAGES for target in ALIASES.values())


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_the_stage_function_takes_the_inputs_and_options_of_the_table(stage: Stage) -> None:
    parameters = inspect.signature(stage.load()).parameters
    given = {*(wanted.name for wanted in stage.inputs), *(option.name for option in stage.options)}
    assert set(parameters) == {"config", "output"} | given
    required = {wanted.name for wanted in stage.inputs if wanted.required}
    assert all(parameters[name].default is inspect.Parameter.empty for name in required)
    produced = {each.section for each in STAGES.values()}
    assert {kind for wanted in stage.inputs for kind in wanted.kinds.split("|")} <= produced


def test_trainings_are_the_stages_that_keep_checkpoints() -> None:
    assert TRAININGS == ("teacher", "distill")


def test_reading_the_table_loads_no_library() -> None:
    script = (
        "import sys, components.stages; print([m for m in ('torch', 'numpy', 'pydantic', 'kfp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
