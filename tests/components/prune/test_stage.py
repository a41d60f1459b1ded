import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from components.catlib.artifacts import read_manifest, writing
from components.catlib.config import NormConfig, Pix2PixConfig, PruneConfig, WeightsConfig
from components.catlib.errors import UserError
from components.catlib.latency.table import LatencyTable, open_table
from components.catlib.networks.architecture_files import read_architectures, write_architecture
from components.catlib.networks.families import Architecture, build_generator
from components.catlib.networks.macs import paper_macs, parameters, true_macs
from components.catlib.networks.model_files import write_networks
from components.prune.latency import write_table
from components.prune.stage import run
from tests.components.catlib.latency.tables import table, written
from tests.components.catlib.networks.sample_architectures import inception, spade
from tests.components.opened import has_weights, read_generator

BATCH = NormConfig(kind="batch", track_running_stats=True)


def write_teacher(folder: Path, generators: dict[str, Architecture], size: tuple[int, int] = (32, 32)) -> Path:
    networks = {}
    for seed, (direction, architecture) in enumerate(generators.items()):
        torch.manual_seed(seed)
        networks[direction] = network = build_generator(architecture)
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                if tensor.ndim == 1 and name.endswith(("weight", "bias", "running_mean")):
                    tensor.normal_()
    with writing(folder, kind="teacher", config=Pix2PixConfig()) as writer:
        write_networks(writer.folder, generators=networks, discriminators={}, input_size=size)
    return folder


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return write_teacher(tmp_path / "teacher", {"source_to_target": inception(norm=BATCH)})


def test_the_artifact_of_a_fresh_student(teacher: Path, tmp_path: Path) -> None:
    run(PruneConfig(min_channels=2), teacher=teacher, budget="0.3x", output=tmp_path / "student")
    manifest = read_manifest(tmp_path / "student", "prune")
    assert sorted(manifest.files) == ["architecture.json", "pruning.json"]
    assert manifest.inputs == {"teacher": read_manifest(teacher).digest()}
    assert not has_weights(tmp_path / "student", "source_to_target")

    architectures = read_architectures(tmp_path / "student")
    assert architectures.input_size == (32, 32)
    assert list(architectures.generators) == ["source_to_target"]
    student, original = architectures.generators["source_to_target"], inception(norm=BATCH)
    macs, teacher_macs = paper_macs(student, 32, 32), paper_macs(original, 32, 32)
    assert 0.2 * teacher_macs < macs <= 0.3 * teacher_macs
    described = json.loads((tmp_path / "student" / "pruning.json").read_text())
    assert described["student"]["paper_macs"] == macs
    assert described["budget"] == "0.3x"
    assert manifest.summary["generator"] == "source_to_target"
    assert manifest.summary["metrics"] == {
        "teacher_macs": teacher_macs,
        "student_macs": macs,
        "macs_ratio": macs / teacher_macs,
        "teacher_true_macs": true_macs(original, 32, 32),
        "student_true_macs": true_macs(student, 32, 32),
        "teacher_parameters": parameters(original),
        "parameters": parameters(student),
        "threshold": described["threshold"],
    }


@pytest.mark.parametrize("original", [inception(norm=BATCH), spade(norm=BATCH)], ids=["inception", "spade"])
def test_an_inherited_student_at_the_full_budget_is_the_teacher(tmp_path: Path, original: Architecture) -> None:
    size = (64, 128)
    folder = write_teacher(tmp_path / "teacher", {"source_to_target": original}, size)
    config = PruneConfig(min_channels=1, student_init="inherit")
    run(config, teacher=folder, budget="1x", output=tmp_path / "student")
    networks = [read_generator(path, "source_to_target") for path in (folder, tmp_path / "student")]
    with torch.no_grad():
        outputs = [network(torch.ones(1, original.in_channels, *size)) for network in networks]
    assert torch.equal(*outputs)
    summary = read_manifest(tmp_path / "student").summary
    assert "nothing was cut" in summary["notes"][0]
    assert "threshold" not in summary["metrics"]
    assert summary["metrics"]["macs_ratio"] == 1


@pytest.mark.parametrize("original", [inception(norm=BATCH), spade(norm=BATCH)], ids=["inception", "spade"])
def test_an_inherited_student_has_the_surviving_weights(tmp_path: Path, original: Architecture) -> None:
    folder = write_teacher(tmp_path / "teacher", {"source_to_target": original}, (64, 128))
    config = PruneConfig(min_channels=1, student_init="inherit")
    run(config, teacher=folder, budget="0.3x", output=tmp_path / "student")
    student = read_generator(tmp_path / "student", "source_to_target")
    weights = load_file(folder / "generator_source_to_target.safetensors")
    described = json.loads((tmp_path / "student" / "pruning.json").read_text())
    compared = 0
    for layer in described["layers"]:
        if layer["kept"]:
            found = student.state_dict()[f"{layer['student_name']}.weight"].numpy()
            np.testing.assert_array_equal(found, weights[f"{layer['name']}.weight"][layer["kept"]])
            compared += 1
    assert compared > 10


def test_either_generator_of_a_cyclegan(tmp_path: Path) -> None:
    both = {"source_to_target": inception(), "target_to_source": inception()}
    folder = write_teacher(tmp_path / "teacher", both)
    thresholds = []
    for direction in both:
        output = tmp_path / direction
        config = PruneConfig.model_validate({"generator": direction, "min_channels": 1})
        run(config, teacher=folder, budget="0.3x", output=output)
        assert list(read_architectures(output).generators) == [direction]
        thresholds.append(read_manifest(output).summary["metrics"]["threshold"])
    assert thresholds[0] != thresholds[1]


def test_the_students_norm(teacher: Path, tmp_path: Path) -> None:
    norm = NormConfig(kind="instance")
    run(PruneConfig(min_channels=1, student_norm=norm), teacher=teacher, budget="0.5x", output=tmp_path / "student")
    assert read_architectures(tmp_path / "student").generators["source_to_target"].norm == norm


@pytest.mark.parametrize(
    ("config", "budget", "message"),
    [
        ({"min_channels": 1}, "1000", "cannot be reached: the smallest student has"),
        ({"min_channels": 16}, "0.5x", "prune.min_channels is 16"),
        ({"min_channels": 1}, "plenty", "not a compute budget"),
        (
            {"generator": "target_to_source"},
            "0.5x",
            "generator is target_to_source, .* has only source_to_target",
        ),
    ],
)
def test_a_mistake_leaves_nothing_behind(teacher: Path, tmp_path: Path, config, budget: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(PruneConfig.model_validate(config), teacher=teacher, budget=budget, output=tmp_path / "student")
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_only_a_teacher_with_weights_can_be_pruned(teacher: Path, tmp_path: Path) -> None:
    config = PruneConfig(min_channels=1)
    run(config, teacher=teacher, budget="0.5x", output=tmp_path / "student")
    with pytest.raises(UserError, match="is a prune artifact, expected a teacher artifact"):
        run(config, teacher=tmp_path / "student", budget="0.5x", output=tmp_path / "other")
    with writing(tmp_path / "empty", kind="teacher", config=Pix2PixConfig()) as writer:
        write_architecture(writer.folder, "source_to_target", inception(), (32, 32))
    with pytest.raises(UserError, match="no weights of the generator source_to_target"):
        run(config, teacher=tmp_path / "empty", budget="0.5x", output=tmp_path / "other")


def test_a_diverged_teacher_is_named(teacher: Path, tmp_path: Path) -> None:
    file = teacher / "generator_source_to_target.safetensors"
    weights = load_file(file)
    weights["down_sampling.5.weight"][0] = np.nan
    save_file(weights, file)
    with pytest.raises(UserError, match=r"down_sampling\.5\.weight"):
        run(PruneConfig(min_channels=1), teacher=teacher, budget="0.5x", output=tmp_path / "student")


def test_the_same_teacher_gives_the_same_student(teacher: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        run(
            PruneConfig(min_channels=1, student_init="inherit"),
            teacher=teacher, budget="0.4x", output=tmp_path / name,
        )  # fmt: skip
    assert read_manifest(tmp_path / "one").files == read_manifest(tmp_path / "other").files


@pytest.fixture
def latency_table(tmp_path: Path) -> Path:
    made = table(inception(norm=BATCH), (32, 32), lambda kind, read, out: 0.01 + 0.0001 * read * out)
    return written(tmp_path / "table.json", made)


def test_a_table_that_cannot_be_written_is_not_measured(latency_table: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def measure() -> LatencyTable:
        asked.append(1)
        return open_table(WeightsConfig(uri=str(latency_table)))[0]

    with pytest.raises(UserError, match=r"Latency table .*table\.json/new\.json cannot be written"):
        write_table(measure, latency_table / "new.json")
    assert asked == []
    assert write_table(measure, tmp_path / "folder" / "new.json") == measure()
    assert open_table(WeightsConfig(uri=str(tmp_path / "folder" / "new.json")))[0] == measure()


def test_a_budget_in_milliseconds(teacher: Path, latency_table: Path, tmp_path: Path) -> None:
    uncut = open_table(WeightsConfig(uri=str(latency_table)))[0].latency(inception(norm=BATCH), (32, 32))
    config = PruneConfig.model_validate({"min_channels": 1, "latency_table": {"uri": str(latency_table)}})
    run(config, teacher=teacher, budget=f"{uncut / 2:g}ms", output=tmp_path / "student")
    latency = json.loads((tmp_path / "student" / "pruning.json").read_text())["latency"]
    assert 0.4 * uncut < latency["predicted"] <= uncut / 2
    assert latency["table_sha256"] == hashlib.sha256(latency_table.read_bytes()).hexdigest()
    metrics = read_manifest(tmp_path / "student").summary["metrics"]
    assert metrics["predicted_milliseconds"] == latency["predicted"]
    with pytest.raises(UserError, match=r"Budget 1ms needs a table .*measure-latency"):
        run(PruneConfig(min_channels=1), teacher=teacher, budget="1ms", output=tmp_path / "other")
    wrong = PruneConfig.model_validate(
        {"min_channels": 1, "latency_table": {"uri": str(latency_table), "sha256": "0" * 64}}
    )
    with pytest.raises(UserError, match="it is another file, or damaged"):
        run(wrong, teacher=teacher, budget="1ms", output=tmp_path / "other")
    run(wrong, teacher=teacher, budget="0.9x", output=tmp_path / "other")  # reads no table


@pytest.mark.parametrize("budget", ["0.5x", "1.5ms"])
def test_the_stage_runs_without_torch(teacher: Path, latency_table: Path, tmp_path: Path, budget: str) -> None:
    code = (
        "import sys; from pathlib import Path; from components.catlib.config import PruneConfig; "
        "from components.prune.stage import run; "
        "config = {'min_channels': 1, 'student_init': 'inherit', 'latency_table': {'uri': sys.argv[4]}}; "
        "run(PruneConfig.model_validate(config), teacher=Path(sys.argv[1]), budget=sys.argv[3], "
        "output=Path(sys.argv[2])); sys.exit(bool({'torch', 'onnxruntime'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(teacher), str(tmp_path / "student"), budget, str(latency_table)]
    assert subprocess.run(command, check=False).returncode == 0
    assert has_weights(tmp_path / "student", "source_to_target")
