"""What is wrong with a run, found before anything is paid for: one frame for local runs and for clusters.

Each check looks at one thing and yields what it found. What is certainly wrong is an error. What only may be wrong, or
cannot be looked at from here, is a warning that names it. `CHECKS` need nothing but this machine and the addresses that
a run names; `pipelines.preflight_cluster` asks the cluster.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from components.catlib.artifacts import file_sha256, read_manifest
from components.catlib.config import Recipe
from components.catlib.data.archives import SUFFIXES
from components.catlib.data.files import is_image_path
from components.catlib.data.known_datasets import KNOWN, Dataset
from components.catlib.errors import UserError
from components.catlib.exporting.profile_rules import PACKAGES, check_profiles, missing_packages
from components.catlib.networks.alike import check_earlier_generators
from components.catlib.networks.architecture_files import open_networks
from components.catlib.reporting import standings
from components.catlib.storage import Location, Storage, is_in_object_store, is_remote, is_web, shown
from components.catlib.storage.settings import store_out_of_sight
from components.catlib.storage.store import NotThere
from components.catlib.storage.web import Web, WebFile
from components.fetch.stage import STATE_DICTS
from components.stages import TRAININGS
from components.sweep.stage import MOST_STUDENTS
from pipelines.parameters import PARAMETERS
from pipelines.reading import Reading, readings, sections_of
from pipelines.resources import stage_resources

LOOKING_SECONDS = 5.0
"""Time for which failing requests to a store are repeated."""

ROOT_SCHEMES = ("minio", "s3", "gs")
"""Schemes of addresses to which Kubeflow's launcher can write artifacts."""

KUBERNETES_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
"""A name that a Secret may have."""

OWN_IMAGE = "cat-pipeline"
"""Name of the image that this project builds; it holds no data of a user."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with a run.

    Attributes:
        error: One sentence that says what is wrong, where, and what to do.
        certain: Whether the run would certainly fail; otherwise it only may.
    """

    error: UserError
    certain: bool


def wrong(sentence: str) -> Finding:
    """Returns the finding of something that is certainly wrong."""
    return Finding(UserError(sentence), certain=True)


def doubtful(sentence: str) -> Finding:
    """Returns the finding of something that may be wrong, or that cannot be looked at from here."""
    return Finding(UserError(sentence), certain=False)


@dataclass(frozen=True)
class Plan:
    """A run that is to be started.

    Attributes:
        pipeline: Name of the pipeline.
        recipe: The recipe, with the arguments' settings.
        arguments: Arguments of the pipeline.
        image: Image of its tasks; None: they run in processes.
        in_pods: Whether it runs on a cluster; otherwise on this machine.
        root: Address below which it writes its artifacts; None: as the cluster is configured.
        service_account: Service account of its pods; None: as the cluster is configured.
    """

    pipeline: str
    recipe: Recipe
    arguments: Mapping[str, Any]
    image: str | None = None
    in_pods: bool = False
    root: str | None = None
    service_account: str | None = None

    @property
    def trains(self) -> bool:
        """Whether one of its stages is a training."""
        return any(each.name == "distill" for each in PARAMETERS[self.pipeline])

    def sections(self) -> dict[str, Any]:
        """Returns the settings that its stages get, by section of the recipe."""
        names = sections_of(self.pipeline)
        return {name: value for name, value in self.recipe.model_dump(mode="json").items() if name in names}

    def readings(self) -> dict[str, Reading]:
        """Returns what its stages read from outside, by setting: images, weights, and models of earlier runs."""
        return readings(self.recipe, self.pipeline, self.arguments)

    def places(self) -> dict[str, str]:
        """Returns the addresses to which its tasks write beside the artifacts, by setting."""
        if not self.trains:
            return {}
        checkpoints = self.recipe.resources.checkpoints if self.in_pods else None
        given = {"resources.checkpoints": checkpoints, "publish.to": self.recipe.publish.to}
        return {setting: address for setting, address in given.items() if address}

    def addresses(self) -> dict[str, str]:
        """Returns the addresses of what its stages read, by setting."""
        return {setting: reading.address for setting, reading in self.readings().items()}


def report(findings: Iterable[Finding], say: Callable[[str], None]) -> None:
    """Ends a command if something is certainly wrong, and otherwise shows what may be.

    Raises:
        UserError: The last of what is certainly wrong; the others were shown.
    """
    found = list(findings)
    errors = [finding.error for finding in found if finding.certain]
    for error in errors[:-1]:
        say(f"error: {error}")
    if errors:
        raise errors[-1]
    for finding in found:
        say(f"warning: {finding.error}")


def findings(plan: Plan) -> Iterator[Finding]:
    """Yields what is wrong with a run as far as it can be seen without its cluster."""
    for check in CHECKS:
        yield from check(plan)


# -------------------------------------------------------------------------------------------------------------- checks


def _models(plan: Plan) -> Iterator[Finding]:
    for parameter in PARAMETERS[plan.pipeline]:
        given = plan.arguments.get(parameter.name)
        if not parameter.earlier:
            continue
        if parameter.required and not given:
            yield wrong(f"Argument {parameter.name} is empty; give at least one address of an earlier model.")
        if isinstance(given, list) and not all(isinstance(each, str) and each.strip() for each in given):
            yield wrong(f"Argument {parameter.name} holds something else than addresses; give a list of texts.")


def _students(plan: Plan) -> Iterator[Finding]:
    if plan.pipeline == "sweep" or not plan.in_pods:
        return
    name = "students" if plan.pipeline == "evaluate-only" else "budgets"
    count = len(plan.arguments.get(name) or getattr(plan.recipe, name, ()))
    if count > MOST_STUDENTS:
        yield wrong(
            f"{count} {name} make {count} students, but a run on a cluster makes at most {MOST_STUDENTS}, because "
            "Kubeflow loses track of longer loops; start several runs, which share the teacher through the cache."
        )


def _publishing(plan: Plan) -> Iterator[Finding]:
    if plan.recipe.publish.to and not plan.trains:
        yield doubtful(f"Pipeline {plan.pipeline} makes no students, so publish.to has no effect.")


def _image(plan: Plan) -> Iterator[Finding]:
    if plan.in_pods and plan.image and "/" not in plan.image:
        yield doubtful(
            f"Image {plan.image} names no registry, so pods find it only on nodes that hold it already (kind load "
            "docker-image); for other clusters push it, and give its full name with --image."
        )


def _local_paths(plan: Plan) -> Iterator[Finding]:
    """Pods, and containers here, see the files of their image and nothing else."""
    if plan.in_pods or plan.image:
        yield from lost_places(plan)
    if not plan.in_pods:
        return
    for setting, address in plan.addresses().items():
        if _is_elsewhere(address):
            continue
        if address in KNOWN:
            if KNOWN[address].url is None and setting == "dataset.source":
                yield wrong(
                    f"dataset.source {address} needs a registration, so pods cannot download it; upload your copy to "
                    "the store and give its address, s3://BUCKET/FOLDER."
                )
        elif _may_lie_in_image(address, plan.image or OWN_IMAGE):
            yield doubtful(f"{setting} {address} is a path, which pods find only if image {plan.image} holds it.")
        else:
            yield wrong(
                f"{setting} {address} is a path on this machine, which pods do not see; upload it to the store and "
                "give its address, s3://BUCKET/FOLDER."
            )


def lost_places(plan: Plan) -> Iterator[Finding]:
    """Yields the folders that tasks in pods or containers would write to, which end with them."""
    for setting, place in plan.places().items():
        if not is_in_object_store(place):
            yield wrong(
                f"{setting} {place} is lost with the {'pod' if plan.in_pods else 'container'} that writes it; give an "
                "address in the store, s3://BUCKET/FOLDER."
            )


def _is_elsewhere(address: str) -> bool:
    return is_web(address) or is_remote(address)


def _may_lie_in_image(address: str, image: str) -> bool:
    """Returns whether a path may be in an image that somebody made for it."""
    own = re.split(r"[:@]", image.rpartition("/")[2])[0].startswith(OWN_IMAGE)
    return address.startswith("/") and not own and not Path(address).exists()


def _secret(plan: Plan) -> Iterator[Finding]:
    name = plan.recipe.resources.store_secret
    if plan.in_pods and name and not KUBERNETES_NAME.fullmatch(name):
        yield wrong(
            f"resources.store_secret {name!r} is no name that a Secret can have; give small letters, digits, dots and "
            "dashes, such as cat-store."
        )
    if not plan.in_pods or name:
        return
    for setting, address in (plan.addresses() | plan.places()).items():
        if not is_in_object_store(address):
            continue
        what = f"{setting} {address} lies in the object store, but resources.store_secret names no Secret with its keys"
        if plan.service_account:
            yield doubtful(
                f"{what}; pods reach it only if service account {plan.service_account} gives them S3_ENDPOINT and "
                "keys, which cannot be looked at from here."
            )
        else:
            yield wrong(f"{what}; give --set resources.store_secret=cat-store, or the name of your own Secret.")


def _trainings(plan: Plan) -> list[str]:
    return [stage for stage in TRAININGS if any(each.name == stage for each in PARAMETERS[plan.pipeline])]


def _speed(plan: Plan) -> Iterator[Finding]:
    """Looks for trainings whose settings need a GPU that they do not get."""
    for stage in _trainings(plan):
        config = getattr(plan.recipe, stage)
        asked = "speed: fast" if config.speed == "fast" else "precision: fp16" if config.precision == "fp16" else ""
        if asked and plan.in_pods and not stage_resources(plan.recipe.resources, stage).gpus:  # type: ignore[arg-type]
            yield wrong(
                f"{stage}.{asked} needs a GPU, and the stage {stage} gets no accelerator; set resources.profile to gpu."
            )
        elif asked and not plan.in_pods and plan.image is None and not _gpus_here():
            yield doubtful(
                f"{stage}.{asked} needs a GPU of CUDA, and this machine has none, so the stage {stage} is refused "
                "unless an earlier result is reused; run the recipe where there is a GPU."
            )


def _gpus_here() -> int:
    import torch  # takes seconds, and few recipes ask

    return torch.cuda.device_count()


def _profiles(plan: Plan) -> Iterator[Finding]:
    """Looks for files that the export cannot write, which would end a run after its trainings."""
    wanted = plan.recipe.export.profiles if plan.trains else ()
    if plan.image is None and not plan.in_pods:
        yield from map(wrong, missing_packages(wanted))
    else:
        for profile in sorted(PACKAGES.keys() & set(wanted)):
            yield doubtful(
                f"The profile {profile} needs the package {PACKAGES[profile].replace('_', '-')}, which the project's "
                f"image does not hold; name an image that does, or take {profile} out of export.profiles and export "
                "the student again where the package is."
            )
    if "teacher" in _trainings(plan):
        values = {f"{domain} images": each for domain, each in plan.recipe.dataset.values.items()}
        generator = plan.recipe.teacher.generator
        try:
            check_profiles(wanted, generator.family, values, upsample=getattr(generator, "upsample", "transposed"))
        except UserError as error:
            yield Finding(error, certain=True)


def _checkpoints(plan: Plan) -> Iterator[Finding]:
    resources = plan.recipe.resources
    if not plan.in_pods or not plan.trains or resources.checkpoints:
        return
    if any(stage_resources(resources, stage).gpus for stage in _trainings(plan)):  # type: ignore[arg-type]
        yield doubtful(
            "Trainings use accelerators but keep no checkpoints, so a lost pod loses all of its training; give --set "
            "resources.checkpoints=s3://BUCKET/FOLDER."
        )


def _root(plan: Plan) -> Iterator[Finding]:
    if not plan.in_pods or plan.root is None:
        return
    scheme, separator, place = plan.root.partition("://")
    if not separator or scheme not in ROOT_SCHEMES or not place.strip("/"):
        yield wrong(
            f"--root {plan.root} is no place to which Kubeflow can write artifacts; give minio://BUCKET/FOLDER, "
            "s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, whichever the cluster's ConfigMap kfp-launcher configures."
        )


def _content(plan: Plan) -> Iterator[Finding]:
    """Looks at what every address holds, where that can be seen from here, and for the buckets that are written to."""
    for setting, place in plan.places().items():
        if not is_in_object_store(place):
            yield from _folder_here(setting, Path(place), plan)
            continue
        try:
            Location.parse(place)
            if not (plan.in_pods and store_out_of_sight()):
                Storage(patience=LOOKING_SECONDS).file_names(f"{place.rstrip('/')}/refused")
        except UserError as error:
            yield Finding(type(error)(f"{setting} {place}: {error}"), certain=True)
    for setting, reading in plan.readings().items():
        address = reading.address
        if is_in_object_store(address):
            yield from _in_store(setting, address, plan)
        elif is_web(address):
            yield from _on_the_web(setting, address)
        elif is_remote(address):
            continue  # a store of another kind
        elif plan.in_pods:
            continue  # a path in an image
        elif address in KNOWN and not Path(address).exists():
            yield from _known(KNOWN[address])
        else:
            yield from _on_this_machine(setting, reading, plan)


def _folder_here(setting: str, folder: Path, plan: Plan) -> Iterator[Finding]:
    """Looks whether a folder of this machine can be written to."""
    if plan.in_pods or plan.image:
        return
    try:
        nearest = next(place for place in (folder.resolve(), *folder.resolve().parents) if place.exists())
        usable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    except OSError:  # a name is too long, or a folder on the way may not be entered
        usable = False
    if not usable:
        yield wrong(f"{setting} {folder} cannot be written on this machine; choose another folder.")


def _known(dataset: Dataset) -> Iterator[Finding]:
    if dataset.url is None and not any(place.exists() for place in dataset.places):
        yield wrong(
            f"dataset.source {dataset.name} is not in {dataset.places[0]}/ and needs a registration: register, "
            f"{dataset.instructions}."
        )


def _on_this_machine(setting: str, reading: Reading, plan: Plan) -> Iterator[Finding]:
    path = Path(reading.address)
    try:
        if not path.exists():
            yield wrong(f"{setting} {path} does not exist on this machine; correct the path, or put the file there.")
        elif setting == "dataset.source":
            yield from _images_here(path, reading)
        elif _is_earlier_teacher(setting, reading.address):
            yield from _earlier_teacher(plan)
        elif setting.endswith(".uri") or path.name.endswith(STATE_DICTS):
            yield from _file_here(setting, path, reading)
        elif setting.startswith("the earlier report"):
            standings.read(path)
        else:
            read_manifest(path, _kinds(plan))
    except OSError as error:  # the name is too long, or a folder on the way may not be entered
        yield wrong(f"{setting} {path} cannot be read ({error.strerror}); correct the path, or its permissions.")
    except UserError as error:
        reason = str(error).rstrip(".")
        what = setting.rstrip(" 0123456789").removeprefix("the earlier ")
        yield wrong(f"{setting} {path} cannot be used ({reason}); give the folder of a {what} of an earlier run.")


def _kinds(plan: Plan) -> str:
    """Returns the kinds of artifacts that may lie at the address of an earlier model."""
    return "teacher" if plan.trains else "teacher|distill"


def _images_here(path: Path, reading: Reading) -> Iterator[Finding]:
    if path.is_file():
        yield from _file_here("dataset.source", path, reading)
        return
    if reading.sha256:
        yield wrong(f"dataset.sha256 is the digest of an archive, but {path} is a folder; remove dataset.sha256.")
    names = (found.relative_to(path).as_posix() for found in path.rglob("*") if found.is_file())
    if not _holds_images(names):
        yield wrong(f"dataset.source {path} holds neither images nor archives of images; correct the path.")


def _is_earlier_teacher(setting: str, address: str) -> bool:
    """Whether an address names the artifact of a teacher to start from, a folder; all other weights are files."""
    return setting == "teacher.start_from.uri" and not address.endswith(STATE_DICTS)


def _earlier_teacher(plan: Plan) -> Iterator[Finding]:
    """Compares a recipe's teacher with the one on this machine that it starts from."""
    start = plan.recipe.teacher.start_from
    assert start is not None
    try:
        networks = open_networks(Path(start.uri), "teacher")
        check_earlier_generators(start, plan.recipe.teacher, networks, plan.recipe.dataset.crop_size)
    except UserError as error:
        yield Finding(error, certain=True)


def _file_here(setting: str, path: Path, reading: Reading) -> Iterator[Finding]:
    """Looks at a file that a stage will read, and compares it with its digest."""
    if not path.is_file():
        yield wrong(f"{setting} {path} is a folder, but a file is needed; give the path of the file in it.")
        return
    with path.open("rb") as file:
        empty = not file.read(1)
    if empty:
        yield wrong(f"{setting} {path} is an empty file; fetch it again.")
    elif reading.sha256 and (found := file_sha256(path)) != reading.sha256:
        digest = f"{setting.rpartition('.')[0]}.sha256"
        yield wrong(
            f"{setting} {path} has the SHA-256 {found}, but {digest} is {reading.sha256}; fetch the file again, or "
            f"set {digest} to {found} if this file is right."
        )


def _holds_images(names: Iterable[str]) -> bool:
    return any(is_image_path(PurePosixPath(name)) or ("/" not in name and name.endswith(SUFFIXES)) for name in names)


def _on_the_web(setting: str, address: str) -> Iterator[Finding]:
    try:
        WebFile(Web(patience=LOOKING_SECONDS), address).version()
    except NotThere as error:
        yield wrong(f"{setting}: {error}")
    except UserError as error:
        yield doubtful(f"{setting} {shown(address)} cannot be looked at from here ({str(error).rstrip('.')}).")


def _in_store(setting: str, address: str, plan: Plan) -> Iterator[Finding]:
    try:
        Location.parse(address)
        if plan.in_pods and (reason := store_out_of_sight()):
            yield doubtful(f"{setting} {address} cannot be looked at from here, because {reason}.")
            return
        store = Storage(patience=LOOKING_SECONDS)
        if store.is_file(address):
            return
        names = store.file_names(address)
    except UserError as error:
        yield Finding(type(error)(f"{setting} {address}: {error}"), certain=True)
        return
    if not names:
        yield wrong(f"{setting} {shown(address)} holds nothing; correct the address, or upload what it names.")
    elif setting.endswith(".uri") and not _is_earlier_teacher(setting, address):
        yield wrong(
            f"{setting} {shown(address)} is a folder, but a file is needed; give the address of the file in it."
        )
    elif setting == "dataset.source" and not _holds_images(names):
        yield wrong(
            f"{setting} {shown(address)} holds {len(names)} files, but neither images nor archives of images; correct "
            "the address."
        )


CHECKS: tuple[Callable[[Plan], Iterator[Finding]], ...] = (
    _models,
    _students,
    _publishing,
    _image,
    _local_paths,
    _secret,
    _speed,
    _profiles,
    _checkpoints,
    _root,
    _content,
)
"""The checks that need no cluster, in the order in which their findings are shown."""
