"""The name of the container image that holds this code: `python3 -m components.image` prints it.

Its tag is the version and a digest of the code and of the lock files. So another tag means other content, and other
content another tag, whatever is committed; Kubeflow's cache knows an image by its name alone. Nothing but Python is
needed, so that `make docker-image` works without the virtual environment.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from components import __version__
from components.catlib.code_digest import DATA_SUFFIXES, PROJECT, ROOT, digest_of_files

LOCKS = ("requirements-build.lock", "requirements-torch.lock", "requirements.lock", "requirements-mlflow.lock")
"""The lock files that the image is built from. It has copies, so that the name is the same inside it."""


@functools.cache
def image_name(root: Path = ROOT) -> str:
    """Returns the name of the image of flavour cpu; that of the other flavour ends in `-cuda`.

    Args:
        root: Folder of the project's packages and lock files. Where there are none (a package that was installed
            elsewhere), the digest is of the code alone, and no image has this name.
    """
    locks = [root / name for name in LOCKS if (root / name).is_file()]
    return f"cat-pipeline:{__version__}-{digest_of_files([*_code(root), *locks], root)}"


def _code(root: Path) -> Iterator[Path]:
    for package in PROJECT:
        for path in (root / package).rglob("*"):
            if path.suffix in DATA_SUFFIXES | {".py"} and not path.name.startswith("."):
                yield path


if __name__ == "__main__":
    print(image_name())
