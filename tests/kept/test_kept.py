"""What version 0.1.0 wrote is still read: artifacts of every kind, and two trainings that were interrupted then go on.

README.md beside this file says what lies here and how it was made. A test that fails here means that somebody's teacher
of last year, or somebody's training of last night, is lost.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from safetensors.numpy import load_file
from torch import Tensor

from components.__main__ import main
from components.catlib.artifacts import read_manifest, verify_checksums
from components.catlib.config import (
    CycleGanConfig,
    CycleGanDistillConfig,
    Pix2PixConfig,
    Pix2PixDistillConfig,
    SpadeConfig,
    SpadeDistillConfig,
)
from components.catlib.config.upgrading import upgraded
from components.catlib.data.packed import PackedDataset
from components.catlib.networks.architecture_files import read_architectures
from components.catlib.networks.families import build_generator
from components.catlib.recipes import load_recipe
from components.fetch import stage as fetch_stage
from tests.components.opened import has_weights, read_discriminator, read_generator, read_statistics

KEPT = Path(__file__).parent
SETTINGS = json.loads((KEPT / "settings.json").read_text())
ARTIFACTS: dict[str, dict[str, Any]] = {made["output"]: made for made in SETTINGS["artifacts"]}
CHECKPOINTS: dict[str, dict[str, Any]] = {made["folder"]: made for made in SETTINGS["checkpoints"]}
MODELS = {
    "pix2pix": (Pix2PixConfig, Pix2PixDistillConfig),
    "cyclegan": (CycleGanConfig, CycleGanDistillConfig),
    "spade": (SpadeConfig, SpadeDistillConfig),
}
MOST_BYTES = 2_000_000

WEIGHTS_TOLERANCE = 1e-4
"""Of two trainings on CPUs of different kinds; on one machine they are equal. Every step moves weights by 1e-3."""

NOISE = {("discriminator_target.safetensors", "model.2.bias")}
"""A norm takes this bias away again, so its gradient is a rounding error, which Adam makes a whole step of."""


def of_kind(*kinds: str) -> list[str]:
    return [folder for folder, made in ARTIFACTS.items() if made["stage"] in kinds]


def networks() -> list[tuple[str, str]]:
    """Lists folder and name of every network with weights."""
    return [
        (folder, path.stem)
        for folder in of_kind("teacher", "prune", "distill")
        for path in sorted((KEPT / folder).glob("*.safetensors"))
    ]


def numbers(channels: int, size: tuple[int, int]) -> Tensor:
    """Makes an input image out of arithmetic, float32 [1, channels, height, width] in [-1, 1]."""
    shape = (1, channels, *size)
    return torch.sin(0.37 * torch.arange(math.prod(shape), dtype=torch.float64)).reshape(shape).float()


def sample(output: Any) -> np.ndarray:
    """Takes a few numbers out of what a network makes: at most 200 of every tensor, evenly spread."""
    tensors = [output] if isinstance(output, Tensor) else [tensor for scale in output for tensor in scale]
    return np.concatenate([tensor.flatten()[:: 1 + tensor.numel() // 200].numpy() for tensor in tensors])


@torch.inference_mode()
def outputs_of(folder: Path, name: str) -> np.ndarray:
    """Loads a network and runs it once."""
    role, _, which = name.partition("_")
    network = (read_generator if role == "generator" else read_discriminator)(folder, which)
    architecture: Any = network.architecture
    channels = getattr(architecture, "in_channels", None) or architecture.semantic_channels
    return sample(network(numbers(channels, read_architectures(folder).input_size)))


def family_of(made: dict[str, Any]) -> str:
    """Returns the family of the teacher that an artifact comes from, or is."""
    teacher = made if made["stage"] == "teacher" else ARTIFACTS[made["inputs"].get("teacher", "paired/teacher")]
    return teacher["sections"]["teacher"]["family"]


def recipe_of(made: dict[str, Any], folder: Path) -> Path:
    """Writes the settings of then as a recipe."""
    sections = {name: section for name, section in made["sections"].items() if name != "report"}
    family = family_of(made)
    usual: dict[str, Any] = {"family": family} | ({"perceptual": 0} if family == "spade" else {})
    for name, model in zip(("teacher", "distill"), MODELS[family], strict=True):
        sections[name] = usual | upgraded(sections.get(name, {}), model)
    page = made["sections"].get("report", {})
    path = folder / "recipe.yaml"
    path.write_text(
        yaml.safe_dump({"name": "kept", "description": "Kept.", "budgets": ["0.5x"], **sections, **page}),
        encoding="utf-8",
    )
    return path


def run_again(made: dict[str, Any], folder: Path, **others: str | Path) -> Path:
    """Runs a stage with the settings of then and, but for the given ones, the inputs of then; returns its output."""
    inputs = {name: KEPT / address for name, address in made["inputs"].items()}
    output = folder / "output"
    command = [made["stage"], "--recipe", recipe_of(made, folder), "--output", output]
    for name, value in (inputs | made.get("options", {}) | others).items():
        command += ["--" + name.replace("_", "-"), value]
    assert main([str(word) for word in command]) == 0
    return output


# ------------------------------------------------------------------------------------------------------ what lies here


def test_every_kind_of_artifact_is_here():
    kinds = {"dataset", "real_stats", "teacher", "prune", "distill", "evaluate", "export", "report"}
    assert {made["stage"] for made in ARTIFACTS.values()} == kinds
    assert {made["stage"] for made in CHECKPOINTS.values()} == {"teacher", "distill"}


def test_the_folder_stays_small():
    files = [path for path in KEPT.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES


def test_nothing_tells_of_the_machine_that_made_it():
    for path in KEPT.rglob("*"):
        if path.is_file() and path.suffix not in {".py", ".pyc"}:
            content = path.read_bytes()
            assert not [place for place in (b"/tmp/", b"/root/", b"/home/", b"/work/") if place in content], path


# ---------------------------------------------------------------------------------------------------------- artifacts


@pytest.mark.parametrize("folder", ARTIFACTS)
def test_artifact_is_read_and_undamaged(folder: str):
    manifest = read_manifest(KEPT / folder, ARTIFACTS[folder]["stage"])
    verify_checksums(KEPT / folder, manifest)
    assert manifest.kind == ARTIFACTS[folder]["stage"]
    assert manifest.files


@pytest.mark.parametrize("folder", ARTIFACTS)
def test_digests_are_those_by_which_artifacts_name_each_other(folder: str):
    named = set(read_manifest(KEPT / folder).inputs.values())
    assert named == {read_manifest(KEPT / origin).digest() for origin in ARTIFACTS[folder]["inputs"].values()}


@pytest.mark.parametrize("folder", ARTIFACTS)
def test_settings_are_still_valid(folder: str, tmp_path: Path):
    load_recipe(str(recipe_of(ARTIFACTS[folder], tmp_path)))


@pytest.mark.parametrize(
    ("folder", "pairing", "in_channels", "crop_size"),
    [("paired", "paired", 3, (32, 32)), ("unpaired", "unpaired", 3, (16, 16)), ("labels", "labels", 33, (32, 32))],
)
def test_dataset_opens(folder: str, pairing: str, in_channels: int, crop_size: tuple[int, int]):
    dataset = PackedDataset.open(KEPT / folder / "dataset")
    assert (dataset.pairing, dataset.in_channels, dataset.crop_size) == (pairing, in_channels, crop_size)
    assert dataset.num_labels == (32 if pairing == "labels" else None)
    assert dataset.dont_care_plane == (pairing == "labels")
    for name, size in {"train": dataset.load_size, "test": crop_size}.items():
        split = dataset.split("train" if name == "train" else "test")
        assert split.target.shape == (4, *size, 3)
        assert split.source.shape == ((4, *size) if pairing == "labels" else (4, *size, 3))
        assert len(split.names) == len(split.target_names) == 4
        assert split.target.std() > 1


@pytest.mark.parametrize(
    ("folder", "direction", "count"),
    [
        ("paired", "source_to_target", 4),
        ("unpaired", "source_to_target", 8),
        ("unpaired", "target_to_source", 8),
    ],
)
def test_statistics_are_read_and_belong_to_the_feature_network(folder: str, direction: str, count: int):
    statistics = read_statistics(KEPT / folder / "real_stats", direction)
    assert statistics.count == count
    assert statistics.features.shape == (count, statistics.identity.dims)
    np.testing.assert_allclose(statistics.mu, statistics.features.astype(np.float64).mean(axis=0))
    assert statistics.sigma.shape == (statistics.identity.dims, statistics.identity.dims)
    assert statistics.network.identity == statistics.identity


def test_directions_have_statistics_of_their_own():
    towards, back = (
        read_statistics(KEPT / "unpaired/real_stats", direction)
        for direction in ("source_to_target", "target_to_source")
    )
    assert ("target" in towards.protocol, "source" in back.protocol) == (True, True)
    assert np.abs(towards.mu - back.mu).max() > 0.1


@pytest.mark.parametrize(("folder", "name"), networks())
def test_network_computes_what_it_did(folder: str, name: str):
    with np.load(KEPT / "outputs.npz") as expected:
        assert expected[f"{folder}/{name}"].std() > 1e-3
        np.testing.assert_allclose(outputs_of(KEPT / folder, name), expected[f"{folder}/{name}"], atol=1e-5, rtol=1e-5)


def test_student_without_weights_is_an_architecture():
    folder = KEPT / "paired/prune-fresh"
    architectures = read_architectures(folder)
    assert not has_weights(folder, "source_to_target")
    student = build_generator(architectures.generator("source_to_target"))
    assert student(numbers(3, architectures.input_size)).shape == (1, 3, 32, 32)
    assert list(read_architectures(KEPT / "unpaired/prune").generators) == ["target_to_source"]


def test_onnx_file_computes_what_the_student_does():
    session = onnxruntime.InferenceSession(KEPT / "paired/export/model.onnx", providers=["CPUExecutionProvider"])
    image = numbers(3, (32, 32))
    (translated,) = session.run(["translated"], {"image": image.numpy()})
    with torch.inference_mode():
        expected = read_generator(KEPT / "paired/distill", "source_to_target")(image)
    np.testing.assert_allclose(translated, expected.numpy(), atol=1e-5)
    facts = json.loads((KEPT / "paired/export/export.json").read_text())
    assert (facts["direction"], facts["input_size"]) == ("source_to_target", [32, 32])


# ------------------------------------------------------------------------------------------------- stages go on from it


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared was made on a CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_teacher_is_fetched_as_it_is(tmp_path: Path):
    fetch_stage.run(address=str(KEPT / "paired/teacher"), kind="teacher", output=tmp_path / "teacher")
    assert read_manifest(tmp_path / "teacher").digest() == read_manifest(KEPT / "paired/teacher").digest()


@pytest.mark.parametrize("folder", of_kind("prune"))
def test_teacher_is_pruned_to_the_same_student(folder: str, tmp_path: Path):
    again = run_again(ARTIFACTS[folder], tmp_path)
    assert read_architectures(again) == read_architectures(KEPT / folder)
    for path in (KEPT / folder).glob("*.safetensors"):
        expected, found = load_file(path), load_file(again / path.name)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("student", of_kind("prune"))
def test_student_is_distilled(student: str, tmp_path: Path):
    teacher = ARTIFACTS[student]["inputs"]["teacher"]
    inputs = {"teacher": teacher, "student": student} | ARTIFACTS[teacher]["inputs"]
    again = run_again(ARTIFACTS["labels/distill"] | {"inputs": inputs}, tmp_path)
    manifest = read_manifest(again, "distill")
    assert manifest.summary["metrics"]["steps"] == 2
    assert read_architectures(again).generators == read_architectures(KEPT / student).generators
    assert manifest.inputs["student"] == read_manifest(KEPT / student).digest()


def test_report_tells_of_the_kept_run(tmp_path: Path):
    kept = KEPT / "paired/report"
    again = run_again(ARTIFACTS["paired/report"], tmp_path)
    expected, found = read_manifest(kept, "report").summary, read_manifest(again, "report").summary
    assert found["students"] == expected["students"]
    for name, value in expected["metrics"].items():
        assert name == "page_bytes" or found["metrics"][name] == pytest.approx(value, rel=1e-6), name
    for path in (path for path in (kept / "students").rglob("*") if path.is_file()):
        assert (again / path.relative_to(kept)).read_bytes() == path.read_bytes()
    evaluation = json.loads((KEPT / "paired/evaluate/metrics.json").read_text())
    assert expected["metrics"]["l1"] == evaluation["student"]["l1"]


def test_student_is_evaluated_as_it_was(tmp_path: Path):
    again = run_again(ARTIFACTS["paired/evaluate"], tmp_path)
    expected, found = (
        json.loads((folder / "metrics.json").read_text()) for folder in (KEPT / "paired/evaluate", again)
    )
    for network in ("student", "teacher"):
        for name, value in expected[network].items():
            if isinstance(value, int | float):
                assert found[network][name] == pytest.approx(value, rel=1e-3), (network, name)


@pytest.mark.parametrize("folder", CHECKPOINTS)
def test_interrupted_training_goes_on(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = CHECKPOINTS[folder]
    shutil.copytree(KEPT / folder, tmp_path / "checkpoint")
    resumed = run_again(made, tmp_path, checkpoint=tmp_path / "checkpoint")
    assert f"resumed from the checkpoint of step {made['step']}" in capsys.readouterr().err
    summary, whole = read_manifest(resumed, made["stage"]).summary, KEPT / made["uninterrupted"]
    assert summary["metrics"]["steps"] == made["steps"] > made["step"]
    assert {kept["step"] for kept in summary["kept"].values()} == {made["steps"]}
    files = sorted(path.name for path in whole.glob("*.safetensors"))
    assert files == sorted(path.name for path in resumed.glob("*.safetensors"))
    for file in files:
        expected, found = load_file(whole / file), load_file(resumed / file)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert np.isfinite(found[name]).all(), name
            if (file, name) not in NOISE:
                np.testing.assert_allclose(found[name], array, rtol=0, atol=WEIGHTS_TOLERANCE, err_msg=f"{file} {name}")
    reported = [json.loads(line) for line in (resumed / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in reported if "scores" in record] == [made["step"], made["steps"]]
