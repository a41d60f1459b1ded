"""Which tasks of a local run would come from the cache: Kubeflow's own runner goes through them, but runs none.

Keys and entries of the cache are the runner's. It leaves global state behind, so a rehearsal gets a process of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.catlib.config import Recipe


def rehearse(
    recipe: Recipe, *, pipeline: str, arguments: Mapping[str, Any], workspace: Path
) -> tuple[list[str], list[str]] | None:
    """Returns the tasks of a local run that would come from the cache, and those that would run.

    Args:
        recipe: The settings.
        pipeline: Name of the pipeline.
        arguments: Values of its parameters, as `run_locally` gets them.
        workspace: The folder whose cache is asked; nothing is written there.

    Returns:
        Names of tasks, once per student; None if the rehearsal failed, for which a run would have its own words.
    """
    asked = {
        "recipe": recipe.model_dump(mode="json"),
        "pipeline": pipeline,
        "arguments": dict(arguments),
        "cache": str(workspace / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.rehearsing"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return None
    cached, executed = json.loads(done.stdout.splitlines()[-1])
    return cached, executed


def _rehearse(asked: Mapping[str, Any], scratch: Path) -> tuple[list[str], list[str]]:
    from kfp import dsl, local
    from kfp.local import cache, task_dispatcher
    from kfp.local.status import Status

    from components.sweep.stage import plan
    from pipelines.compiling import PIPELINES
    from pipelines.local import _placement

    cached: list[str] = []
    executed: list[str] = []

    class Watched(cache.LocalCache):
        """The run's cache, which is read and never written."""

        task = ""

        def compute_key(self, component_name: str, *arguments: Any, **named: Any) -> str:
            self.task = re.sub(r"^comp-", "", component_name)
            return super().compute_key(component_name, *arguments, **named)

        def get(self, key: str) -> dict[str, Any] | None:
            found = super().get(key)
            (executed if found is None else cached).append(self.task)
            return found

        def put(self, key: str, outputs: dict[str, Any]) -> None:
            pass

    def pretend(*, component_spec: Any, arguments: dict[str, Any], **_: Any) -> tuple[dict[str, Any], Status]:
        """Returns outputs that nothing has ever read; the plan of a sweep is made."""
        names = component_spec.output_definitions.artifacts
        outputs: dict[str, Any] = {name: dsl.Artifact(name=name, uri=str(scratch / uuid.uuid4().hex)) for name in names}
        if "Output" in component_spec.output_definitions.parameters:
            given = {
                name: arguments[name] for name in ("budgets", "variations", "seeds", "prune", "distill", "seconds")
            }
            outputs["Output"] = plan(**given)
        return outputs, Status.SUCCESS

    folder = Path(asked["cache"])
    watched = Watched(str(folder if folder.is_dir() else scratch / "cache"))
    cache.get_local_cache = lambda: watched
    task_dispatcher.run_single_task_implementation = pretend
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(scratch / "artifacts"), enable_caching=False)
    recipe = Recipe.model_validate(asked["recipe"])
    PIPELINES[asked["pipeline"]](recipe, _placement(None, {}))(**asked["arguments"])
    return cached, executed


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        answer = _rehearse(json.loads(sys.stdin.read()), Path(scratch))
    print(json.dumps(answer))
