"""How several processes, which all run a stage, write one artifact."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from components.catlib.artifacts import ArtifactWriter, Manifest, writing
from components.catlib.distributed.devices import Accelerator


@contextlib.contextmanager
def writing_once(
    accelerator: Accelerator, output: Path, *, kind: str, config: BaseModel, inputs: dict[str, Manifest]
) -> Iterator[ArtifactWriter]:
    """Writes an artifact as `components.catlib.artifacts.writing` does, but in the main process only.

    What other processes write goes to a temporary folder, which is removed in the end.

    Args:
        accelerator: The processes.
        output: The folder to make.
        kind: The stage.
        config: The stage's configuration.
        inputs: Manifests of the artifacts it is made from.

    Raises:
        UserError: Nothing can be written to `output`.
    """
    if accelerator.is_main_process:
        with writing(output, kind=kind, config=config, inputs=inputs) as writer:
            yield writer
    else:
        with tempfile.TemporaryDirectory(prefix=f"{kind}-") as folder:
            yield ArtifactWriter(Path(folder))
