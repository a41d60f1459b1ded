"""Every parameter of every pipeline, once: its description, and the setting of a recipe that is its default.

Kubeflow reads a pipeline from one Python function. It takes names, types and defaults of the parameters from
`inspect.signature`, their descriptions from the `Args:` of the docstring and the output's from its `Returns:`, in
Google's style. It then calls the function once, with one placeholder per parameter in the signature's order.
`with_signature` makes such a function of a graph, so no graph repeats this table.

A new parameter is a row here and its use in a graph. Arguments are checked without Kubeflow, which is not loaded here.
"""

from __future__ import annotations

import inspect
import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any, List, Literal

from pydantic import BaseModel

from components.catlib.config import Recipe, ReportConfig, validate

Given = Any
"""An argument as Kubeflow takes it: a parameter of the pipeline, an output of a task, or a plain value."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a pipeline.

    Attributes:
        name: Its name.
        sentence: Its description in Kubeflow's interface.
        setting: Dotted path of the setting in a recipe that gives the default and that an argument replaces. "": the
            default is an empty text or list.
        annotation: The Python type that Kubeflow turns into its own.
        required: Whether it must be given; it then has no default.
        earlier: What of earlier runs its value names, by one address or several: "model" or "report"; "": nothing.
        without: Key of its section that is a parameter of its own.
    """

    name: str
    sentence: str
    setting: str = ""
    annotation: Any = str
    required: bool = False
    earlier: Literal["", "model", "report"] = ""
    without: str = ""

    def default(self, recipe: Recipe) -> Any:
        """Returns the default that a recipe gives, as JSON values without nulls."""
        if self.required:
            return inspect.Parameter.empty
        if not self.setting:
            return "" if self.annotation is str else []
        value = operator.attrgetter(self.setting)(recipe)
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json", exclude_none=True, exclude={self.without})
        return value if isinstance(value, str | float) else list(value)


def _section(name: str, sentence: str, *, setting: str | None = None) -> Parameter:
    """Returns the parameter that hands a section of the recipe to its stage."""
    return Parameter(name, sentence, setting=setting or name, annotation=dict)


_BASE_RECIPE = Parameter(
    "base_recipe", "Name of the recipe that the settings come from; for people, no stage reads it.", setting="name"
)
_BUDGETS = Parameter(
    "budgets",
    "The students' compute budgets: MACs such as 2.6e9, shares of the teacher's such as 0.05x, or milliseconds such as "
    "15ms, which need prune.latency_table.",
    setting="budgets",
    annotation=List[str],
)
_VARIATIONS = Parameter(
    "variations",
    "Changes to the distill section, one entry per variation; `distiller: none` shows what distillation adds.",
    setting="sweep.variations",
    annotation=List[dict],
)
_SEEDS = Parameter(
    "seeds",
    "Seeds of the students' training; several show how much scores vary by chance.",
    setting="sweep.seeds",
    annotation=List[int],
)
_SECONDS = Parameter(
    "seconds",
    "Cost of every student's training: its steps are this number over its variation's step_seconds; 0: all train as "
    "long as distill says.",
    setting="sweep.seconds",
    annotation=float,
)
_EARLIER_SWEEPS = Parameter(
    "earlier_sweeps",
    "Addresses of the reports of earlier sweeps with the same images and teacher, whose students the report compares "
    "with these: s3://BUCKET/PREFIX, or folders if the pipeline runs locally.",
    annotation=List[str],
    earlier="report",
)
_DATASET = Parameter(
    "dataset", "How the images are read and packed.", setting="dataset", annotation=dict, without="source"
)
_DATASET_SOURCE = Parameter(
    "dataset_source",
    "The images: an address in the store (s3://BUCKET/FOLDER) or of the web, or the name of a known dataset.",
    setting="dataset.source",
)
_REAL_STATS = _section("real_stats", "Features by which sets of images are compared.")
_TEACHER = _section("teacher", "The large generator and its training.")
_EARLIER_TEACHER = Parameter(
    "teacher",
    "Address of the teacher's artifact, s3://BUCKET/PREFIX or a local folder, or of a published .pth file, also https://.",
    required=True,
    earlier="model",
)
_TEACHER_BESIDE = Parameter(
    "teacher",
    "Address of the artifact of the students' teacher; empty: the students are scored alone.",
    earlier="model",
)
_TEACHER_SETTINGS = _section(
    "teacher_settings",
    "The recipe's teacher section, for what a .pth file does not contain: family, padding, and the published "
    "discriminator (without one, a fresh one is used).",
    setting="teacher",
)
_EARLIER_STUDENTS = Parameter(
    "students",
    "Addresses of the artifacts of distilled students, or of teachers: s3://BUCKET/PREFIX, or folders if the pipeline "
    "runs locally.",
    annotation=List[str],
    required=True,
    earlier="model",
)
_PRUNE = _section("prune", "How the students' channels are chosen, and which direction of the teacher is compressed.")
_DISTILL = _section("distill", "Training of the students.")
_EVALUATE = _section("evaluate", "Measurements on the held-out images.")
_EXPORT = _section("export", "Settings of the ONNX files.")
_REPORT = _section("report", "Heading and description of the report.")
_SOURCE_VERSION = Parameter(
    "source_version", "Part of the dataset's cache key; with another text the images are packed again."
)
_MODEL_VERSION = Parameter(
    "model_version", "Part of the cache keys of earlier models; with another text they are fetched again."
)

_IMAGES = (_DATASET, _DATASET_SOURCE, _REAL_STATS)
_STUDENTS = (_PRUNE, _DISTILL, _EVALUATE, _EXPORT, _REPORT)

PARAMETERS: dict[str, tuple[Parameter, ...]] = {
    "compress": (_BASE_RECIPE, _BUDGETS, *_IMAGES, _TEACHER, *_STUDENTS, _SOURCE_VERSION),
    "distill-only": (
        *(_EARLIER_TEACHER, _BASE_RECIPE, _BUDGETS, *_IMAGES, _TEACHER_SETTINGS, *_STUDENTS),
        *(_SOURCE_VERSION, _MODEL_VERSION),
    ),
    "evaluate-only": (
        *(_EARLIER_STUDENTS, _TEACHER_BESIDE, _BASE_RECIPE, *_IMAGES, _EVALUATE, _REPORT),
        *(_SOURCE_VERSION, _MODEL_VERSION),
    ),
    "sweep": (
        *(_BASE_RECIPE, _BUDGETS, _VARIATIONS, _SEEDS, _SECONDS, *_IMAGES, _TEACHER, *_STUDENTS),
        *(_EARLIER_SWEEPS, _SOURCE_VERSION, _MODEL_VERSION),
    ),
}
"""The parameters of each pipeline; those without a default come first.

Kubeflow's form sorts them by name. So what a person looks at first must have a name that sorts first: `base_recipe`,
`budgets`, `dataset` and `dataset_source`.
"""


def with_signature(
    graph: Callable[[SimpleNamespace], Any],
    parameters: tuple[Parameter, ...],
    recipe: Recipe,
    versions: Mapping[str, str] = MappingProxyType({}),
) -> Callable[..., Any]:
    """Makes the function from which Kubeflow reads a pipeline.

    Args:
        graph: Takes the parameters' placeholders as attributes of one object. Its docstring is a sentence and, behind
            an empty line, `Returns:`.
        parameters: Parameters of the function, in this order.
        recipe: Gives the defaults.
        versions: Defaults of parameters that no recipe gives, by name.

    Returns:
        A function with the parameters in its signature and docstring; it returns the result of the graph.
    """
    names = [parameter.name for parameter in parameters]

    def function(*placeholders: Given) -> Given:
        return graph(SimpleNamespace(**dict(zip(names, placeholders, strict=True))))

    sentence, _, returns = (inspect.getdoc(graph) or "").partition("\n\n")
    described = "\n".join(f"    {parameter.name}: {parameter.sentence}" for parameter in parameters)
    function.__doc__ = f"{sentence}\n\nArgs:\n{described}\n\n{returns}"
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # read by inspect.signature
        [
            inspect.Parameter(
                parameter.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                annotation=parameter.annotation,
                default=versions.get(parameter.name, parameter.default(recipe)),
            )
            for parameter in parameters
        ],
        return_annotation=inspect.signature(graph).return_annotation,
    )
    return function


def earlier_addresses(pipeline: str, arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns what of earlier runs the arguments of a pipeline name: "model" or "report", and its address."""
    found = []
    for parameter in PARAMETERS[pipeline]:
        given = (arguments.get(parameter.name) or []) if parameter.earlier else []
        found += [(parameter.earlier, address) for address in ([given] if isinstance(given, str) else given)]
    return found


def all_arguments(recipe: Recipe, pipeline: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the value of every parameter that a recipe sets, beside the arguments that it does not set.

    With them a run in Kubeflow's interface shows what was asked, and can be compared and cloned.

    Args:
        recipe: The recipe with the arguments' settings.
        pipeline: Name of the pipeline.
        arguments: The arguments as they were given.
    """
    settings = {each.name: _as_kubeflow_has_it(each.default(recipe)) for each in PARAMETERS[pipeline] if each.setting}
    own = {name: value for name, value in arguments.items() if name not in settings or name == "report"}
    return settings | own


def _as_kubeflow_has_it(value: Any) -> Any:
    """Returns a section with floating-point numbers alone, as defaults and tasks have it: keys tell 1 from 1.0."""
    return json.loads(json.dumps(value), parse_int=float) if isinstance(value, dict) else value


def with_arguments(recipe: Recipe, pipeline: str, arguments: Mapping[str, Any]) -> Recipe:
    """Returns a recipe with the settings that arguments of a pipeline replace.

    Raises:
        UserError: An argument holds an unknown setting, or a value out of bounds.
    """
    settings = recipe.model_dump(mode="json")
    for parameter in PARAMETERS[pipeline]:
        if parameter.setting and parameter.name in arguments:
            *sections, key = parameter.setting.split(".")
            section = settings
            for name in sections:
                section = section[name]
            value = arguments[parameter.name]
            if parameter.without and isinstance(value, Mapping):
                value = {parameter.without: section[key][parameter.without], **value}
            section[key] = value
    if "report" in settings:  # the report's section is made from the whole recipe
        validate(ReportConfig, settings.pop("report"), where="Argument report")
    return validate(Recipe, settings, where="Arguments")
