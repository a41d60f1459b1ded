"""Prints what pyproject.toml needs in an image, one requirement a line: the dependencies and those of the demo."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
print(*project["dependencies"], *project["optional-dependencies"]["demo"], sep="\n")
