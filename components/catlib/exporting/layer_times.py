"""Measures the times of a network's layers on this machine: the table by which pruning predicts latency.

Each layer runs alone in ONNX Runtime, with the operators that the exported file has for it. A layer within a network
takes less than alone, because its input is in the processor's cache and its channels stay in the runtime's own order.
A small one takes more, because the runtime hands on from operator to operator. So a factor, a time per layer and an
overhead are fitted to whole networks, and checked on others.

Unless branches are merged, a block of label maps has six, which share their input and add up their outputs. So the time
of a branch's first or last convolution is what a second one beside it adds, not what one takes alone.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.helper import make_tensor_value_info
from scipy.optimize import nnls

from components.catlib.config.student import Rewrite
from components.catlib.errors import UserError
from components.catlib.exporting.graph import Graph
from components.catlib.exporting.inception_graph import in_phases
from components.catlib.exporting.onnx_file import INPUT, OUTPUT, generator_model
from components.catlib.exporting.parity import cpu_session
from components.catlib.exporting.rewriting import BLOCK, MULTIPLE, flipped
from components.catlib.latency.parts import Kind, Part, UpsamplingKind, parts, traits
from components.catlib.latency.table import LatencyTable, Times
from components.catlib.networks.families import Architecture, build_generator
from components.catlib.networks.layers import ImageSize
from components.catlib.timing import Machine, cpu_name, measure

ROUNDS, SECONDS = 25, 3.0
"""Timed rounds of the layers of one kind and size, and seconds after which none begins; three are run in any case."""

SITTINGS = 2
"""How often all layers are timed; the faster time counts, because others on the machine only slow a layer down."""

NETWORK_ROUNDS, NETWORK_SECONDS = 200, 15.0
"""The same of whole networks: over so long a time, what others do on the machine evens out."""

FITTED, CHECKED = 20, 20
"""Numbers of random networks that the fit sees, and that judge it."""

LABELS, MODULATION, RESIZED = "labels", "modulation", "resized"
"""Inputs of a modulated norm beside its features, and the label maps at the size of its features."""

GOOD = 0.1
"""Largest relative error that is not warned about."""

BESIDE: tuple[Kind, ...] = ("conv_in", "conv_out")
"""Kinds whose time is what a second one beside the first adds, unless branches are merged."""

READ_ANY: tuple[Kind, ...] = ("conv_out", "conv_depthwise", *get_args(UpsamplingKind), "last")
MADE_ANY: tuple[Kind, ...] = ("conv_in", *get_args(UpsamplingKind))
"""Kinds that may read or make numbers of channels above a block that are no multiples of `MULTIPLE`."""

logger = logging.getLogger(__name__)
Session = Callable[[], object]


def measure_table(
    widest: Architecture,
    thinnest: Architecture,
    size: ImageSize,
    *,
    threads: int,
    opset: int,
    rewrites: Collection[Rewrite],
) -> LatencyTable:
    """Measures the layers that students can have, and fits the sum of their times to whole networks.

    Args:
        widest: The student of which nothing is cut.
        thinnest: The student that keeps the least channels in every layer, and one in every branch.
        size: Height and width of images in pixels.
        threads: CPU threads.
        opset: Version of the ONNX operator set.
        rewrites: The rewrites of the export.
    """
    network, machine = traits(widest), Machine(threads=threads)
    known = network | {"planes": str(widest.in_channels)}
    shapes = _shapes(widest, thinnest, size, rewrites)
    sittings: list[list[Times]] = []
    for sitting in range(SITTINGS):
        logger.info("timing layers of %d kinds and sizes, sitting %d of %d", len(shapes), sitting + 1, SITTINGS)
        sittings.append([_measured(shape, axes, machine, known, rewrites, opset) for shape, axes in shapes.items()])
    layers = [_fastest(each) for each in zip(*sittings, strict=True)]
    unfitted = LatencyTable(
        format=1,
        device=cpu_name(),
        runtime=f"ONNX Runtime {onnxruntime.__version__}",
        threads=threads,
        opset=opset,
        rewrites=tuple(rewrites),
        network=network,
        multiple=MULTIPLE,
        layers=tuple(layers),
    )
    return _fitted(unfitted, random_students(widest, thinnest, FITTED + CHECKED, seed=0), size)


def network_milliseconds(
    architectures: Iterable[Architecture], size: ImageSize, *, threads: int, opset: int, rewrites: Collection[Rewrite]
) -> list[float]:
    """Returns the median times of exported generators with random weights, measured in turn, in milliseconds."""
    calls = {}
    for number, architecture in enumerate(architectures):
        model = generator_model(
            build_generator(architecture).eval(), input_size=size, opset=opset, rewrites=rewrites
        ).SerializeToString()
        inputs = {INPUT: architecture.example_input(1, size)}
        calls[str(number)] = functools.partial(cpu_session(model, threads).run, [OUTPUT], inputs)
    machine = Machine(threads=threads)
    measured = measure(calls, repeats=NETWORK_ROUNDS, machine=machine, seconds=NETWORK_SECONDS)
    return [1e3 * each.median for each in measured.values()]


def random_students(widest: Architecture, thinnest: Architecture, count: int, *, seed: int) -> list[Architecture]:
    """Returns students of random widths between two.

    Each norm keeps a share that scatters around that of its group ("branch", "spade_branch", ...), and each group's
    scatters around the student's own. So some students lose all branches of a block, and with it its layers of label
    maps, resizing and modulation: only these tell what each layer costs beside its time from what a network costs.
    """
    random = np.random.default_rng(seed)
    least = {norm.name: norm.channels if norm.floor else 0 for norm in thinnest.prunable_norms()}
    norms = widest.prunable_norms()
    students = []
    for share in random.uniform(0.05, 0.95, count):
        shares = {group: random.normal(share, 0.25) for group in dict.fromkeys(norm.group for norm in norms)}
        widths = {}
        for norm in norms:
            kept = round(norm.channels * random.normal(shares[norm.group], 0.15)) // norm.multiple * norm.multiple
            widths[norm.name] = min(max(kept, least[norm.name]), norm.channels)
        students.append(widest.resized(widths))
    return students


LEAST_SHARE = 0.01
"""Share of a network's time that its layers explain at least."""


def _fitted(table: LatencyTable, students: list[Architecture], size: ImageSize) -> LatencyTable:
    """Fits overhead, time per layer and scale to the first `FITTED` students by least squares of relative errors.

    Raises:
        UserError: The students' times do not grow with those of their layers.
    """
    times = np.array(
        network_milliseconds(students, size, threads=table.threads, opset=table.opset, rewrites=table.rewrites)
    )
    sums = np.array([table.latency(student, size) for student in students])
    counts = np.array([float(len(parts(student, size, table.rewrites))) for student in students])
    design = np.stack([np.ones_like(sums), counts, sums], axis=1) / times[:, None]
    (overhead, per_layer, scale), _ = nnls(design[:FITTED], np.ones(FITTED))
    if (scale * sums / times).max() < LEAST_SHARE:
        raise UserError(
            "The measured times of networks do not grow with their layers, so a table would foretell nothing; measure "
            "again on a quieter machine."
        )
    errors = np.abs(design[FITTED:] @ (overhead, per_layer, scale) - 1)
    logger.info(
        "latency = %.3f ms + %.4f ms per layer + %.3f x sum of layers; errors on %d other networks: median %.1f %%, "
        "largest %.1f %%",
        *(overhead, per_layer, scale, len(errors), 100 * np.median(errors), 100 * errors.max()),
    )
    if errors.max() > GOOD:
        logger.warning("the table is off by more than %.0f %%; measure it again on a quieter machine", 100 * GOOD)
    fitted = {"overhead": float(overhead), "per_layer": float(per_layer), "scale": float(scale)}
    return table.model_copy(update=fitted | {"errors": tuple(map(float, errors))})


# --------------------------------------------------------------------------------------------------------- the layers

Shape = tuple[Kind, int, ImageSize, ImageSize]
"""Kind, kernel size, size read and size made."""


def _shapes(
    widest: Architecture, thinnest: Architecture, size: ImageSize, rewrites: Collection[Rewrite]
) -> dict[Shape, tuple[set[int], set[int]]]:
    """Returns the ends of the channel counts read and made, by shape of a layer; every branch exists in both networks.

    Blocks may lose branches, so branches also occur unmerged, and merged ones with every kernel; and SPADE norms occur
    without their branches.
    """
    found: dict[Shape, tuple[set[int], set[int]]] = {}
    for architecture in (widest, thinnest, _unmodulated(widest), _unmodulated(thinnest)):
        unmerged: list[Rewrite] = [name for name in rewrites if name != "merged_depthwise"]
        for used in (rewrites, unmerged):
            for part in parts(architecture, size, used):
                read, made = found.setdefault(part[:4], (set(), set()))
                read.add(part.in_channels)
                made.add(part.out_channels)
    for (kind, _, _, made_at), (read, made) in found.items():
        if kind == "conv_depthwise":
            alike = [axes for shape, axes in found.items() if (shape[0], shape[3]) == (kind, made_at)]
            read.update(*(axes[0] for axes in alike))
        hidden = {"conv_in": made, "conv_out": read, "conv_depthwise": read}.get(kind)
        if hidden is not None:
            hidden.add(1)
    return found


def _unmodulated(architecture: Architecture) -> Architecture:
    """Returns an architecture without the branches that read label maps; one without such branches is returned."""
    widths = {norm.name: norm.channels for norm in architecture.prunable_norms()}
    removed = {norm.name: 0 for norm in architecture.prunable_norms() if norm.group == "spade_branch"}
    return architecture.resized(widths | removed) if removed else architecture


def _counts(ends: set[int], *, dense: bool) -> list[int]:
    """Returns the channel counts to measure between the smallest and the largest, ascending.

    Args:
        ends: Counts that are measured in any case; two or more.
        dense: Whether counts that are no multiple of `MULTIPLE` occur above a block.
    """
    low, high = min(ends), max(ends)
    steps = [*range(1, BLOCK + 1), 12, *(2**power * step // 2 for power in range(3, 16) for step in (2, 3))]
    chosen = {*ends, *(step for step in steps if low < step < high)}
    if dense:
        others = {*(step - 1 for step in chosen if step > BLOCK), *(step + 2 for step in chosen if step > BLOCK)}
        chosen |= {step for step in others if low < step < high}
    return sorted(chosen)


def _measured(
    shape: Shape,
    axes: tuple[set[int], set[int]],
    machine: Machine,
    network: Mapping[str, str],
    rewrites: Collection[Rewrite],
    opset: int,
) -> Times:
    """Measures a layer of one kind and size with all its channel counts, in turn."""
    kind, kernel_size, input_size, output_size = shape
    single = kind in ("conv_depthwise", "norm", "scaling", "modulation")
    read, made = (_counts(ends, dense=kind in any_) for ends, any_ in zip(axes, (READ_ANY, MADE_ANY), strict=True))
    pairs = [(i, o) for i in read for o in ([i] if single else made)]
    empty = Graph(opset)
    nothing = empty.model(result=empty.add("Relu", "x", name="relu"), inputs=("x", (1,)), outputs=("y", (1,)))
    calls = {"nothing": _bound(nothing, machine.threads)}
    beside = kind in BESIDE and "merged_depthwise" not in rewrites
    for i, o in pairs:
        part = Part(*shape, i, o)
        if beside:
            for count in (1, 2):
                model = branches_model(part, network, rewrites, opset, count=count)
                calls[f"{i} {o} x {count}"] = _bound(model, machine.threads)
        else:
            calls[f"{i} {o}"] = _bound(layer_model(part, network, rewrites, opset), machine.threads)
    measured = measure(calls, repeats=ROUNDS, machine=machine, seconds=SECONDS)
    times = {name: each.median for name, each in measured.items()}
    found = []
    for name in (f"{i} {o}" for i, o in pairs):
        seconds = times[f"{name} x 2"] - times[f"{name} x 1"] if beside else times[name] - times["nothing"]
        found.append(max(0.0, round(1e3 * seconds, 6)))
    width = 1 if single else len(made)
    return Times(
        kind=kind,
        kernel_size=kernel_size,
        input_size=input_size,
        output_size=output_size,
        in_channels=tuple(read),
        out_channels=None if single else tuple(made),
        milliseconds=tuple(tuple(found[start : start + width]) for start in range(0, len(found), width)),
    )


def _fastest(sittings: Sequence[Times]) -> Times:
    """Returns the times of one kind and size with the smallest of several sittings."""
    smallest = np.minimum.reduce([each.grid for each in sittings])
    return Times.model_validate(sittings[0].model_dump() | {"milliseconds": smallest.tolist()})


def _bound(model: onnx.ModelProto, threads: int) -> Session:
    """Returns a call that runs a model on noise and allocates nothing, as a layer within a network."""
    session = cpu_session(model.SerializeToString(), threads)
    binding = session.io_binding()
    kept = []
    random = np.random.default_rng(0)
    for given in session.get_inputs():
        kept.append(onnxruntime.OrtValue.ortvalue_from_numpy(random.standard_normal(given.shape, np.float32)))
        binding.bind_ortvalue_input(given.name, kept[-1])
    for made in session.get_outputs():
        kept.append(onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(made.shape, np.float32)))
        binding.bind_ortvalue_output(made.name, kept[-1])
    return lambda _kept=kept: session.run_with_iobinding(binding)


def layer_model(part: Part, network: Mapping[str, str], rewrites: Collection[Rewrite], opset: int) -> onnx.ModelProto:
    """Writes one part as an ONNX model with random weights, as the exported file computes it.

    Args:
        part: The part.
        network: What else decides on its operators (`components.catlib.latency.parts.traits`); of a modulated norm also
            `planes`, the channels of label maps.
        rewrites: The rewrites of the export.
        opset: Version of the ONNX operator set.
    """
    graph = Graph(opset)
    half = 2 if part.kind == "modulation" else 1  # it enlarges its features
    height, width = part.input_size
    shapes = [
        (1, part.in_channels, max(1, height // half), max(1, width // half)),
        (1, part.out_channels, *part.output_size),
    ]
    bias = np.zeros(part.out_channels, np.float32)
    match part.kind:
        case "norm":
            x = _normed(graph, "x", part.out_channels)
        case "scaling":
            x = graph.add("Relu", _scaled(graph, "x", part.out_channels), name="relu")
        case "modulation":
            x = _modulated(graph, part, network)
        case "conv_transpose":
            weight = _weight(part.in_channels, part.out_channels, part.kernel_size)
            double: dict[str, Any] = {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}
            x = graph.conv("x", weight, bias, name="conv", operator="ConvTranspose", **double)
            x = graph.add("Relu", x, name="relu")
        case "conv_resize":
            weight = _weight(part.out_channels, part.in_channels, part.kernel_size)
            x = graph.conv(graph.repeat_pixels("x", name="resized"), weight, bias, name="conv", pads=[1] * 4)
            x = graph.add("Relu", x, name="relu")
        case "conv_subpixel":
            weight = _weight(4 * part.out_channels, part.in_channels, part.kernel_size)
            x = graph.conv("x", weight, np.zeros(4 * part.out_channels, np.float32), name="conv", pads=[1] * 4)
            x = graph.add("DepthToSpace", x, name="shuffle", blocksize=2, mode="CRD")
            x = graph.add("Relu", x, name="relu")
        case _:
            x = _convolved(graph, part, network, rewrites)
            match part.kind:
                case "last":
                    x = graph.add("Tanh", x, name="tanh")
                case "conv_out":
                    x = graph.add("Add", x, x, name="sum")  # of the branches
                case _:
                    x = graph.add("Relu", x, name="relu")
    model = graph.model(result=x, inputs=("x", shapes[0]), outputs=("y", shapes[1]))
    if part.kind == "modulation":
        sides = [int(side) for side in network["image_size"].split("x")]
        planes, modulation = int(network["planes"]), 2 * part.out_channels
        model.graph.input.append(make_tensor_value_info(LABELS, TensorProto.FLOAT, (1, planes, *sides)))
        model.graph.input.append(
            make_tensor_value_info(MODULATION, TensorProto.FLOAT, (1, modulation, *part.output_size))
        )
        model.graph.output.append(make_tensor_value_info(RESIZED, TensorProto.FLOAT, (1, planes, *part.output_size)))
    return model


def branches_model(
    part: Part, network: Mapping[str, str], rewrites: Collection[Rewrite], opset: int, *, count: int
) -> onnx.ModelProto:
    """Writes the first or the last convolutions of several equal branches of a block, with other weights each.

    Args:
        part: The first convolution, whose inputs are one, or the last, whose outputs are added up.
        network: As for `layer_model`.
        rewrites: The rewrites of the export.
        opset: Version of the ONNX operator set.
        count: Number of branches.
    """
    graph, first = Graph(opset), part.kind == "conv_in"
    given, made = (1, part.in_channels, *part.input_size), (1, part.out_channels, *part.output_size)
    sources = ["x"] + ["x" if first else f"x.{number}" for number in range(1, count)]
    results: list[str] = []
    for number, source in enumerate(sources):
        y = _convolved(graph, part, network, rewrites, source, number)
        if first:
            results.append(graph.add("Relu", y, name=f"relu.{number}"))
        else:
            results = [graph.add("Add", *results, y, name=f"sum.{number}") if results else y]
    model = graph.model(result=results[-1], inputs=("x", given), outputs=("y", made))
    others = dict.fromkeys(sources[1:])
    model.graph.input.extend(make_tensor_value_info(name, TensorProto.FLOAT, given) for name in others if name != "x")
    model.graph.output.extend(make_tensor_value_info(name, TensorProto.FLOAT, made) for name in results[:-1])
    return model


def _convolved(
    graph: Graph,
    part: Part,
    network: Mapping[str, str],
    rewrites: Collection[Rewrite],
    x: str = "x",
    number: int = 0,
) -> str:
    """Adds a convolution of a tensor and its padding, with weights of its number; returns the name of its output."""
    k, edge = part.kernel_size, part.kernel_size // 2
    padding = network.get("padding", "zero")
    if padding != "zero" and part.kind in ("conv", "last"):  # the first and the last reflect, others have zeros
        padding = "reflect" if part.input_size == part.output_size else "zero"
    group = part.in_channels if part.kind == "conv_depthwise" else 1
    weight = _weight(part.out_channels, part.in_channels // group, k, seed=number)
    bias, pads, name = np.zeros(part.out_channels, np.float32), [edge] * 4, f"conv.{number}"
    if padding != "zero" and edge:
        x, pads = graph.pad(x, edge, padding, name=f"pad.{number}"), [0] * 4
    if part.kind == "conv_in" and "transposed_branches" in rewrites and k > 1 and part.out_channels < 2 * BLOCK:
        cut = [k - 1 - each for each in pads] if padding == "zero" else [k - 1] * 4
        return graph.conv(x, flipped(weight), bias, name=name, operator="ConvTranspose", pads=cut)
    if part.kind == "last" and "output_phases" in rewrites and part.out_channels < BLOCK:
        return in_phases(graph, x, weight, bias, name="conv")
    stride = -(-part.input_size[0] // part.output_size[0])
    return graph.conv(x, weight, bias, name=name, group=group, strides=[stride] * 2, pads=pads)


def _modulated(graph: Graph, part: Part, network: Mapping[str, str]) -> str:
    """Adds what a SPADE norm does beside its branches: it enlarges x and the label maps, and takes (1 + γ)·x̂ + β."""
    channels, (height, width) = part.out_channels, part.output_size
    large = _resized(graph, "x", (1, channels, height, width), name="enlarged")
    _resized(graph, LABELS, (1, int(network["planes"]), height, width), name=RESIZED)
    x = (_scaled if network["spade_norm"] == "folded" else _normed)(graph, large, channels)
    gamma, beta = graph.split(MODULATION, [channels, channels], name="halves")
    gamma = graph.add("Add", gamma, graph.constant("one", np.ones((), np.float32)), name="scale + 1")
    x = graph.add("Add", graph.add("Mul", x, gamma, name="scaled"), beta, name="shifted")
    return graph.add("Relu", x, name="relu")


def _normed(graph: Graph, x: str, channels: int) -> str:
    """Adds a norm that computes the statistics of every image."""
    scale, shift = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    inputs = (x, graph.constant("scale", scale), graph.constant("shift", shift))
    return graph.add("InstanceNormalization", *inputs, name="norm", epsilon=1e-5)


def _scaled(graph: Graph, x: str, channels: int) -> str:
    """Adds a norm with running statistics."""
    scale, shift = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    ones, zeros = graph.constant("scale", scale), graph.constant("shift", shift)
    return graph.add("BatchNormalization", x, ones, zeros, zeros, ones, name="norm")


def _resized(graph: Graph, x: str, shape: tuple[int, ...], *, name: str) -> str:
    return graph.add("Resize", x, "", "", graph.constant(f"{name} shape", np.array(shape, np.int64)), name=name,
                     mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip


def _weight(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Returns weights for a square kernel whose side is the last number."""
    random = np.random.default_rng(seed)
    return random.standard_normal((*shape, shape[-1]), np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))
