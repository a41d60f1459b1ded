import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest

from components.catlib.config import NormConfig, WeightsConfig
from components.catlib.config.student import Rewrite
from components.catlib.errors import UserError
from components.catlib.latency.parts import Part, parts
from components.catlib.latency.table import LatencyTable, open_table
from components.catlib.networks.layers import BranchChannels
from tests.components.catlib.latency.tables import document, table
from tests.components.catlib.networks.sample_architectures import inception, pruned, spade

BATCH = NormConfig(kind="batch", track_running_stats=True)
EVERY = get_args(Rewrite)


def part(read: int, made: int) -> Part:
    return Part("conv_in", 3, (8, 8), (8, 8), read, made)


@pytest.mark.parametrize(
    ("read", "made", "milliseconds"),
    [
        (4, 2, 1.0),
        (8, 6, 4.0),
        (4, 4, 2.0),  # half way from 1 to 3
        (12, 2, 3.0),  # between the multiples 8 and 16 of 4; the slow 10 does not count
        (10, 2, 9.0),
        (9, 2, 5.5),  # no other odd count lies below, so all around it count
    ],
)
def test_times_between_measured_counts(read: int, made: int, milliseconds: float) -> None:
    assert LatencyTable.model_validate(document()).time(part(read, made)) == pytest.approx(milliseconds)


@pytest.mark.parametrize("unmeasured", [part(17, 2), part(3, 2), part(4, 7), part(4, 2)._replace(kernel_size=5)])
def test_what_was_not_measured_is_named(unmeasured: Part) -> None:
    with pytest.raises(UserError, match=r"has no time of conv_in .* channels at 8x8 pixels; .*measure-latency"):
        LatencyTable.model_validate(document()).time(unmeasured)


@pytest.mark.parametrize("upsample", ["resize", "subpixel"])
def test_a_table_of_other_layers_that_double_sizes_is_refused(upsample: Any) -> None:
    student = inception(norm=BATCH, num_blocks=1)
    other = student.model_copy(update={"upsample": upsample})
    with pytest.raises(UserError, match=rf"has no time of conv_{upsample} 3x3 .*; measure one that fits the teacher"):
        table(student, (32, 32), lambda kind, read, out: 0.25).latency(other, (32, 32))
    own = table(other, (32, 32), lambda kind, read, out: 0.25)
    assert own.latency(other, (32, 32)) == pytest.approx(0.25 * len(parts(student, (32, 32), ())))


def test_latency_is_overhead_time_per_layer_and_scaled_sum() -> None:
    student = inception(norm=BATCH, num_blocks=1)
    made = table(student, (32, 32), lambda kind, read, out: 0.25)
    assert made.latency(student, (32, 32)) == pytest.approx(0.25 * len(parts(student, (32, 32), ())))
    scaled = made.model_copy(update={"overhead": 2.0, "per_layer": 0.01, "scale": 0.5})
    assert scaled.latency(student, (32, 32)) == pytest.approx(2 + (0.01 + 0.125) * len(parts(student, (32, 32), ())))


def test_no_student_is_faster_than_the_least() -> None:
    """In a table where narrow layers are slow, the smallest student is no bound."""
    widest = inception(norm=BATCH, num_blocks=1)
    made = table(widest, (32, 32), lambda kind, read, out: 10.0 if out < 3 else 1.0 + 0.01 * read * out)
    smallest = pruned(widest, down_sampling=1, up_sampling=1, features=0)
    assert made.latency(smallest, (32, 32)) > made.latency(pruned(widest, features=0), (32, 32))
    assert made.least(smallest, (32, 32)) <= made.latency(pruned(widest, features=0), (32, 32))
    slow = made.model_copy(update={"per_layer": 5.0})
    more = 5 * len(parts(smallest, (32, 32), ()))
    assert slow.least(smallest, (32, 32)) == pytest.approx(made.least(smallest, (32, 32)) + more)


def test_other_networks_than_the_measured_ones_are_refused() -> None:
    made = table(inception(norm=BATCH), (32, 32), lambda kind, read, out: 1.0)
    with pytest.raises(UserError, match="measured for networks with padding reflect, but the student has zero"):
        made.latency(inception(norm=BATCH).model_copy(update={"padding": "zero"}), (32, 32))
    with pytest.raises(UserError, match="with norm folded, but the student has instance"):
        made.latency(inception(), (32, 32))


# ---------------------------------------------------------------------------------------------------------------- parts


def test_rewrites_merge_depthwise_branches_and_pad_channels() -> None:
    """Pointwise branches of 2 and depthwise ones of 3 and 5 become one of 10 hidden channels, padded to 12."""
    student = inception(norm=BATCH, num_blocks=1).model_copy(
        update={"down": (6, 10, 18), "blocks": (BranchChannels(res=(2, 4, 0), dw=(0, 3, 5)),)}
    )
    found = parts(student, (32, 32), EVERY)
    at = ((8, 8), (8, 8))
    assert Counter(found) >= Counter(
        [
            Part("conv_in", 1, *at, 20, 12),
            Part("conv_depthwise", 5, *at, 12, 12),
            Part("conv_out", 1, *at, 12, 20),
            Part("conv_in", 3, *at, 20, 4),
            Part("conv_out", 3, *at, 4, 20),
            Part("conv", 3, (32, 32), (16, 16), 6, 12),
        ]
    )
    assert len(found) == 3 + 5 + 2 + 1
    assert found[-1].kind == "last"
    plain = Counter(each.kind for each in parts(student, (32, 32), ()))
    assert plain == {"conv": 3, "conv_in": 4, "conv_depthwise": 2, "conv_out": 4, "conv_transpose": 2, "last": 1}


def test_norms_that_compute_statistics_take_time() -> None:
    assert sum(each.kind == "norm" for each in parts(inception(num_blocks=1), (32, 32), EVERY)) > 3
    assert not any(each.kind == "norm" for each in parts(inception(num_blocks=1, norm=BATCH), (32, 32), EVERY))


def test_a_vanished_spade_block_takes_no_modulation() -> None:
    def modulations(student: Any) -> int:
        return sum(each.kind == "modulation" for each in parts(student, (64, 128), ()))

    assert modulations(spade()) - modulations(pruned(spade(), head_0__res_ops=0, head_0__dw_ops=0)) == 1


def test_a_spade_norm_without_branches_modulates_nothing() -> None:
    """With running statistics it scales and shifts; without, it computes statistics."""

    def norms(student: Any) -> Counter[str]:
        kinds = ("modulation", "scaling", "norm")
        return Counter(part.kind for part in parts(student, (64, 128), ()) if part.kind in kinds)

    blocks, shortcuts = 5, 4  # the last two blocks have no branches
    assert norms(spade()) == Counter(modulation=blocks, scaling=shortcuts)
    plain = pruned(spade(), head_0__spade=0)
    assert norms(plain) == Counter(modulation=blocks - 1, scaling=shortcuts + 1)
    plain = pruned(spade(spade_norm="instance"), head_0__spade=0)
    assert norms(plain) == Counter(modulation=blocks - 1, scaling=shortcuts, norm=1)


def test_tables_of_other_spade_norms_are_refused() -> None:
    made = table(spade(), (64, 128), lambda kind, read, out: 1.0)
    with pytest.raises(UserError, match="measured for networks with spade_norm folded, but the student has instance"):
        made.latency(spade(spade_norm="instance"), (64, 128))


# ------------------------------------------------------------------------------------------------------- hostile tables


def layer(**changes: Any) -> dict[str, Any]:
    return document(layers=[document()["layers"][0] | changes])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2", "is not JSON"),
        ("[]", "must be a mapping of names to values"),
        (json.dumps(document(format=2)), "format"),
        (json.dumps(document(threads=0)), "threads"),
        (json.dumps(document(scale=-1)), "scale"),
        (json.dumps(document(per_layer=-1)), "per_layer"),
        (json.dumps(document(multiple=0)), "multiple"),
        (json.dumps(document(extra=1)), "extra"),
        (json.dumps(document(layers=[])), "layers"),
        (json.dumps(document(rewrites=["faster"])), "rewrites"),
        (json.dumps(document(device="x" * 300)), "device"),
        (json.dumps(layer(milliseconds=[[1, 3], [2, 4], [9, 9]])), "milliseconds needs a row per in_channels"),
        (json.dumps(layer(milliseconds=[[1], [2], [9], [4]])), "milliseconds needs a row per in_channels"),
        (json.dumps(layer(milliseconds=[[-1, 3], [2, 4], [9, 9], [4, 6]])), "milliseconds"),
        (json.dumps(layer(milliseconds=[[float("nan"), 3], [2, 4], [9, 9], [4, 6]])), "is not JSON"),
        (json.dumps(layer(milliseconds=[["1e999", 3], [2, 4], [9, 9], [4, 6]])), "milliseconds"),
        (json.dumps(layer()).replace("[9, 9]", "[9, 1e999]"), "is not JSON|milliseconds"),
        (json.dumps(layer(in_channels=[4, 10, 8, 16])), "must be ascending"),
        (json.dumps(layer(in_channels=[0, 8, 10, 16])), "in_channels"),
        (json.dumps(layer(kind="matrix product")), "kind"),
    ],
)
def test_a_hostile_table_is_refused_in_one_sentence(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as refused:
        open_table(WeightsConfig(uri=str(path)))
    assert str(refused.value).startswith(f"Latency table {path}")
    assert "\n" not in str(refused.value)


def test_a_missing_a_large_and_another_table_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.json"
    with pytest.raises(UserError, match="cannot be read"):
        open_table(WeightsConfig(uri=str(path)))
    path.write_text(json.dumps(document()), encoding="utf-8")
    _, digest = open_table(WeightsConfig(uri=str(path)))
    assert open_table(WeightsConfig(uri=str(path), sha256=digest))[0].device == "a phone"
    with pytest.raises(UserError, match=rf"has the SHA-256 {digest}, expected 0000"):
        open_table(WeightsConfig(uri=str(path), sha256="0" * 64))
    monkeypatch.setattr("components.catlib.latency.table.LARGEST_FILE", 10)
    with pytest.raises(UserError, match="has more than"):
        open_table(WeightsConfig(uri=str(path)))


def test_reading_a_table_loads_neither_torch_nor_a_runtime() -> None:
    code = "import sys, components.catlib.latency.table; sys.exit(bool({'torch', 'onnxruntime'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
