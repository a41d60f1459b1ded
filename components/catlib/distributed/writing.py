"""Lets several processes that run the same stage write one artifact."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel

from components.catlib.artifacts import ArtifactWriter, Manifest, writing
from components.catlib.disk import temporary_folder
from components.catlib.distributed.devices import Accelerator


@contextlib.contextmanager
def writing_once(
    accelerator: Accelerator, output: Path, *, kind: str, config: BaseModel, inputs: Mapping[str, Manifest | str]
) -> Iterator[ArtifactWriter]:
    """Writes an artifact as `components.catlib.artifacts.writing` does, but in the main process only.

    The other processes write to a temporary folder, which is removed at the end.

    Args:
        accelerator: Knows which process this is.
        output: The folder to make.
        kind: Name of the stage.
        config: The stage's configuration.
        inputs: Manifests of the artifacts that this one is made from, by name; of a file its SHA-256.

    Raises:
        UserError: Nothing can be written to `output`.
    """
    if accelerator.is_main_process:
        with writing(output, kind=kind, config=config, inputs=inputs) as writer:
            yield writer
    else:
        with temporary_folder(f"{kind}-") as folder:
            yield ArtifactWriter(folder)
