"""Which files of less precision are published. Runtimes whose times are made up stand beside the real ones."""

import importlib.util
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.helper import set_model_props
from torch import Tensor

from components.catlib import timing
from components.catlib.exporting import precisions
from components.catlib.exporting.onnx_file import export_generator, generator_model
from components.catlib.exporting.precisions import Pictures, decibels_between, write_precisions
from components.catlib.exporting.quantising import INT8_REWRITES, Quantiser, layers_to_keep, to_float16
from components.catlib.exporting.runtimes import INSTALL_OPENVINO, Run, Runtime, installed_runtimes
from components.catlib.metrics.catalogue import BY_KEY
from tests.components.catlib.exporting.broken_files import change_norm, change_pad
from tests.components.catlib.exporting.small_generators import NORMS, example, inception

ONNX_RUNTIME = installed_runtimes()[0]
METADATA = {"size_step": "4"}


class MadeUpTime:
    """A clock that moves only where a test says so: no other program on the machine changes what is measured."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


CLOCK = MadeUpTime()


@pytest.fixture(autouse=True)
def made_up_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "time", CLOCK)
    monkeypatch.setattr(precisions, "ROUNDS", 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, onnx.ModelProto, Pictures]:
    """A folder with `model.onnx`, the graph for INT8, and images."""
    torch.manual_seed(0)
    generator = inception(NORMS["batch"])
    folder = tmp_path_factory.mktemp("export")
    export_generator(generator, folder / "model.onnx", input_size=(16, 24), opset=20, metadata=METADATA)
    plain = generator_model(generator, input_size=(16, 24), opset=20, rewrites=INT8_REWRITES)
    set_model_props(plain, METADATA)
    images = example(generator, 12)
    return folder, plain, Pictures(images[:4], images[4:8], images[8:])


def runtime(seconds: dict[str, float], *, name: str = "OpenVINO", noise: float = 0.0) -> Runtime:
    """Returns a runtime that computes as ONNX Runtime does, in made-up seconds by precision, with made-up noise."""

    def load(path: Path, threads: int) -> Run:
        run = ONNX_RUNTIME.load(path, threads)
        pause = next((value for precision, value in seconds.items() if precision in path.name), 0.0)

        def translate(images: Tensor) -> Tensor:
            CLOCK.now += pause / threads
            return run(images) + noise * ("int8" in path.name)

        return translate

    return Runtime(name, load)


SLOW = runtime({"": 0.008}, name="ONNX Runtime")
FAST_INT8 = runtime({"int8": 0.001, "": 0.008})


def write(made: tuple[Path, onnx.ModelProto, Pictures], tmp_path: Path, *runtimes: Runtime, **changes: Any) -> Any:
    source, plain, pictures = made
    (tmp_path / "work").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model.onnx").write_bytes((source / "model.onnx").read_bytes())
    settings = {"wanted": ("int8",), "pictures": pictures, "threads": (1, 2), "workspace": tmp_path / "work", **changes}
    return write_precisions(tmp_path / "out", plain, runtimes=runtimes, **settings)


def test_a_fast_and_close_file_is_published_and_is_the_best(
    made: tuple[Path, onnx.ModelProto, Pictures], tmp_path: Path
) -> None:
    facts = write(made, tmp_path, SLOW, FAST_INT8, teacher=made[0] / "model.onnx")
    assert facts["refused"] == {} and facts["notes"] == []
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "model.int8.onnx", "model.best.onnx"}
    assert (tmp_path / "out/model.best.onnx").read_bytes() == (tmp_path / "out/model.int8.onnx").read_bytes()
    assert {name: facts["best"][name] for name in ("file", "runtime", "threads")} == {
        "file": "model.int8.onnx", "runtime": "OpenVINO", "threads": 2,
    }  # fmt: skip
    both = [(precision, name) for precision in ("float32", "int8") for name in ("ONNX Runtime", "OpenVINO")]
    shown = {(row["precision"], row["runtime"], row["threads"]) for row in facts["rows"]}
    assert shown == {(*pair, threads) for pair in (*both, ("teacher", "ONNX Runtime")) for threads in (1, 2)}
    assert all(row["milliseconds"]["p95"] >= row["milliseconds"]["median"] > 0 for row in facts["rows"])
    assert facts["teacher"]["runtime"] == "ONNX Runtime" and facts["teacher"]["times_faster"] == pytest.approx(1)
    model = onnx.load(tmp_path / "out/model.int8.onnx")
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("QuantizeLinear") > 5 and "DequantizeLinear" in operators
    assert {each.key: each.value for each in model.metadata_props} == METADATA
    weights = {each.name: each for each in model.graph.initializer}
    scales = [weight for name, weight in weights.items() if name.endswith("weight_scale")]
    assert all(scale.dims and scale.dims[0] > 1 for scale in scales) and scales, "a scale per channel"
    assert [model.graph.input[0].type.tensor_type.elem_type, model.graph.output[0].type.tensor_type.elem_type] == [1, 1]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_file_that_is_no_faster_is_not_published(
    precision: str, made: tuple[Path, onnx.ModelProto, Pictures], tmp_path: Path
) -> None:
    facts = write(made, tmp_path, SLOW, runtime({"": 0.008}), wanted=(precision,))
    assert f"{precision} is " in facts["refused"][precision] and "1.05 times are needed" in facts["refused"][precision]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "model.best.onnx"}
    assert (tmp_path / "out/model.best.onnx").read_bytes() == (tmp_path / "out/model.onnx").read_bytes()
    assert any(row["precision"] == precision for row in facts["rows"]), "the table shows it all the same"


def test_a_file_that_one_runtime_computes_badly_is_not_published(
    made: tuple[Path, onnx.ModelProto, Pictures], tmp_path: Path
) -> None:
    noisy = runtime({"int8": 0.001, "": 0.008}, noise=0.1)
    facts = write(made, tmp_path, SLOW, noisy)
    assert facts["refused"]["int8"].endswith("dB to float32 in OpenVINO on held-out images; 40 dB are needed.")


@pytest.mark.parametrize("metric", ["l1", "fid", "kid"])
def test_a_file_that_loses_a_metric_is_not_published(
    metric: str, made: tuple[Path, onnx.ModelProto, Pictures], tmp_path: Path
) -> None:
    pictures = made[2]
    exact = ONNX_RUNTIME.load(made[0] / "model.onnx", 1)(pictures.held_out)  # L1 of float32 is 0, and so its interval

    def figures(run: Run) -> dict[str, Any]:
        return {metric: (run(pictures.held_out) - exact).abs().mean().item(), "confidence": {metric: [0.0, 0.0]}}

    strict = replace(pictures, figures=figures)
    facts = write(made, tmp_path, SLOW, FAST_INT8, pictures=strict)
    assert facts["refused"]["int8"].startswith(f"int8 in ONNX Runtime has {BY_KEY[metric].label} ")
    assert "outside the interval of float32, 0 to 0" in facts["refused"]["int8"]


def test_without_images_or_openvino_the_facts_say_what_to_do(
    made: tuple[Path, onnx.ModelProto, Pictures], tmp_path: Path
) -> None:
    facts = write(made, tmp_path, SLOW, pictures=Pictures(None, None, made[2].held_out))
    assert facts["notes"] == [INSTALL_OPENVINO]
    assert facts["refused"] == {"int8": "int8 needs training images to calibrate on; give the export a dataset."}


def test_a_runtime_that_cannot_run_a_file_gets_a_note(
    made: tuple[Path, onnx.ModelProto, Pictures], tmp_path: Path
) -> None:
    def load(path: Path, threads: int) -> Run:
        if "int8" in path.name:
            raise ValueError("unknown operator\nand more")
        return SLOW.load(path, threads)

    facts = write(made, tmp_path, SLOW, Runtime("OpenVINO", load), threads=(1,))
    assert facts["notes"] == ["OpenVINO cannot run model.int8.onnx (unknown operator)."]
    assert ("int8", "OpenVINO") not in {(row["precision"], row["runtime"]) for row in facts["rows"]}


def _change_weight(model: onnx.ModelProto) -> None:
    weight = max(model.graph.initializer, key=lambda each: each.dims[0] if each.dims and "bias" in each.name else 0)
    values = numpy_helper.to_array(weight).copy()
    values[0] = values[0] + values.dtype.type(1 if values.dtype.kind == "f" else 10_000)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


@pytest.mark.parametrize("change", [_change_weight, change_norm, change_pad])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_broken_file_is_caught(
    change: Callable[[onnx.ModelProto], None], precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    generator = inception(NORMS["instance"])
    export_generator(generator, tmp_path / "model.onnx", input_size=(16, 24), opset=20, metadata={})
    plain = generator_model(generator, input_size=(16, 24), opset=20, rewrites=INT8_REWRITES)
    images = example(generator, 6)
    whole = Quantiser(plain, images.numpy(), tmp_path)() if precision == "int8" else to_float16(plain)
    expected = ONNX_RUNTIME.load(tmp_path / "model.onnx", 1)(images)

    def decibels(model: onnx.ModelProto) -> float:
        onnx.save(model, tmp_path / "changed.onnx")
        return decibels_between(ONNX_RUNTIME.load(tmp_path / "changed.onnx", 1)(images), expected)

    sound = decibels(whole)
    change(whole)
    assert decibels(whole) < min(sound, precisions.FEWEST_DECIBELS)


@pytest.mark.parametrize("wanted", [(), ("b",), ("b", "d"), ("a", "b", "c", "d")])
def test_as_few_layers_as_suffice_stay_in_float(wanted: Collection[str]) -> None:
    errors = {"a": 1.0, "b": 100.0, "c": 2.0, "d": 10.0}

    def decibels(in_float: Collection[str]) -> float:
        return -sum(error for layer, error in errors.items() if layer not in in_float)

    assert set(layers_to_keep(list(errors), decibels, wanted=decibels(wanted))) == set(wanted)


def test_a_layer_that_hurts_stays_in_float_and_the_file_is_published(tmp_path: Path) -> None:
    """One channel in front of the last convolution is 1000 times larger, and its weights as much smaller."""
    torch.manual_seed(0)
    generator = inception(NORMS["batch"])
    norm, last = generator.get_submodule("up_sampling.4"), generator.get_submodule("up_sampling.7")
    assert isinstance(norm, torch.nn.BatchNorm2d) and isinstance(last, torch.nn.Conv2d)
    with torch.no_grad():
        norm.weight[1] *= 1000
        norm.bias[1] *= 1000
        last.weight[:, 1] /= 1000
    export_generator(generator, tmp_path / "model.onnx", input_size=(16, 24), opset=20, metadata=METADATA)
    plain = generator_model(generator, input_size=(16, 24), opset=20, rewrites=INT8_REWRITES)
    images = example(generator, 24)
    pictures = Pictures(images[:8], images[8:16], images[16:])
    facts = write((tmp_path, plain, pictures), tmp_path, SLOW, FAST_INT8)
    assert facts["in_float"] == ["up_sampling.7.0"] and facts["refused"] == {}
    (shown,) = {row["decibels"] for row in facts["rows"] if row["precision"] == "int8"}
    published = ONNX_RUNTIME.load(tmp_path / "out/model.int8.onnx", 1)(pictures.held_out)
    expected = ONNX_RUNTIME.load(tmp_path / "model.onnx", 1)(pictures.held_out)
    assert decibels_between(published, expected) == shown > precisions.FEWEST_DECIBELS
    whole = tmp_path / "whole"
    whole.mkdir()
    onnx.save(Quantiser(plain, images[:8].numpy(), whole)(), whole / "model.onnx")
    without_choice = ONNX_RUNTIME.load(whole / "model.onnx", 1)(pictures.held_out)
    assert decibels_between(without_choice, expected) < precisions.FEWEST_DECIBELS


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_what_a_convolution_makes_for_a_norm_or_relu_stays_in_float(norm: str, tmp_path: Path) -> None:
    """One step for all channels is coarse where a channel varies little and its norm makes it as large as others."""
    generator = inception(NORMS[norm])
    plain = generator_model(generator, input_size=(16, 24), opset=20, rewrites=INT8_REWRITES)
    model = Quantiser(plain, example(generator, 4).numpy(), tmp_path)()
    made = {node.output[0]: node.op_type for node in model.graph.node}
    quantised = {made.get(node.input[0], "input") for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert quantised.isdisjoint({"Conv", "ConvTranspose"}) and {"Relu", "Pad", "Add"} <= quantised


def test_layers_that_stay_in_float_have_no_quantised_weights(
    made: tuple[Path, onnx.ModelProto, Pictures], tmp_path: Path
) -> None:
    assert made[2].calibration is not None
    quantiser = Quantiser(made[1], made[2].calibration.numpy(), tmp_path)
    first, *_, last = quantiser.layers
    model = quantiser([first, last])
    read = {node.name: node.input[1] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")}
    kept = {name for name, weight in read.items() if weight in {each.name for each in model.graph.initializer}}
    assert kept == {first, last} and len(read) == len(quantiser.layers)
    assert quantiser().graph != model.graph


def test_decibels() -> None:
    image = torch.zeros(1, 3, 2, 2)
    assert decibels_between(image + 0.02, image) == pytest.approx(40.0, abs=1e-4)
    assert decibels_between(image, image) == 100.0
    assert decibels_between(image * np.nan, image) == decibels_between(image[:, :1], image) == -100.0


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs the extra [openvino]")
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_openvino_computes_what_onnx_runtime_computes(norm: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = inception(NORMS[norm])
    onnx_runtime, openvino = installed_runtimes()
    plain = generator_model(generator, input_size=(16, 24), opset=20, rewrites=INT8_REWRITES)
    images = example(generator, 3)
    # Instance norms of random weights make much of rounding: INT8 is compared where it is meant to be close.
    forms = {"float32": (plain, 90)}
    if norm == "batch":
        forms["int8"] = (Quantiser(plain, images.numpy(), tmp_path)(), 35)
    for name, (model, least) in forms.items():
        onnx.save(model, tmp_path / f"{name}.onnx")
        made = [runtime.load(tmp_path / f"{name}.onnx", 1)(images) for runtime in (onnx_runtime, openvino)]
        assert decibels_between(*made) > least
