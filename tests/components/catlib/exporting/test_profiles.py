"""Files for other programs: what each promises, what each computes, and that a broken one is refused.

Core ML and LiteRT need the extras [coreml] and [litert]: `make test-converters` runs their tests.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from components.catlib.config import RGB, ValuesConfig
from components.catlib.config.student import Profile
from components.catlib.errors import UserError
from components.catlib.exporting import profile_rules, profiles
from components.catlib.exporting.onnx_file import generator_model, write_model
from components.catlib.exporting.parity import OnnxGenerator
from components.catlib.exporting.profile_rules import PACKAGES, check_profiles, missing_packages
from components.catlib.exporting.profiles import (
    FILES,
    Student,
    read_profile,
    write_profiles,
)
from components.catlib.networks.generator import Generator
from tests.components.catlib.exporting.broken_files import change_norm, change_pad, change_weight
from tests.components.catlib.exporting.small_generators import NORMS, SIZE, example, inception

COLOURS = {"input": RGB, "output": RGB}
NEEDED = {
    name: [pytest.mark.skipif(find_spec(package) is None, reason=f"needs the extra [{name}]")]
    for name, package in PACKAGES.items()
}
EVERY = [pytest.param(name, marks=NEEDED.get(name, [])) for name in FILES]


def student(generator: Generator, *, size: tuple[int, int] = SIZE) -> Student:
    metadata = {"name": "tiny", "size_step": "4", "fixed_size": "null"}
    return Student(generator, size, example(generator, 2, size), 20, metadata)


def write(folder: Path, profile: Profile, made: Student, *, tolerance: float = 1e-5, **settings: Any) -> dict[str, Any]:
    settings = {"opset": made.opset, "rewrites": (), **settings}
    model = profiles.generator_model(made.generator, input_size=made.input_size, **settings)
    write_model(model, folder / "model.onnx", opset=made.opset, metadata=made.metadata)
    return write_profiles(folder, ["onnxruntime", profile], made, tolerance=tolerance)[profile]


@pytest.fixture(scope="module")
def tiny() -> Student:
    torch.manual_seed(0)
    return student(inception(NORMS["instance"]))


@pytest.mark.parametrize("profile", EVERY)
@pytest.mark.parametrize("padding", ["reflect", "zero", "replicate"])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_every_file_computes_the_student(profile: Profile, padding: str, norm: str, tmp_path: Path) -> None:
    facts = write(tmp_path, profile, student(inception(NORMS[norm], padding=padding)))
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", facts["file"]} == {"model.onnx", FILES[profile]}
    assert 0 < facts["parity"]["largest_difference"] < 1e-5
    files = [path for path in (tmp_path / facts["file"]).rglob("*") if path.is_file()] or [tmp_path / facts["file"]]
    assert facts["bytes"] == sum(path.stat().st_size for path in files)
    shape = [1, *SIZE, 3] if profile == "litert" else [1, 3, *SIZE]
    assert facts["input"]["shape"] == facts["output"]["shape"] == shape
    assert facts["input"]["values"] == ("0 to 255" if profile in ("snapml", "coreml") else "-1 to 1")


def test_the_file_for_lens_studio_takes_and_makes_pixels(tiny: Student, tmp_path: Path) -> None:
    facts = write(tmp_path, "snapml", tiny)
    model = onnx.load(tmp_path / "model.snapml.onnx", load_external_data=False)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 11)] and facts["opset"] == 11
    assert model.ir_version == facts["ir_version"] == 6
    assert set(facts["operators"]) == {
        "Add", "Conv", "ConvTranspose", "InstanceNormalization", "Mul", "Pad", "Relu", "Tanh",
    }  # fmt: skip
    pixels = torch.randint(0, 256, (1, 3, *SIZE)).float()
    made = OnnxGenerator(tmp_path / "model.snapml.onnx")(pixels)
    with torch.no_grad():
        expected = (tiny.generator(pixels / 127.5 - 1) + 1) * 127.5
    torch.testing.assert_close(made, expected, atol=1e-3, rtol=0)
    assert "size_step" not in {each.key for each in model.metadata_props}, "the command would take it for -1 to 1"


def test_a_static_file_keeps_opset_rewrites_and_metadata(tiny: Student, tmp_path: Path) -> None:
    facts = write(tmp_path, "static", replace(tiny, opset=18), rewrites=("output_phases",))
    assert facts["opset"] == 18 and facts["operators"]["DepthToSpace"] == 1
    model = onnx.load(tmp_path / "model.static.onnx")
    assert {each.key: each.value for each in model.metadata_props} == {**tiny.metadata, "fixed_size": "[16, 24]"}


@pytest.mark.parametrize("profile", EVERY)
@pytest.mark.parametrize("change", [change_weight, change_norm, change_pad])
def test_a_broken_file_is_refused(
    profile: Profile,
    change: Callable[[onnx.ModelProto], None],
    tiny: Student,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*args: Any, **settings: Any) -> onnx.ModelProto:
        model = generator_model(*args, **settings)
        change(model)
        return model

    monkeypatch.setattr(profiles, "generator_model", broken)
    with pytest.raises(RuntimeError, match=rf"{FILES[profile]} differs from PyTorch by up to .*; take {profile} out"):
        write(tmp_path, profile, tiny, tolerance=1e-4)


def _another_operator(model: onnx.ModelProto) -> None:
    last = model.graph.node[-1]
    last.output[0] = "before"
    model.graph.node.append(helper.make_node("Abs", ["before"], ["translated"]))


def _free_size(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def _another_name(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "picture"
    model.graph.node[0].input[0] = "picture"


def _weights_elsewhere(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    weight.ClearField("raw_data")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_another_operator, "holds Abs, which its profile does not allow"),
        (_free_size, "other shapes than its profile promises"),
        (_another_name, "other ends than its profile promises"),
        (_weights_elsewhere, "keeps weights in another file"),
        (lambda model: setattr(model, "ir_version", 7), "other IR version than its profile promises: 7, not 6"),
        (lambda model: setattr(model.opset_import[0], "version", 12), "not opset 11 alone"),
        (lambda model: model.opset_import.add(domain="com.microsoft", version=1), "not opset 11 alone"),
    ],
)
def test_a_file_that_lacks_what_its_profile_promises_is_refused(
    change: Callable[[onnx.ModelProto], None], message: str, tiny: Student, tmp_path: Path
) -> None:
    model = tiny.graph(pixels=True)
    change(model)
    path = tmp_path / "model.snapml.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(RuntimeError, match=message):
        read_profile("snapml", path, tiny)


@pytest.mark.parametrize(
    ("profile", "values", "message"),
    [
        ("snapml", ValuesConfig(type="uint16", channels=3, range=(0, 65535)), "uint16 of 3 channels from 0 to 65535"),
        ("coreml", ValuesConfig(type="uint8", channels=4, range=(0, 255)), "uint8 of 4 channels"),
    ],
)
def test_pictures_that_a_profile_does_not_know_are_refused(
    profile: Profile, values: ValuesConfig, message: str
) -> None:
    check_profiles(["static", profile], "inception", COLOURS)
    check_profiles(["static", "litert"], "inception", COLOURS | {"output": values})
    with pytest.raises(UserError, match=rf"the output is {message}.*take {profile} out of"):
        check_profiles([profile], "inception", COLOURS | {"output": values})


def test_other_layers_that_double_sizes_have_the_static_profile_only() -> None:
    check_profiles(["static"], "inception", COLOURS, upsample="resize")
    with pytest.raises(
        UserError, match="litert knows generators with upsample: transposed, not resize; take litert out"
    ):
        check_profiles(["litert"], "inception", COLOURS, upsample="resize")


def test_label_maps_have_the_static_profile_only() -> None:
    check_profiles(["onnxruntime", "static"], "inception_spade", {"output": RGB})
    with pytest.raises(UserError, match="snapml knows generators of the family inception, not inception_spade"):
        check_profiles(["snapml"], "inception_spade", {"output": RGB})


@pytest.mark.parametrize("profile", ["coreml", "litert"])
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_rules, "find_spec", lambda name: None)
    (sentence,) = missing_packages(["static", profile])
    assert f"needs the package {PACKAGES[profile].replace('_', '-')}; " in sentence
    assert f"--requirement requirements-{profile}.lock, or take {profile} out" in sentence


@pytest.mark.parametrize("profile", [EVERY[2]])
def test_a_core_ml_package_has_pictures_as_ends_and_two_exports_are_the_same(
    profile: Profile, tiny: Student, tmp_path: Path
) -> None:
    content = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        facts = write(tmp_path / name, profile, tiny)
        files = sorted(path for path in (tmp_path / name / "model.mlpackage").rglob("*") if path.is_file())
        content.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])
    assert content[0] == content[1] and len(content[0]) == 3
    assert facts["ends"] == "pictures" and facts["oldest_system"] == "iOS16" and facts["specification"] == 7
    with pytest.raises(RuntimeError, match=r"other input and output than its profile promises: .*'RGB', 16, 24"):
        wider = replace(tiny, input_size=(16, 28))
        read_profile(profile, tmp_path / "first/model.mlpackage", wider)


@pytest.mark.parametrize("profile", [EVERY[3]])
def test_a_litert_file_mirrors_by_slices_and_aligns_its_weights(
    profile: Profile, tiny: Student, tmp_path: Path
) -> None:
    facts = write(tmp_path, profile, tiny)
    assert {"SLICE", "CONCATENATION"} <= facts["operators"].keys() and "MIRROR_PAD" not in facts["operators"]
    content = (tmp_path / "model.tflite").read_bytes()
    assert content[4:8] == b"TFL3"
    weight = tiny.generator.get_submodule("up_sampling.7").weight.detach().numpy()
    place = content.index(np.ascontiguousarray(weight.transpose(0, 2, 3, 1)).tobytes())
    assert place % 16 == 0
