"""Reads what `torch.save` wrote, whoever gives the file: nothing in it is executed, and reading ends soon."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

LONGEST_NAME = 1000
"""Longer names of classes are refused. PyTorch searches its own error message, which quotes the name, in a time that
grows with the square of its length."""

_OLD_PICKLES = 5
"""Pickles at the beginning of a file in the format before PyTorch 1.6."""


class UnreadableError(Exception):
    """A file cannot be read; the message gives the reason in a few words."""


def load_tensors(path: Path) -> Any:
    """Reads tensors in plain containers, onto the CPU.

    Raises:
        UnreadableError: The file is damaged, or holds anything else.
    """
    try:
        _check_classes(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnreadableError:
        raise
    except Exception as error:  # an untrusted file can make the reader fail in any way
        raise UnreadableError(_reason(error)) from error


def _check_classes(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            for _ in range(_OLD_PICKLES):
                _check_pickle(file)
        return
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith("data.pkl"):
                _check_pickle(io.BytesIO(archive.read(entry)))


def _check_pickle(file: Any) -> None:
    for operation, name, _ in pickletools.genops(file):
        if operation.name == "GLOBAL" and len(str(name)) > LONGEST_NAME:
            raise UnreadableError(f"it names a class with {len(str(name))} characters")


def _reason(error: Exception) -> str:
    """Returns the cause in a reader's error, without the paragraphs of advice that unpicklers add."""
    refused = re.search(r"(Trying to load )?[Uu]nsupported .*", str(error))
    lines = (refused[0] if refused else str(error)).strip().splitlines()
    return lines[0].partition(". ")[0].rstrip(".") if lines else type(error).__name__
