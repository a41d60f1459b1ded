import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from components.__main__ import main
from components.catlib.artifacts import read_manifest, writing
from components.catlib.config import (
    DatasetConfig,
    ExportConfig,
    InceptionConfig,
    NormConfig,
    Pix2PixDistillConfig,
    PruneConfig,
    RealStatsConfig,
    validate,
)
from components.catlib.config.student import Rewrite
from components.catlib.data.packed import PackedDataset
from components.catlib.errors import UserError
from components.catlib.exporting.metadata import picture_sizes, serving_metadata
from components.catlib.exporting.onnx_file import OnnxModel, export_generator
from components.catlib.networks import model_files
from components.catlib.networks.architecture_files import write_architecture
from components.catlib.networks.families import architecture_from_config, build_generator
from components.catlib.networks.generator import Generator
from components.catlib.networks.initialisation import initialise
from components.catlib.networks.model_files import write_networks
from components.catlib.reporting import origins, results
from components.catlib.reporting.formatting import milliseconds
from components.catlib.reporting.runtimes import runtime_table
from components.dataset.stage import run as prepare_dataset
from components.export.stage import run
from components.real_stats.stage import run as prepare_statistics
from tests.components.catlib.exporting.broken_files import change_norm, change_pad, change_weight
from tests.components.catlib.exporting.small_generators import spade
from tests.components.opened import read_generator

ROOT = Path(__file__).parents[3]
SIZE = (16, 20)
ARCHITECTURE = architecture_from_config(
    InceptionConfig(base_channels=2, num_blocks=1, channels_reduction_factor=4, kernel_sizes=(3,)),
    in_channels=3,
    out_channels=3,
    crop_size=SIZE,
)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "distilled"
    torch.manual_seed(1)
    with writing(folder, kind="distill", config=Pix2PixDistillConfig()) as writer:
        network = build_generator(ARCHITECTURE)
        write_networks(writer.folder, generators={"source_to_target": network}, discriminators={}, input_size=SIZE)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    random = np.random.default_rng(0)
    for split, count in (("train", 2), ("test", 3)):
        (folder / "images" / split).mkdir(parents=True)
        for i in range(count):
            pair = random.integers(0, 256, (SIZE[0], 2 * SIZE[1], 3), dtype=np.uint8)
            Image.fromarray(pair).save(folder / "images" / split / f"{i}.png")
    config = DatasetConfig(source=str(folder / "images"), layout="combined", load_size=SIZE, crop_size=SIZE)
    prepare_dataset(config, output=folder / "packed")
    return folder / "packed"


@pytest.fixture(scope="module")
def exported(student: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("export") / "exported"
    run(ExportConfig(), student=student, dataset=dataset, output=output)
    return output


def test_the_file_computes_the_student(exported: Path, student: Path) -> None:
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    image = np.random.default_rng(1).uniform(-1, 1, (2, 3, 24, 16)).astype(np.float32)
    (translated,) = session.run(["translated"], {"image": image})
    with torch.no_grad():
        expected = read_generator(student, "source_to_target")(torch.from_numpy(image))
    np.testing.assert_allclose(translated, expected, atol=1e-5)


def test_export_json_says_what_was_checked(exported: Path) -> None:
    facts = json.loads((exported / "export.json").read_text())
    assert facts["bytes"] == (exported / "model.onnx").stat().st_size
    assert facts["opset"] == 20
    assert facts["any_batch"] and facts["any_size"]
    assert facts["parity"]["compared_on"] == "held-out images"
    assert facts["parity"]["shapes"][:2] == [[1, 3, 16, 20], [3, 3, 16, 20]]
    assert 0 < facts["parity"]["largest_difference"] < 1e-5
    assert facts["latency"]["onnxruntime"]["median"] > 0 < facts["latency"]["torch"]["median"]
    assert facts["paper_macs"] > facts["true_macs"] > 0
    rewrites = facts["rewrites"]
    assert rewrites["used"] == list(get_args(Rewrite))
    assert rewrites["measured"] == {", ".join(rewrites["used"]): rewrites["times_faster"]}
    assert rewrites["times_faster"] > 0
    assert facts["operators"]["DepthToSpace"] == 1


def test_an_export_is_reproducible(exported: Path, student: Path, dataset: Path, tmp_path: Path) -> None:
    run(ExportConfig(), student=student, dataset=dataset, output=tmp_path / "again")
    assert (tmp_path / "again/model.onnx").read_bytes() == (exported / "model.onnx").read_bytes()


def test_precisions_leave_the_file_as_it_is_and_time_the_teacher(
    exported: Path, student: Path, dataset: Path, tmp_path: Path
) -> None:
    with writing(tmp_path / "teacher", kind="teacher", config=Pix2PixDistillConfig()) as writer:
        network = build_generator(ARCHITECTURE)
        write_networks(writer.folder, generators={"source_to_target": network}, discriminators={}, input_size=SIZE)
    config = ExportConfig(precisions=("fp16", "int8"))
    prepare_statistics(RealStatsConfig(features="random"), dataset=dataset, output=tmp_path / "real-stats")
    given = {"student": student, "dataset": dataset, "teacher": tmp_path / "teacher"}
    run(config, **given, real_stats=tmp_path / "real-stats", output=tmp_path / "out")
    assert (tmp_path / "out/model.onnx").read_bytes() == (exported / "model.onnx").read_bytes()
    facts = json.loads((tmp_path / "out/export.json").read_text())["runtimes"]
    assert {row["precision"] for row in facts["rows"]} == {"float32", "fp16", "int8", "teacher"}
    kept = {f"model.{name}.onnx" for name in ("fp16", "int8") if name not in facts["refused"]}
    assert {path.name for path in (tmp_path / "out").glob("*.onnx")} == {
        *("model.onnx", "model.best.onnx", "teacher.onnx"),
        *kept,
    }
    assert facts["teacher"]["times_faster"] > 0
    assert {"teacher", "real_stats"} < read_manifest(tmp_path / "out", "export").inputs.keys()
    table = runtime_table(facts)
    assert table is not None and len(table.rows) == len(facts["rows"])
    assert facts["best"]["file"] in table.notes[0]
    assert all(any(sentence in note for note in table.notes) for sentence in facts["refused"].values())
    fact = results._runtime_fact(facts["teacher"])
    assert (fact.label, fact.teacher) == (
        "Time per image (ONNX Runtime, CPU)",
        milliseconds(facts["teacher"]["teacher_milliseconds"]),
    )


@pytest.fixture(scope="module")
def profiled(student: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("profiles") / "exported"
    run(ExportConfig(profiles=("snapml", "static")), student=student, dataset=dataset, output=output)
    return output


def test_profiles_are_files_beside_the_model_with_their_facts(profiled: Path, exported: Path) -> None:
    files = ["model.onnx", "model.snapml.onnx", "model.static.onnx"]
    assert sorted(path.name for path in profiled.glob("model*")) == files
    assert (profiled / "model.onnx").read_bytes() == (exported / "model.onnx").read_bytes()
    facts = json.loads((profiled / "export.json").read_text())["profiles"]
    assert list(facts) == ["static", "snapml"]
    for name, each in facts.items():
        assert each["input"]["shape"] == [1, 3, *SIZE]
        assert each["bytes"] == (profiled / each["file"]).stat().st_size
        assert each["checked_with"] == "ONNX Runtime" and 0 < each["parity"]["largest_difference"] < 1e-5, name
    assert (facts["snapml"]["opset"], facts["snapml"]["ir_version"]) == (11, 6)
    assert json.loads((exported / "export.json").read_text())["profiles"] == {}


def test_the_command_translates_with_a_static_file_and_refuses_one_of_pixels(
    profiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    colours = np.random.default_rng(4).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    for name in ("model.onnx", "model.static.onnx"):
        assert main(["translate", "--model", str(profiled / name), "--input", "photo.png", "--output", name]) == 0
    whole, static = (np.asarray(Image.open(f"{name}/photo.png")) for name in ("model.onnx", "model.static.onnx"))
    assert np.abs(whole.astype(int) - static).max() <= 1 < whole.std()
    capsys.readouterr()
    command = ["translate", "--model", str(profiled / "model.snapml.onnx"), "--input", "photo.png", "--output", "out"]
    assert main(command) == 2
    assert "has pixels of 0 to 255, for another program; give model.onnx" in capsys.readouterr().err


def test_a_profile_whose_package_is_missing_is_refused(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.catlib.exporting.profile_rules.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package coremltools; .* requirements-coreml\.lock"):
        run(ExportConfig(profiles=("coreml",)), student=student, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opset", range(18, 24))
def test_the_plain_form_in_every_operator_set(opset: int, student: Path, tmp_path: Path) -> None:
    run(ExportConfig(opset=opset, rewrites="none"), student=student, output=tmp_path / "plain")
    facts = json.loads((tmp_path / "plain/export.json").read_text())
    assert facts["rewrites"] == {"used": [], "times_faster": None, "measured": {}, "threads": 1}
    assert "DepthToSpace" not in facts["operators"]
    model = onnx.load(tmp_path / "plain/model.onnx", load_external_data=False)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", opset)]
    assert facts["opset"] == opset
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)


@pytest.mark.parametrize("change", [change_weight, change_norm, change_pad])
@pytest.mark.parametrize("rewrites", ["all", "none"])
def test_a_broken_file_is_refused_and_leaves_nothing(
    change: Callable[[onnx.ModelProto], None],
    rewrites: str,
    student: Path,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(generator: Generator, path: Path, **settings: Any) -> OnnxModel:
        written = export_generator(generator, path, **settings)
        model = onnx.load(path)
        change(model)
        onnx.save(model, path)
        return written

    monkeypatch.setattr("components.export.stage.export_generator", broken)
    config = validate(ExportConfig, {"rewrites": rewrites}, where="export")
    with pytest.raises(RuntimeError, match=r"The ONNX model differs from PyTorch by up to"):
        run(config, student=student, dataset=dataset, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_manifest_names_the_origin_and_the_headline(exported: Path, student: Path, dataset: Path) -> None:
    manifest = read_manifest(exported, "export")
    assert set(manifest.files) == {"model.onnx", "export.json"}
    assert manifest.inputs == {name: read_manifest(path).digest() for name, path in
                               (("student", student), ("dataset", dataset))}  # fmt: skip
    metrics = manifest.summary["metrics"]
    assert metrics["onnx_bytes"] == manifest.files["model.onnx"].bytes
    assert set(metrics) == {"onnx_bytes", "largest_difference", "torch_milliseconds", "onnxruntime_milliseconds"}
    assert all(np.isfinite(value) for value in metrics.values())


def test_the_file_describes_itself(exported: Path, dataset: Path) -> None:
    metadata = {prop.key: prop.value for prop in onnx.load(exported / "model.onnx").metadata_props}
    assert metadata["name"] == "inception generator, source to target"
    assert metadata["input"] == metadata["output"] == "RGB, float32, NCHW, -1 to 1"
    assert metadata["input_size"] == "16x20 (height x width)"
    assert metadata["dataset"].endswith(", AtoB")
    assert int(metadata["paper_macs"]) > 0
    colours = {"type": "uint8", "channels": 3, "range": [0.0, 255.0]}
    assert json.loads(metadata["input_values"]) == json.loads(metadata["output_values"]) == colours
    facts = json.loads((exported / "export.json").read_text())
    assert facts["input_values"] == facts["output_values"] == colours
    sizes = facts["sizes"]
    assert sizes == {
        "size_step": 4,
        "smallest_size": 8,
        "fixed_size": None,
        "receptive_radius": None,
        "normalisation": "instance norm, statistics of the image",
    }
    assert all(metadata[name] == (fact if isinstance(fact, str) else json.dumps(fact)) for name, fact in sizes.items())
    ((_, row),) = origins._sizes(sizes)
    assert (
        row
        == "multiples of 4 pixels, at least 8; instance norm, statistics of the image: a pixel depends on all pixels"
    )
    assert origins._sizes(sizes | {"receptive_radius": 28})[0][1].endswith(
        "a pixel depends on those at most 28 pixels away"
    )
    assert origins._sizes(None) == []


def test_the_file_of_label_maps_states_its_size_and_planes(exported: Path) -> None:
    architecture = spade().architecture
    packed = PackedDataset.open(ROOT / "tests/kept/labels/dataset")
    metadata = serving_metadata(architecture, {}, packed)
    assert (metadata["fixed_size"], metadata["input_kind"]) == ("[32, 64]", "labels")
    assert json.loads(metadata["input_planes"]) == {"num_labels": 32, "dont_care_plane": True, "instances": False}
    assert "input_values" not in metadata
    assert origins._sizes(picture_sizes(architecture)) == [
        ("pictures", "32×64 pixels alone; batch norm, running statistics")
    ]


def test_the_snippet_of_the_readme_translates_a_picture_as_the_command_does(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Use the result")[1].split("\n## ")[0]
    (snippet,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    colours = np.random.default_rng(4).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "photo.png")
    shutil.copy(exported / "model.onnx", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {})
    assert main(["translate", "--model", str(exported), "--input", "photo.png", "--output", "out"]) == 0
    found = [np.asarray(Image.open(name)).astype(int) for name in ("translated.png", "out/photo.png")]
    assert found[0].std() > 0
    assert np.abs(found[0] - found[1]).max() <= 1


def test_a_difference_above_the_tolerance_fails_and_leaves_nothing(student: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"differs from PyTorch by up to .* on noise, more than export\.tolerance"):
        run(ExportConfig(tolerance=1e-12), student=student, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def mixing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, trained elsewhere, whose norms mix the images of a batch."""
    folder = tmp_path_factory.mktemp("mixing") / "distilled"
    network = build_generator(ARCHITECTURE.model_copy(update={"norm": NormConfig(kind="syncbatch")}))
    initialise(network, kind="xavier", gain=1.0, seed=1)
    with writing(folder, kind="distill", config=Pix2PixDistillConfig()) as writer:
        write_networks(writer.folder, generators={"source_to_target": network}, discriminators={}, input_size=SIZE)
    return folder


def test_a_student_that_mixes_its_batch_is_exported_as_what_it_makes_of_one_image(
    mixing: Path, dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(ExportConfig(), student=mixing, dataset=dataset, output=tmp_path / "exported")
    assert "every image is computed as if it came alone" in caplog.text
    facts = json.loads((tmp_path / "exported/export.json").read_text())
    assert facts["parity"]["batch_dependence"] < 1e-5
    images = np.random.default_rng(1).uniform(-1, 1, (2, 3, *SIZE)).astype(np.float32)
    (made,) = onnxruntime.InferenceSession(tmp_path / "exported/model.onnx").run(["translated"], {"image": images})
    with torch.no_grad():
        alone = read_generator(mixing, "source_to_target", alone=False)(torch.from_numpy(images[:1]))
    np.testing.assert_allclose(made[:1], alone, atol=1e-5)


@pytest.mark.parametrize("on", ["noise", "held-out images"])
def test_a_file_whose_images_depend_on_their_batch_is_refused(
    mixing: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: str
) -> None:
    as_written = functools.partial(model_files.read_generator, alone=False)
    monkeypatch.setattr("components.export.stage.read_generator", as_written)
    with pytest.raises(RuntimeError, match=rf"changes by up to .* with what else is in its batch, on {on}, more than"):
        run(
            ExportConfig(),
            student=mixing,
            dataset=dataset if on == "held-out images" else None,
            output=tmp_path / "exported",
        )
    assert list(tmp_path.iterdir()) == []


def test_a_student_without_weights_is_refused(tmp_path: Path) -> None:
    with writing(tmp_path / "pruned", kind="prune", config=PruneConfig()) as writer:
        write_architecture(writer.folder, "source_to_target", ARCHITECTURE, SIZE)
    with pytest.raises(UserError, match="no weights"):
        run(ExportConfig(), student=tmp_path / "pruned", output=tmp_path / "out")


def test_the_command_line_takes_a_cut_teacher_too(tmp_path: Path) -> None:
    with writing(tmp_path / "pruned", kind="prune", config=PruneConfig()) as writer:
        network = build_generator(ARCHITECTURE)
        write_networks(writer.folder, generators={"source_to_target": network}, discriminators={}, input_size=SIZE)
    command = ["export", "--recipe", "smoke", "--student", tmp_path / "pruned", "--output", tmp_path / "exported"]
    assert main([str(word) for word in command]) == 0
    assert (tmp_path / "exported/model.onnx").is_file()


def test_a_dataset_of_other_channels_is_refused(dataset: Path, tmp_path: Path) -> None:
    with writing(tmp_path / "distilled", kind="distill", config=Pix2PixDistillConfig()) as writer:
        network = build_generator(ARCHITECTURE.model_copy(update={"in_channels": 1}))
        write_networks(writer.folder, generators={"source_to_target": network}, discriminators={}, input_size=SIZE)
    with pytest.raises(UserError, match=r"source_to_target .* takes 1 channels, but .* has 3 in its source images"):
        run(ExportConfig(), student=tmp_path / "distilled", dataset=dataset, output=tmp_path / "out")
