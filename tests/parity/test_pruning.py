"""The threshold search and the cutting of weights against the published implementation."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from components.catlib.config import PruneConfig
from components.catlib.networks.families import Architecture, build_generator
from components.catlib.networks.macs import layer_paper_macs, paper_macs, parameters
from components.catlib.pruning.search import Pruning, prune
from components.catlib.pruning.slicing import inherit_weights
from tests.parity.cases import Case
from tests.parity.reference_configs import (
    inception_student,
    inception_teacher,
    size_of,
    spade_student,
    spade_teacher,
)


def read_scales(case: Case) -> dict[str, np.ndarray]:
    """Reads the scales beside a case: the file that its description names, or that shares the name's beginning."""
    named = [case.path.with_name(name) for name in re.findall(r"\w+\.safetensors", case.facts["description"])]
    found = [path for path in named if path.is_file()]
    beginning = "_".join(case.name.split("_")[:2])
    (path,) = found or case.path.parent.glob(f"{beginning}*scales.safetensors")
    return load_file(path)


def norm_names(scales: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key.removesuffix(".weight"): value for key, value in scales.items()}


def prune_config(config: dict[str, Any]) -> PruneConfig:
    """Reads the reference's bounds; they may be absent or the text "not set"."""

    def bound(key: str) -> int | None:
        value = config.get(key)
        return None if isinstance(value, str) else value

    return PruneConfig(
        min_channels=config["prune_cin_lb"],
        max_first_channels=bound("prune_cin_ub"),
        min_feature_channels=bound("prune_ft_cin_lb"),
    )


def check_search(pruning: Pruning, facts: dict[str, Any], student: Architecture) -> None:
    assert pruning.architecture == student
    assert pruning.threshold == pytest.approx(facts["threshold"], rel=1e-6)
    assert pruning.paper_macs == facts["macs"] == paper_macs(student, *pruning.input_size)
    assert [macs for _, macs in pruning.steps] == facts["searched_macs_per_step"]


@pytest.mark.cases("prune_full*.json")
def test_full_size_search(case: Case) -> None:
    config, scales = case.facts["config"], read_scales(case)
    size = size_of(config["data"])
    for norm, results in case.facts["results"].items():
        vectors = norm_names({k.removeprefix(f"{norm}/"): v for k, v in scales.items() if k.startswith(f"{norm}/")})
        for facts in results["cases"]:
            teacher = inception_teacher(config, results["norm_kwargs"], len(facts["arch"]["features"]), size)
            assert paper_macs(teacher, *size) == results["teacher_macs"]
            pruning = prune(teacher, vectors, input_size=size, budget=str(facts["target"]), config=prune_config(config))
            check_search(pruning, facts, inception_student(teacher, facts["arch"]))
            assert parameters(pruning.architecture) == facts["params_numel"]
            magnitudes = np.abs(np.concatenate(list(vectors.values())))
            assert pruning.threshold is not None
            kept = magnitudes[magnitudes > pruning.threshold]
            assert kept.min() == pytest.approx(facts["smallest_abs_scale_above_threshold"], rel=1e-7)


@pytest.mark.cases("prune_spade*.json")
def test_full_size_spade_search(case: Case) -> None:
    config, vectors = case.facts["config"], norm_names(read_scales(case))
    size = size_of(config["data"])
    teacher = spade_teacher(config, size)
    assert paper_macs(teacher, *size) == case.facts["teacher_macs"]
    assert parameters(teacher) == case.facts["teacher_params_numel"]
    for facts in case.facts["cases"]:
        pruning = prune(teacher, vectors, input_size=size, budget=str(facts["target"]), config=prune_config(config))
        check_search(pruning, facts, spade_student(teacher, facts["arch"]))
        assert parameters(pruning.architecture) == facts["params_numel"]
        by_module: dict[str, int] = {}
        for layer in pruning.architecture.layers(*size):
            module = layer.name.split(".")[0]
            by_module[module] = by_module.get(module, 0) + layer_paper_macs(layer)
        assert by_module == {k: v for k, v in facts["macs_by_top_level_module"].items() if k in by_module}


@pytest.mark.cases("prune_spade*.json")
def test_vanished_spade_block_costs_what_is_there(case: Case) -> None:
    """The reference adds the teacher's MACs of a SPADE norm that no longer runs."""
    facts, config = case.facts["vanished_block_case"], case.facts["config"]
    size = size_of(config["data"])
    teacher = spade_teacher(config, size)
    student = spade_student(teacher, facts["arch"])
    stale = facts["stale_macs"]
    assert paper_macs(student, *size) == stale["same_student_profiled_without_stale_attributes"]

    vanished = [name for name, block in student.blocks.items() if block.branches.vanished]
    assert vanished
    found = re.search(r"multiplied by ([0-9.e-]+)", stale["note"])
    assert found
    vectors = {
        name: scale * np.float32(found[1]) if re.match(rf"({'|'.join(vanished)})\.(res|dw)_ops", name) else scale
        for name, scale in norm_names(read_scales(case)).items()
    }
    surplus = stale["reported_by_reference"] - stale["same_student_profiled_without_stale_attributes"]
    pruning = prune(
        # Less the surplus, so that the search takes the reference's turns.
        teacher, vectors, input_size=size, budget=str(facts["target"] - surplus), config=prune_config(config)
    )  # fmt: skip
    assert pruning.architecture == student
    assert pruning.threshold == pytest.approx(facts["threshold"], rel=1e-6)
    assert [macs + surplus for _, macs in pruning.steps] == facts["searched_macs_per_step"]


def prune_small(case: Case) -> tuple[Pruning, dict[str, np.ndarray]]:
    config, result = case.facts["config"], case.facts["result"]
    size = size_of(config["data"])
    teacher = inception_teacher(config, config, len(result["arch"]["features"]), size)
    state = {name: tensor.numpy() for name, tensor in case.group("teacher").items()}
    scales = {norm.name: state[f"{norm.name}.weight"] for norm in teacher.prunable_norms()}
    pruning = prune(teacher, scales, input_size=size, budget=str(result["target"]), config=prune_config(config))
    return pruning, state


def is_output_norm(key: str) -> bool:
    return ".pw_bn." in key


@pytest.mark.cases("prune_small_*.json")
def test_small_search(case: Case) -> None:
    pruning, _ = prune_small(case)
    result = case.facts["result"]
    check_search(pruning, result, inception_student(pruning.teacher, result["arch"]))
    assert pruning.teacher_macs == case.facts["teacher_macs"]
    unused = sum(
        value.numel()
        for key, value in case.group("student").items()
        if is_output_norm(key)
        and key.endswith(("weight", "bias"))
        and pruning.architecture.blocks[int(key.split(".")[1])].vanished
    )
    assert parameters(pruning.architecture) == result["params_numel"] - unused


@pytest.mark.cases("prune_small_*.json")
def test_cut_weights(case: Case) -> None:
    """Every tensor is the reference's, but for output norms, which the reference does not copy."""
    pruning, state = prune_small(case)
    inherited, reference = inherit_weights(state, pruning), case.group("student")
    assert {k for k in inherited if not is_output_norm(k)} == {k for k in reference if not is_output_norm(k)}
    features = pruning.kept["down_sampling.8"]
    for key, array in inherited.items():
        if not is_output_norm(key):
            np.testing.assert_array_equal(array, reference[key].numpy(), err_msg=key)
        elif key.endswith("num_batches_tracked"):
            assert array == state[key]
        else:
            np.testing.assert_array_equal(array, state[key][features], err_msg=key)
    build_generator(pruning.architecture).load_state_dict({k: torch.from_numpy(v) for k, v in inherited.items()})


@pytest.mark.cases("prune_small_*.json")
def test_outputs_of_teacher_and_student(case: Case) -> None:
    """The student's output is the reference's once its output norms are as fresh as there.

    Rounding grows with the features, which reach 86 in a teacher here: its float32 output in the reference is itself
    2e-5 away from its float64 output.
    """
    pruning, state = prune_small(case)
    student_state = inherit_weights(state, pruning)
    reference = case.group("student")
    student_state |= {key: reference[key].numpy() for key in student_state if is_output_norm(key)}
    for architecture, weights, expected in (
        (pruning.teacher, state, case.tensors["teacher_output_eval"]),
        (pruning.architecture, student_state, case.tensors["student_output_eval"]),
    ):
        network = build_generator(architecture).eval()
        network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
        with torch.no_grad():
            output, features = network(case.tensors["input"], return_features=True)
        largest = max(feature.abs().max().item() for feature in features.values())
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-6 * max(10.0, largest))
