"""What determines the weights of a training, and the place of its checkpoints, which follows from that.

The *origin* of a training lies in its checkpoints, and a resumption must agree with it. It has these parts:

- the settings: the stage's section, without those that change no weights. Files with weights count by their content;
- the inputs: digests of the data in the artifacts that the stage reads, and facts about them that no data shows;
- the length: `epochs`, `decay_epochs`, and the earlier trainings that this one goes on from.

Settings and inputs make the digest in the place of the checkpoints; trainings that differ in length alone lie together:

    ROOT/teacher-0123456789abcdef/500+200              500 epochs, then 200 in which the learning rate decays
    ROOT/teacher-0123456789abcdef/900+0-after-700      900 epochs, of which the first 700 are a training like that

The code is not part of it: after a correction of the code, a training goes on. A checkpoint names the code that wrote
it, so that the log can say when that was other code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.catlib.artifacts import Manifest, file_sha256
from components.catlib.code_digest import code_digest
from components.catlib.config import TrainingConfig, validate
from components.catlib.config.upgrading import upgraded
from components.catlib.data.ground_truth import GROUND_TRUTH
from components.catlib.networks.architecture_files import ARCHITECTURE_FILE
from components.catlib.storage import local_copy
from components.catlib.training.checkpoints import LENGTH

UNRELATED_TO_WEIGHTS = {
    *("patience", "stop_on", "time_limit_seconds"),
    *("recompute_activations", "images_per_pass"),
    *("speed", "cudnn_benchmark"),
}
"""Settings that end a training sooner or later, that make it need less memory, or that change no more than the order of
sums (`speed` is a name for others): weights differ by rounding at most.

So a training that ran out of memory goes on with less.

Every other setting changes weights, or the scores by which weights are chosen and which the result holds."""

LATER_SETTINGS = {"start_from", "steps"}
"""Settings that earlier versions did not have; where they are null, trainings keep their places."""

DATA_SUFFIXES = {".npy", ".npz", ".pth", ".safetensors"}
"""Files of an input artifact that weights depend on; its logs and pictures may differ between equal runs."""

DECISIVE_FILES = {ARCHITECTURE_FILE, GROUND_TRUTH}
"""Further files that weights, or the scores by which they are chosen, depend on."""

DECISIVE_FACTS = {"pairing", "load_size", "crop_size", "num_labels", "dont_care_plane", "test_is_paired"}
"""Facts in the manifest of a dataset that determine how its arrays are used."""


class Length(NamedTuple):
    """How long a training is, and which earlier trainings it goes on from.

    Attributes:
        epochs: Epochs at the full learning rate.
        decay_epochs: Further epochs, in which the learning rate may decay.
        goes_on_from: Total epochs of the earlier trainings, oldest first.
    """

    epochs: int
    decay_epochs: int
    goes_on_from: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """All epochs, those of earlier trainings included."""
        return self.epochs + self.decay_epochs

    @property
    def name(self) -> str:
        """Name of the folder with its checkpoints, such as `500+200` or `900+0-after-500-700`."""
        earlier = f"-after-{'-'.join(map(str, self.goes_on_from))}" if self.goes_on_from else ""
        return f"{self.epochs}+{self.decay_epochs}{earlier}"

    @property
    def on_from_here(self) -> tuple[int, ...]:
        """The `goes_on_from` of a training that goes on from the end of this one."""
        return (*self.goes_on_from, self.total)

    @classmethod
    def named(cls, name: str) -> Length | None:
        """Returns the length whose folder has this name; None for other names."""
        found = re.fullmatch(r"(\d+)\+(\d+)(?:-after-(\d+(?:-\d+)*))?", name)
        if found is None:
            return None
        return cls(int(found[1]), int(found[2]), tuple(map(int, found[3].split("-"))) if found[3] else ())

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Length:
        """Reads it from a section, or from the part of an origin that `as_json` made."""
        return cls(settings["epochs"], settings["decay_epochs"], tuple(settings.get("goes_on_from", ())))

    def as_json(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return {**self._asdict(), "goes_on_from": list(self.goes_on_from)}


class Origin:
    """The origin of one training.

    Attributes:
        stage: Name of the stage.
        length: How long the training is.
        other_code: Digests of other code that wrote checkpoints of this training.
    """

    def __init__(self, stage: str, config: TrainingConfig, inputs: Mapping[str, Manifest]) -> None:
        """Reads the weights that the settings name without a digest, if there are any.

        Args:
            stage: Name of the stage.
            config: Its section of the recipe.
            inputs: Manifests of the artifacts that it reads.
        """
        section = config.model_dump(mode="json")
        self.stage = stage
        self.length = Length.of(section)
        self.other_code: set[str] = set()
        self._model = type(config)
        self._inputs = {name: _data_digest(manifest) for name, manifest in inputs.items()}
        self._facts = {name: _facts(manifest) for name, manifest in inputs.items()}
        self._digests = {uri: _content(uri) for uri in _without_digest(section)}
        self._settings = self._decisive(section)

    def as_json(self, length: Length | None = None) -> dict[str, Any]:
        """Returns what a checkpoint holds.

        Args:
            length: Length of a training that is the same otherwise; None: this one's.
        """
        return {
            self.stage: self._settings,
            "inputs": self._inputs,
            "facts": self._facts,
            LENGTH: (length or self.length).as_json(),
            "code": code_digest(self.stage),
        }

    def digest(self) -> str:
        """Returns a digest (16 hex digits) of the settings and inputs."""
        decisive = json.dumps([self.stage, self._settings, self._inputs, self._facts], sort_keys=True)
        return hashlib.sha256(decisive.encode()).hexdigest()[:16]

    def place(self, root: str) -> str:
        """Returns the address below which trainings with this origin keep their checkpoints, one folder per length.

        Args:
            root: Folder or `s3://bucket/prefix` for the checkpoints of all trainings.
        """
        return f"{root.rstrip('/')}/{self.stage}-{self.digest()}"

    def read(self, origin: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the origin in a checkpoint in today's form, even if version 0.1.0 wrote it.

        Other code is noted. What an earlier version did not write counts as equal.
        """
        code = code_digest(self.stage)
        self.other_code |= {origin.get("code", code)} - {code}
        origin = {"facts": self._facts, **origin, "code": code}
        section = origin.get(self.stage)
        if section is None or LENGTH in origin:
            return origin
        now = upgraded(section, self._model)
        if now != section:
            now = validate(self._model, now, where=self.stage).model_dump(mode="json")
        return {**origin, self.stage: self._decisive(now), LENGTH: Length.of(now).as_json()}

    def _decisive(self, section: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the settings that determine weights."""
        others = {*UNRELATED_TO_WEIGHTS, *Length._fields}
        others |= {name for name in LATER_SETTINGS if section.get(name) is None}
        return _by_content({name: value for name, value in section.items() if name not in others}, self._digests)


def _by_content(settings: Any, digests: Mapping[str, str]) -> Any:
    """Puts the digest of each file of weights in the place of its address; a loss of weight 0 needs no file."""
    if not isinstance(settings, Mapping):
        return settings
    if _names_weights(settings):
        return {"sha256": settings["sha256"] or digests.get(settings["uri"], settings["uri"])}
    unused = {"weights"} if settings.get("weight") == 0 else set()
    return {name: _by_content(value, digests) for name, value in settings.items() if name not in unused}


def _without_digest(settings: Any) -> Iterator[str]:
    """Yields the addresses of files of weights whose content the settings do not pin."""
    if not isinstance(settings, Mapping) or settings.get("weight") == 0:
        return
    if _names_weights(settings) and settings["sha256"] is None:
        yield settings["uri"]
    for value in settings.values():
        yield from _without_digest(value)


def _names_weights(settings: Mapping[str, Any]) -> bool:
    return settings.keys() == {"uri", "sha256"}


def _content(uri: str) -> str:
    """Returns a digest of a file; the address itself for a file that does not exist, as the stage will say."""
    path = local_copy(uri)
    return file_sha256(path) if path.is_file() else uri


def _data_digest(manifest: Manifest) -> str:
    data = {
        name: record.sha256 for name, record in sorted(manifest.files.items()) if Path(name).suffix in DATA_SUFFIXES
    }
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]


def _facts(manifest: Manifest) -> dict[str, Any]:
    """Returns what weights depend on beside the data: architectures, ground truth, the use of a dataset's arrays."""
    files = {name: record.sha256[:16] for name, record in manifest.files.items() if name in DECISIVE_FILES}
    return files | {name: manifest.summary[name] for name in DECISIVE_FACTS & manifest.summary.keys()}
