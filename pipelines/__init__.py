"""The pipelines: their graphs, their recipes, their command line, and for Python `from pipelines import submit`.

Importing this loads neither Kubeflow nor torch.
"""

from components.catlib.recipes import load_recipe, recipe_names
from pipelines.api import compile_recipe, run, submit

__all__ = ["compile_recipe", "load_recipe", "recipe_names", "run", "submit"]
