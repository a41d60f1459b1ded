"""How often a training saves and logs, and where, comes through the environment."""

import os

import pytest

from components.catlib.config import ResourcesConfig
from components.catlib.errors import UserError
from components.catlib.training.upkeep import CHECKPOINTS_VARIABLE, VARIABLES, Upkeep, handed_over, variables


def test_without_variables_or_with_empty_ones_there_are_the_defaults() -> None:
    defaults = Upkeep(checkpoints=None, checkpoint_seconds=600.0, keep_checkpoints=2, log_seconds=10.0)
    assert Upkeep.from_environment({}) == defaults
    assert Upkeep.from_environment(dict.fromkeys([CHECKPOINTS_VARIABLE, *VARIABLES.values()], "")) == defaults


def test_what_a_recipe_sets_arrives() -> None:
    resources = ResourcesConfig(checkpoint_seconds=30, keep_checkpoints=5, log_seconds=0.5)
    given = {**variables(resources), CHECKPOINTS_VARIABLE: "s3://cat/states"}
    assert Upkeep.from_environment(given) == Upkeep("s3://cat/states", 30.0, 5, 0.5)
    assert variables(resources, on_cluster=True) == variables(resources)


def test_a_cluster_saves_more_often_unless_the_recipe_says_otherwise() -> None:
    assert variables(ResourcesConfig()) == {}
    assert variables(ResourcesConfig(), on_cluster=True) == {"CAT_CHECKPOINT_SECONDS": "120.0"}


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("CAT_LOG_SECONDS", "often", "must be a number"),
        ("CAT_LOG_SECONDS", "0", "must be greater than 0"),
        ("CAT_LOG_SECONDS", "inf", "must be a finite number"),
        ("CAT_CHECKPOINT_SECONDS", "-1", "must be greater than 0"),
        ("CAT_KEEP_CHECKPOINTS", "1", "must be greater than or equal to 2"),
        ("CAT_KEEP_CHECKPOINTS", "2.5", "must be a whole number"),
    ],
)
def test_a_bad_value_is_one_sentence_with_the_name_of_the_variable(variable: str, value: str, complaint: str) -> None:
    with pytest.raises(UserError, match=rf"^Environment variable {variable}: \w+: {complaint} \(found '{value}'\)\.$"):
        Upkeep.from_environment({variable: value})


def test_settings_are_handed_over_for_one_stage_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the recipe come before those of the environment, and a null leaves the environment's."""
    monkeypatch.setenv("CAT_LOG_SECONDS", "7")
    monkeypatch.setenv("CAT_CHECKPOINT_SECONDS", "8")
    monkeypatch.delenv("CAT_KEEP_CHECKPOINTS", raising=False)
    before = dict(os.environ)

    def fail() -> None:
        with handed_over(ResourcesConfig(log_seconds=1, keep_checkpoints=3)):
            assert Upkeep.from_environment() == Upkeep(os.environ.get(CHECKPOINTS_VARIABLE), 8.0, 3, 1.0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert dict(os.environ) == before
