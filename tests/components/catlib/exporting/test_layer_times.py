from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
import pytest

from components.catlib.config import NormConfig
from components.catlib.config.student import Rewrite
from components.catlib.errors import UserError
from components.catlib.exporting import layer_times
from components.catlib.exporting.layer_times import branches_model, layer_model, measure_table, random_students
from components.catlib.exporting.onnx_file import generator_model
from components.catlib.latency.parts import Part, parts, traits
from components.catlib.latency.table import LatencyTable
from components.catlib.networks.families import Architecture, architecture_from_config, build_generator
from components.catlib.pruning.search import extreme_students
from components.catlib.recipes import load_recipe
from tests.components.catlib.networks.sample_architectures import inception, spade

BATCH = NormConfig(kind="batch", track_running_stats=True)
EVERY: tuple[Rewrite, ...] = get_args(Rewrite)
TIMED = ("Conv", "ConvTranspose", "InstanceNormalization", "DepthToSpace", "Resize", "Split", "Tanh")


def operators(model: onnx.ModelProto) -> Counter[tuple[Any, ...]]:
    """Counts the operators that take most of the time, by the shape of their weights."""
    shapes = {each.name: tuple(each.dims) for each in model.graph.initializer}
    return Counter(
        (node.op_type, next((shapes[name] for name in node.input if len(shapes.get(name, ())) == 4), None))
        for node in model.graph.node
        if node.op_type in TIMED
    )


def check_operators(student: Architecture, size: tuple[int, int], rewrites: tuple[Rewrite, ...]) -> None:
    network = traits(student) | {"planes": str(student.in_channels)}
    found = Counter[tuple[Any, ...]]()
    for part in parts(student, size, rewrites):
        found += operators(layer_model(part, network, rewrites, opset=20))
    exported = generator_model(build_generator(student).eval(), input_size=size, opset=20, rewrites=rewrites)
    assert found == operators(exported)


@pytest.mark.parametrize("rewrites", [EVERY, ("merged_depthwise",), ("padded_channels", "output_phases"), ()])
@pytest.mark.parametrize("norm", [BATCH, NormConfig(kind="instance")], ids=["batch", "instance"])
@pytest.mark.parametrize("upsample", ["transposed", "resize", "subpixel"])
def test_parts_have_the_operators_and_weights_of_the_exported_file(
    upsample: Any, norm: NormConfig, rewrites: Any
) -> None:
    widest, thinnest = (
        inception(norm=norm, base_channels=channels).model_copy(update={"upsample": upsample}) for channels in (10, 2)
    )
    thinnest = widest.resized({each.name: 1 for each in thinnest.prunable_norms()})
    for student in random_students(widest, thinnest, 4, seed=1):
        check_operators(student, (16, 16), rewrites)


@pytest.mark.slow  # torch's exporter takes seconds
def test_parts_of_a_spade_generator_have_its_convolutions() -> None:
    student = spade(spectral=False)
    network = traits(student) | {"planes": str(student.in_channels)}
    found = Counter[tuple[Any, ...]]()
    for part in parts(student, (64, 128), ()):
        found += operators(layer_model(part, network, (), opset=20))
    exported = operators(generator_model(build_generator(student).eval(), input_size=(64, 128), opset=20, rewrites=()))
    wanted = {key: count for key, count in exported.items() if key[0] == "Conv"}
    assert {key: count for key, count in found.items() if key[0] == "Conv"} == wanted


@pytest.fixture
def made_up_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., LatencyTable]:
    """Measures the smoke recipe's table with a made-up clock: everything runs; a layer takes 1 ms per channel.

    The first of two beside each other takes 7 ms more. Networks take 1 s.
    """

    def median(name: str) -> float:
        channels, _, count = name.partition(" x ")
        if " " not in channels:
            return float(name.isdigit())
        return 1e-3 * (int(count or 1) * sum(map(int, channels.split())) + 7 * bool(count))

    def measured(calls: dict[str, Callable[[], object]], **_: object) -> dict[str, SimpleNamespace]:
        for call in calls.values():
            call()
        return {name: SimpleNamespace(median=median(name)) for name in calls}

    monkeypatch.setattr(layer_times, "measure", measured)
    monkeypatch.setattr(layer_times, "FITTED", 8)
    monkeypatch.setattr(layer_times, "CHECKED", 2)
    return lambda rewrites=EVERY: measure_table(*extremes(), (16, 16), threads=1, opset=20, rewrites=rewrites)


def made_up_network(student: Architecture, rewrites: tuple[Rewrite, ...]) -> float:
    """Returns 0.5 ms, 3 ms for every layer and 2 ms for every channel that one reads or makes."""
    found = parts(student, (16, 16), rewrites)
    return 0.5 + 3 * len(found) + 2 * sum(part.in_channels + part.out_channels for part in found)


def extremes() -> tuple[Architecture, Architecture]:
    recipe = load_recipe("smoke", ["prune.min_channels=6"])
    architecture = architecture_from_config(recipe.teacher.generator, **recipe.dataset.channels, crop_size=(16, 16))
    return extreme_students(architecture, recipe.prune)


@pytest.mark.parametrize("rewrites", [EVERY, ()], ids=["rewritten", "as trained"])
def test_a_table_covers_every_student_between_thinnest_and_widest(
    rewrites: Any, made_up_clock: Callable[..., LatencyTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        layer_times,
        "network_milliseconds",
        lambda students, size, **_: [made_up_network(each, rewrites) for each in students],
    )
    table = made_up_clock(rewrites)
    assert (table.overhead, table.per_layer, table.scale) == pytest.approx((0.5, 3, 2))
    assert table.errors == pytest.approx((0, 0), abs=1e-9)
    assert {"family": "inception", "norm": "folded"}.items() <= table.network.items()
    for student in [*extremes(), *random_students(*extremes(), 20, seed=5)]:
        assert table.latency(student, (16, 16)) == pytest.approx(made_up_network(student, rewrites))


def results(model: onnx.ModelProto, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def test_branches_share_their_input_and_add_up_their_outputs() -> None:
    network = traits(spade())
    x = np.random.default_rng(0).standard_normal((1, 5, 8, 8), np.float32)
    first = Part("conv_in", 3, (8, 8), (8, 8), 5, 2)
    one, two = (results(branches_model(first, network, (), 20, count=count), x=x) for count in (1, 2))
    others = [values for name, values in two.items() if name != "y"]
    assert len(others) == 1
    np.testing.assert_allclose(others[0], one["y"], atol=1e-6)
    assert not np.allclose(two["y"], one["y"])
    last = first._replace(kind="conv_out")
    (y,) = results(branches_model(last, network, (), 20, count=1), x=x).values()
    pair = branches_model(last, network, (), 20, count=2)
    (alone,) = results(pair, x=x, **{"x.1": 0 * x}).values()
    (other,) = results(pair, x=0 * x, **{"x.1": x}).values()
    (both,) = results(pair, x=x, **{"x.1": x}).values()
    np.testing.assert_allclose(alone, y, atol=1e-6)
    np.testing.assert_allclose(both, alone + other, atol=1e-5)
    assert not np.allclose(other, alone)


def test_some_random_students_of_label_maps_lose_whole_blocks() -> None:
    """Only they tell what a network costs from what its blocks cost."""
    widest = spade(base_channels=8, spade_hidden_channels=48, spectral=False)
    thinnest = widest.resized({norm.name: 64 if norm.floor else 1 for norm in widest.prunable_norms()})
    blocks = [
        sum(part.kind == "modulation" for part in parts(student, (64, 128), ()))
        for student in random_students(widest, thinnest, 20, seed=0)
    ]
    assert max(blocks) == len(widest.blocks)
    assert 3 <= sum(count < max(blocks) for count in blocks) <= 15
    assert len(set(blocks)) > 2


def test_times_that_do_not_grow_with_layers_make_no_table(made_up_clock: Callable[[], LatencyTable]) -> None:
    with pytest.raises(UserError, match=r"do not grow with their layers.*measure again on a quieter machine"):
        made_up_clock()


@pytest.mark.slow  # measures for two minutes; `chrt -f 10` keeps other processes away
def test_twenty_unseen_students_of_the_demo_are_predicted_within_a_tenth() -> None:
    """They are timed in turn with those that the fit sees, because the speed of a shared machine drifts by more.

    Neighbours of a virtual machine may spoil one of three tables.
    """
    recipe = load_recipe("demo")
    size = recipe.dataset.crop_size
    architecture = architecture_from_config(recipe.teacher.generator, **recipe.dataset.channels, crop_size=size)
    widest, thinnest = extreme_students(architecture, recipe.prune)
    largest = []
    for _ in range(3):
        table = measure_table(widest, thinnest, size, threads=1, opset=20, rewrites=EVERY)
        assert len(table.errors) == 20
        largest.append(max(table.errors))
    assert sorted(largest)[1] <= 0.1, largest
