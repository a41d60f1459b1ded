"""Compiles a recipe's pipeline for Kubeflow, and checks arguments against it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import yaml
from kfp import compiler

from components.catlib.code_digest import code_digest
from components.catlib.config import Recipe
from components.catlib.credentials import refuse_credentials
from components.catlib.disk import temporary_folder
from components.catlib.errors import UserError
from pipelines.compress import compress_pipeline
from pipelines.distill_only import distill_only_pipeline
from pipelines.evaluate_only import evaluate_only_pipeline
from pipelines.graphs import Build
from pipelines.resources import Placement
from pipelines.sweep import sweep_pipeline

PIPELINES: dict[str, Build] = {
    "compress": compress_pipeline,
    "distill-only": distill_only_pipeline,
    "evaluate-only": evaluate_only_pipeline,
    "sweep": sweep_pipeline,
}

_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": (bool,),
    "LIST": (list, tuple),
    "STRUCT": (dict,),
}
_TYPE_NAMES = {"STRING": "a text", "NUMBER_INTEGER": "a whole number", "NUMBER_DOUBLE": "a number",
               "BOOLEAN": "true or false", "LIST": "a list", "STRUCT": "a mapping"}  # fmt: skip


@dataclass(frozen=True)
class Compiled:
    """A compiled pipeline.

    Attributes:
        text: The file for Kubeflow: the pipeline and, after `---`, the part for Kubernetes.
    """

    text: str

    @functools.cached_property
    def _documents(self) -> list[dict[str, Any]]:
        return list(yaml.load_all(self.text, yaml.CSafeLoader))

    @property
    def spec(self) -> dict[str, Any]:
        """The pipeline itself."""
        return self._documents[0]

    @property
    def pipeline(self) -> str:
        """Its name."""
        return self.spec["pipelineInfo"]["name"]

    @property
    def parameters(self) -> dict[str, Any]:
        """Type, description and default of every parameter, by name."""
        return self.spec["root"]["inputDefinitions"]["parameters"]

    @property
    def platform(self) -> dict[str, Any]:
        """The part for Kubernetes; may be empty."""
        return self._documents[1] if len(self._documents) > 1 else {}

    def check_arguments(self, arguments: Mapping[str, Any]) -> None:
        """Checks arguments against the parameters; Kubeflow's client would take anything.

        Raises:
            UserError: An argument, which is named, is unknown, missing or of another type.
        """
        refuse_credentials(arguments, "")
        name, parameters = self.pipeline, self.parameters
        for given, value in arguments.items():
            if given not in parameters:
                raise UserError(f"Pipeline {name} has no parameter {given!r}; it has {', '.join(sorted(parameters))}.")
            expected = parameters[given]["parameterType"]
            fits = isinstance(value, _PYTHON_TYPES[expected])
            if not fits or (isinstance(value, bool) and expected != "BOOLEAN"):
                raise UserError(f"Parameter {given} of pipeline {name} is {_TYPE_NAMES[expected]}, not {value!r}.")
        for wanted, parameter in parameters.items():
            if wanted not in arguments and not parameter.get("isOptional"):
                raise UserError(f"Pipeline {name} needs {wanted}: {parameter['description']}")


def compile_pipeline(
    pipeline: str,
    recipe: Recipe,
    *,
    image: str,
    code_digest: Callable[[str], str] = code_digest,
    versions: Mapping[str, str] = MappingProxyType({}),
) -> Compiled:
    """Compiles a pipeline for a cluster.

    Args:
        pipeline: A name in `PIPELINES`.
        recipe: The recipe; its settings become the defaults of parameters, and the tasks get its `resources`.
        image: Image of every task.
        code_digest: Returns the digest of a stage's code, which its tasks carry; the image must hold this code.
        versions: Defaults of parameters that no recipe gives, by name.
    """
    placement = Placement(image, recipe.resources, code_digest=code_digest)
    with temporary_folder("pipeline-") as folder:
        file = folder / "pipeline.yaml"
        compiler.Compiler().compile(PIPELINES[pipeline](recipe, placement, versions), str(file))
        return Compiled(file.read_text(encoding="utf-8"))
