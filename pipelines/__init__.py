"""The pipelines: their graphs, their recipes, their command line, and for Python `from pipelines import submit`.

Importing this loads neither Kubeflow nor torch, and what it offers only once it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.api import compile_recipe, load_recipe, recipe_names, run, submit

__all__ = ["compile_recipe", "load_recipe", "recipe_names", "run", "submit"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("pipelines.api"), name)
