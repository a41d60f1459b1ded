"""Run in a copy that has the parameter `note`: every pipeline offers it, and no task reads it."""

import pytest

from pipelines.compiling import PIPELINES
from tests.pipelines.test_compiling import all_tasks
from tests.pipelines.test_golden import compiled

MUST_BE_GIVEN = {"distill-only": {"teacher": "s3://b/t"}, "evaluate-only": {"students": ["s3://b/s"]}}
NOTE = {
    "defaultValue": "",
    "description": "Why this run is made, for people. No stage reads it, so it is in no cache key.",
    "isOptional": True,
    "parameterType": "STRING",
}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_form_of_every_pipeline_asks_for_it(pipeline: str) -> None:
    made = compiled(pipeline, "smoke")
    assert made.spec["root"]["inputDefinitions"]["parameters"]["note"] == NOTE
    made.check_arguments({"note": "a second seed"} | MUST_BE_GIVEN.get(pipeline, {}))
    assert not [name for name, task in all_tasks(made.spec).items() if "note" in str(task["inputs"])]
