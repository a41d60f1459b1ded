"""Prints what pyproject.toml needs in an image, one requirement a line: the dependencies, those of demo and MLflow."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
print(*project["dependencies"], *extras["demo"], *extras["mlflow"], sep="\n")
