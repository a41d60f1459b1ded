"""Places of results, checked before the work."""

from __future__ import annotations

import os
from pathlib import Path

from components.catlib.errors import UserError


def check_writable(folder: Path) -> None:
    """Makes the folders above a result, and checks that it can be written there.

    Raises:
        UserError: It cannot.
    """
    probe = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise UserError(
            f"Output {folder} cannot be written ({error.strerror}); choose another folder with --output."
        ) from error
