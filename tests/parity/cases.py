"""Finds and reads parity cases: a JSON file with configuration and scalars, and tensors of the same name beside it."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file


@dataclass(frozen=True)
class Case:
    """Two files: `facts` is the JSON, `tensors` maps "state/features.0.pw_bn.weight" to a tensor."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def facts(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.path.with_suffix(".safetensors"))

    def group(self, prefix: str) -> dict[str, torch.Tensor]:
        """Returns the tensors below a prefix, with the prefix and its slash removed."""
        prefix = prefix.rstrip("/") + "/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


def parametrize_cases(metafunc: pytest.Metafunc, pattern: str) -> None:
    """Parametrises the argument `case` over the files of --parity-dir that match; none is a failure, not a skip."""
    folder = metafunc.config.getoption("--parity-dir")
    found = [Case(path) for path in sorted(folder.glob(pattern))]
    assert found, f"no {pattern} in {folder}"
    metafunc.parametrize("case", found, ids=[case.name for case in found])
