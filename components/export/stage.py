"""The export stage: a trained generator becomes `model.onnx`, checked against PyTorch on held-out images."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from onnx.helper import set_model_props
from torch import Tensor

from components.catlib.artifacts import TEACHER_FILE, Manifest, writing
from components.catlib.config import RGB, ExportConfig, ValuesConfig
from components.catlib.data.batches import evaluation_batches
from components.catlib.data.channels import described
from components.catlib.data.packed import PackedDataset, SplitName
from components.catlib.disk import temporary_folder
from components.catlib.errors import UserError
from components.catlib.exporting.choosing import Choice, Rewrites, choose_rewrites
from components.catlib.exporting.kept_metrics import figures_of, random_statistics
from components.catlib.exporting.metadata import picture_sizes, serving_metadata
from components.catlib.exporting.onnx_file import OnnxModel, export_generator, family_rewrites, generator_model
from components.catlib.exporting.parity import (
    OnnxGenerator,
    Parity,
    batch_dependence,
    compare,
    parity_batches,
    time_alone,
    time_both,
)
from components.catlib.exporting.precisions import Pictures, write_precisions
from components.catlib.exporting.profile_rules import check_profiles, missing_packages
from components.catlib.exporting.profiles import Student, write_profiles
from components.catlib.exporting.quantising import INT8_REWRITES
from components.catlib.exporting.runtimes import installed_runtimes
from components.catlib.fitting import check_channels
from components.catlib.metrics.statistics import RealStatistics, open_statistics
from components.catlib.networks.architecture import INPUT_DESCRIPTIONS, GeneratorArchitecture
from components.catlib.networks.architecture_files import OpenedNetworks, open_networks
from components.catlib.networks.directions import Direction, Domain
from components.catlib.networks.generator import Generator
from components.catlib.networks.macs import paper_macs, parameters, true_macs
from components.catlib.networks.model_files import read_generator
from components.catlib.timing import Measured, cpu_name

logger = logging.getLogger(__name__)

COMPARED_IMAGES = 4
TIMED_REPEATS = 10

CALIBRATION_IMAGES, CONTROL_IMAGES, JUDGED_IMAGES = 32, 8, 32
"""Training images that give the ranges of INT8, further ones on which layers are chosen, held-out ones that judge."""


def run(
    config: ExportConfig,
    *,
    student: Path,
    output: Path,
    dataset: Path | None = None,
    teacher: Path | None = None,
    real_stats: Path | None = None,
) -> None:
    """Exports a generator and checks that the file computes the same images.

    Args:
        config: Operator set, tolerance, rewrites, precisions and profiles.
        student: A distill artifact, a prune artifact with inherited weights, or a teacher. Of two generators (CycleGAN)
            source_to_target is exported.
        output: Where the artifact goes: `model.onnx`, the files of the other profiles, and `export.json`.
        dataset: A dataset artifact, on whose held-out images file and network are compared; None: on noise. Its
            training images calibrate INT8.
        teacher: A teacher artifact whose generator is timed beside the student, if the config asks for precisions;
            `teacher.onnx` is then kept, for reports that time several students in turn.
        real_stats: A real_stats artifact, with which files of less precision are scored as the evaluation scores the
            student; None: with random features.

    Raises:
        UserError: An artifact holds no such generator, the dataset does not fit it, or a profile is not to be had.
        RuntimeError: ONNX Runtime's images differ from PyTorch's, or those of an image alone from those of the same
            image in a batch, by more than the tolerance.
    """
    networks = open_networks(student, "distill|prune|teacher")
    inputs = {"student": networks.manifest}
    direction, input_size = networks.direction, networks.input_size
    generator = read_generator(networks, direction)
    _check_profiles(config, generator.architecture, _values(networks, direction))
    packed = None if dataset is None else PackedDataset.open(dataset)
    noise = _noise(generator.architecture, COMPARED_IMAGES, input_size)
    compared_on, images = "noise", noise
    if packed is not None:
        inputs["dataset"] = packed.manifest
        check_channels(networks, packed, direction)
        compared_on, images = "held-out images", _held_out_images(packed, direction)
    choice = choose_rewrites(
        generator, config.rewrites, image_NCHW=_noise(generator.architecture, 1, input_size), opset=config.opset
    )
    metadata = _metadata(generator.architecture, direction, networks, inputs, packed)
    with writing(output, kind="export", config=config, inputs=inputs) as writer:
        model = export_generator(
            *(generator, writer.folder / "model.onnx"),
            input_size=input_size, opset=config.opset, metadata=metadata, rewrites=choice.rewrites,
        )  # fmt: skip
        exported = OnnxGenerator(model.path)
        step = generator.architecture.size_step if model.any_size else None
        parity = compare(generator, exported, parity_batches(images, size_step=step))
        dependence = batch_dependence(exported, images, _noise(generator.architecture, 1, _size(images), seed=1))
        _check_differences(parity.largest, dependence, config, compared_on=compared_on)
        latency = time_both(generator, exported, images[:1], repeats=TIMED_REPEATS)
        latency |= time_alone(OnnxGenerator(model.path, threads=1), images[:1], repeats=TIMED_REPEATS)
        facts = _facts(model, parity, latency, compared_on=compared_on, tolerance=config.tolerance)
        facts["parity"]["batch_dependence"] = dependence
        facts |= {"direction": direction, "input_size": list(input_size)} | _cost(generator.architecture, input_size)
        facts |= {"sizes": picture_sizes(generator.architecture)} | _values_of_pictures(networks, direction)
        facts["rewrites"] = _rewrites(choice)
        fitting = images if _size(images) == input_size else noise
        exports = Student(generator, input_size, fitting, config.opset, metadata)
        facts["profiles"] = write_profiles(writer.folder, config.profiles, exports, tolerance=config.tolerance)
        if config.precisions:
            timed, scores = _teacher(teacher, inputs, networks), _statistics(real_stats, inputs, direction)
            facts["runtimes"] = _precisions(
                *(writer.folder, config, networks, generator),
                rewrites=choice.rewrites, packed=packed, teacher=timed, statistics=scores,
            )  # fmt: skip
        writer.write_json("export.json", facts)
        writer.summary["metrics"] = {
            "onnx_bytes": facts["bytes"],
            "largest_difference": parity.largest,
            "torch_milliseconds": 1e3 * latency["torch"].median,
            "onnxruntime_milliseconds": 1e3 * latency["onnxruntime"].median,
        }
    _tell(facts)


def _tell(facts: dict[str, Any]) -> None:
    parity, medians = facts["parity"], [1e3 * facts["latency"][name]["median"] for name in ("onnxruntime", "torch")]
    logger.info(
        "model.onnx: %.2f MB, differs from PyTorch by at most %.1e on %s, %.1f ms beside %.1f ms in PyTorch",
        *(facts["bytes"] / 1e6, parity["largest_difference"], parity["compared_on"], *medians),
    )


def _check_profiles(config: ExportConfig, architecture: GeneratorArchitecture, values: dict[str, ValuesConfig]) -> None:
    """Refuses profiles that cannot be written here, or not of this generator."""
    for sentence in missing_packages(config.profiles):
        raise UserError(sentence)
    upsample = getattr(architecture, "upsample", "transposed")
    check_profiles(config.profiles, architecture.family, values, upsample=upsample)


def _check_differences(parity: float, dependence: float, config: ExportConfig, *, compared_on: str) -> None:
    """Refuses a file that computes other images than PyTorch, or whose images depend on each other."""
    if parity > config.tolerance:
        raise RuntimeError(
            f"The ONNX model differs from PyTorch by up to {parity:.2e} on {compared_on}, more than export.tolerance "
            f"{config.tolerance:g} allows; try export.rewrites=none, or another export.opset than {config.opset}."
        )
    if dependence > config.tolerance:
        raise RuntimeError(
            f"The ONNX model's image of the same input changes by up to {dependence:.2e} with what else is in its "
            f"batch, on {compared_on}, more than export.tolerance {config.tolerance:g} allows; norms without running "
            "statistics do that: train a student whose prune.student_norm.track_running_stats is true."
        )


def _teacher(folder: Path | None, inputs: dict[str, Manifest], networks: OpenedNetworks) -> Generator | None:
    """Opens the student's teacher and enters it among the inputs; None if the student itself is a teacher."""
    if folder is None:
        return None
    opened = open_networks(folder, "teacher")
    if opened.manifest.digest() == networks.manifest.digest():
        return None
    inputs["teacher"] = opened.manifest
    return read_generator(opened, networks.direction)


def _statistics(folder: Path | None, inputs: dict[str, Manifest], direction: Direction) -> RealStatistics | None:
    """Opens the statistics of real images and enters them among the inputs; None where none were given."""
    if folder is None:
        return None
    opened = open_statistics(folder)
    inputs["real_stats"] = opened.manifest
    return opened.read(direction)


def _precisions(
    folder: Path,
    config: ExportConfig,
    networks: OpenedNetworks,
    generator: Generator,
    *,
    rewrites: Rewrites,
    packed: PackedDataset | None,
    teacher: Generator | None,
    statistics: RealStatistics | None,
) -> dict[str, Any]:
    """Writes files of less precision beside `model.onnx`; returns what stands about them in `export.json`."""
    size, cores = networks.input_size, torch.get_num_threads()
    fitting: Rewrites = tuple(name for name in rewrites if name in INT8_REWRITES)
    plain = generator_model(generator, input_size=size, opset=config.opset, rewrites=fitting)
    written = onnx.load(folder / "model.onnx")
    set_model_props(plain, {each.key: each.value for each in written.metadata_props})
    with temporary_folder("export-") as workspace:
        timed = None
        if teacher is not None:
            timed = folder / TEACHER_FILE
            every = family_rewrites(teacher) if rewrites else ()
            onnx.save(generator_model(teacher, input_size=size, opset=config.opset, rewrites=every), timed)
        return write_precisions(
            folder,
            plain,
            config.precisions,
            pictures=_pictures(generator.architecture, packed, networks.direction, size, statistics),
            runtimes=installed_runtimes(),
            threads=(1, cores) if cores > 1 else (1,),
            workspace=workspace,
            teacher=timed,
        )


def _pictures(
    architecture: GeneratorArchitecture,
    packed: PackedDataset | None,
    direction: Direction,
    size: tuple[int, int],
    statistics: RealStatistics | None,
) -> Pictures:
    """Returns the images that files of less precision are made and judged with; noise alone without a dataset."""
    if packed is None:
        return Pictures(None, None, _noise(architecture, COMPARED_IMAGES, size))
    training = _inputs(packed, direction, "train", CALIBRATION_IMAGES + CONTROL_IMAGES)
    held_out = _inputs(packed, direction, "test", JUDGED_IMAGES)
    kept = min(CALIBRATION_IMAGES, max(1, len(training) - CONTROL_IMAGES))  # of one image, it calibrates and controls
    statistics = statistics or random_statistics(packed, direction)
    return Pictures(
        training[:kept],
        training[kept:] if len(training) > kept else training,
        held_out,
        functools.partial(figures_of, dataset=packed, direction=direction, statistics=statistics, limit=JUDGED_IMAGES),
    )


def _inputs(packed: PackedDataset, direction: Direction, split: SplitName, count: int) -> Tensor:
    """Returns the first inputs of a split, [N, C, H, W]."""
    (batch,) = evaluation_batches(packed, batch_size=count, split=split, limit=count)
    return batch.source if direction.input is Domain.SOURCE else batch.target


def _noise(architecture: GeneratorArchitecture, count: int, size: tuple[int, int], *, seed: int = 0) -> Tensor:
    return torch.from_numpy(architecture.example_input(count, size, seed=seed))


def _size(images_NCHW: Tensor) -> tuple[int, int]:
    return images_NCHW.shape[2], images_NCHW.shape[3]


def _rewrites(choice: Choice) -> dict[str, Any]:
    """Returns which rewrites the file has, and how many times faster than the plain graph it was in ONNX Runtime."""
    return {
        "used": list(choice.rewrites),
        "times_faster": choice.times_faster,
        "measured": {", ".join(names) or "none": ratio for names, ratio in choice.measured.items()},
        "threads": 1,
    }


def _held_out_images(dataset: PackedDataset, direction: Direction) -> Tensor:
    """Returns up to four test images of the generator's input domain, [N, C, H, W]."""
    batches = evaluation_batches(dataset, batch_size=COMPARED_IMAGES, limit=COMPARED_IMAGES)
    images = [batch.source if direction.input is Domain.SOURCE else batch.target for batch in batches]
    if not images or not len(images[0]):
        raise UserError(f"Dataset {dataset.folder} has no test images to compare the export on; leave the dataset out.")
    return images[0]


def _values_of_pictures(networks: OpenedNetworks, direction: Direction) -> dict[str, dict[str, Any]]:
    """Returns `input_values` and `output_values`: what numbers mean where they are pictures."""
    return {f"{end}_values": each.model_dump(mode="json") for end, each in _values(networks, direction).items()}


def _values(networks: OpenedNetworks, direction: Direction) -> dict[str, ValuesConfig]:
    """Returns what numbers mean, by "input" and "output" where these are pictures."""
    values = {"output": networks.values.get(direction.output.value, RGB)}
    if networks.architectures.generator(direction).input_kind == "images":
        values["input"] = networks.values.get(direction.input.value, RGB)
    return values


def _metadata(
    architecture: GeneratorArchitecture,
    direction: Direction,
    networks: OpenedNetworks,
    inputs: dict[str, Manifest],
    dataset: PackedDataset | None = None,
) -> dict[str, str]:
    """Returns what a user of the file needs to know, kept within it."""
    input_size = networks.input_size
    metadata = {
        "name": f"{architecture.family} generator, {direction.replace('_', ' ')}",
        "input": INPUT_DESCRIPTIONS[architecture.input_kind],
        "output": INPUT_DESCRIPTIONS["images"],
        "input_size": f"{input_size[0]}x{input_size[1]} (height x width)",
        "student": inputs["student"].digest(),
    }
    values = _values(networks, direction)
    metadata |= {end: f"float32, NCHW, -1 to 1: {described(each)}" for end, each in values.items() if each != RGB}
    metadata |= serving_metadata(architecture, values, dataset)
    if "dataset" in inputs:
        settings = inputs["dataset"].config
        metadata["dataset"] = f"{settings.get('source')}, {settings.get('direction')}"
    return metadata | {name: str(value) for name, value in _cost(architecture, input_size).items()}


def _cost(architecture: GeneratorArchitecture, input_size: tuple[int, int]) -> dict[str, int]:
    return {
        "paper_macs": paper_macs(architecture, *input_size),
        "true_macs": true_macs(architecture, *input_size),
        "parameters": parameters(architecture),
    }


def _facts(
    model: OnnxModel, parity: Parity, latency: dict[str, Measured], *, compared_on: str, tolerance: float
) -> dict[str, Any]:
    return {
        "file": model.path.name,
        "bytes": model.path.stat().st_size,
        "opset": model.opset,
        "input": {"name": "image", "shape": list(model.input_shape)},
        "output": {"name": "translated", "shape": list(model.output_shape)},
        "any_batch": isinstance(model.input_shape[0], str),
        "any_size": model.any_size,
        "operators": model.operators,
        "parity": {
            "compared_on": compared_on,
            "shapes": [list(shape) for shape in parity.shapes],
            "largest_difference": parity.largest,
            "mean_difference": parity.mean,
            "tolerance": tolerance,
        },
        "latency": {
            name: {figure: getattr(timed, figure) for figure in ("median", "low", "high", "p95", "threads")}
            for name, timed in latency.items()
        }
        | {"device": cpu_name(), "unit": "seconds", "batch": 1, "repeats": TIMED_REPEATS},
        "versions": {
            "torch": str(torch.__version__),
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }
