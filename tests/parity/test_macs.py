"""MACs and parameters against the published implementation's profiler."""

import re
from typing import Any

import pytest

from components.catlib.networks.families import Architecture
from components.catlib.networks.macs import layer_paper_macs, layer_parameters, paper_macs, parameters
from tests.parity.cases import Case
from tests.parity.reference_configs import inception_teacher, spade_teacher


def parse(name: str, common: dict[str, Any]) -> tuple[Architecture, tuple[int, int]]:
    """Reads a case's name such as "inception_9blocks/instance/track=False/ngf=64/256x256"."""
    options = dict(part.split("=") for part in name.split("/") if "=" in part)
    found = re.search(r"/(\d+)x(\d+)", name)
    assert found
    size = int(found[1]), int(found[2])
    config = common | {"ngf": int(options["ngf"]), "input_nc": 3, "output_nc": 3}
    family, variant = name.split("/")[:2]
    if family == "inception_spade":
        config |= {"num_upsampling_layers": variant, "semantic_nc": int(options["semantic_nc"])}
        return spade_teacher(config, size), size
    norm = {
        "norm": variant,
        "norm_affine": common["norm_affine"],
        "norm_track_running_stats": options["track"] == "True",
    }
    num_blocks = re.search(r"_(\d+)blocks", family)
    assert num_blocks
    return inception_teacher(config, norm, int(num_blocks[1]), size), size


@pytest.mark.cases("macs_params*.json")
def test_unpruned_generators(case: Case) -> None:
    for name, facts in case.facts["results"].items():
        architecture, size = parse(name, case.facts["common"])
        assert paper_macs(architecture, *size) == facts["macs"], name
        assert parameters(architecture) == facts["params_numel"], name
        layers = architecture.layers(*size)
        profiled = sum(layer_parameters(layer) for layer in layers if not layer.tracks_running_stats)
        assert profiled == facts["params_as_profiled"], name
        parts = {
            "macs_down": "down_sampling",
            "macs_features": "features",
            "macs_up": "up_sampling",
            **{f"by_module/{module}": module for module in facts.get("by_module", {})},
        }
        for key, module in parts.items():
            *parents, leaf = key.split("/")
            expected = facts.get(parents[0], {}).get(leaf) if parents else facts.get(leaf)
            if expected is not None:
                macs = sum(layer_paper_macs(layer) for layer in layers if layer.name.split(".")[0] == module)
                assert macs == expected, (name, module)


@pytest.mark.cases("gen_inception_*.json")
def test_small_generators(case: Case) -> None:
    config = case.facts["config"]
    found = re.search(r"_(\d+)blocks", config["netG"])
    assert found
    size = tuple(config["input_shape"][-2:])
    architecture = inception_teacher(config, config, int(found[1]), size)
    assert paper_macs(architecture, *size) == case.facts["macs_by_model_profiling_at_input_hw"]
    assert parameters(architecture) == case.facts["params_numel"]
