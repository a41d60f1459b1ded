"""Whole optimisation steps from given weights, for every family, against the published implementation.

Its losses, gradients and weights exist for float32 and (losses only) for float64. Ours are compared in float64, where
rounding explains next to nothing, and the first step in float32 as well, which is how trainings run.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.catlib.config import (
    CycleGanConfig,
    DistillConfig,
    GeneratorConfig,
    NormConfig,
    PatchConfig,
    Pix2PixConfig,
    SpadeConfig,
    validate,
)
from components.catlib.data.batches import Batch
from components.catlib.distributed.devices import Accelerator
from components.catlib.networks.directions import Direction
from components.catlib.networks.discriminators import Discriminator
from components.catlib.networks.generator import Generator
from components.catlib.networks.published.discriminators import discriminator_from_state
from components.catlib.networks.published.generators import generator_from_state
from components.catlib.objectives.cyclegan import CycleGanObjective
from components.catlib.objectives.distillation import DistillationObjective, distillation_objective
from components.catlib.objectives.distillers.mse import FeatureAdaptors
from components.catlib.objectives.pix2pix import Pix2PixObjective
from components.catlib.objectives.spade import SpadeObjective
from tests.parity.cases import Case

NETWORKS = {
    "pix2pix": {"G": "generator_source_to_target", "D": "discriminator_target"},
    "cycle_gan": {
        "G_A": "generator_source_to_target",
        "G_B": "generator_target_to_source",
        "D_A": "discriminator_target",
        "D_B": "discriminator_source",
    },
    "spade": {"G": "generator_source_to_target", "D": "discriminator_target"},
    "distill": {"student": "generator_source_to_target", "D": "discriminator_target"},
}
"""Their names of trained networks -> ours."""

LOSSES = {
    "G": "generator",
    "G_gan": "adversarial",
    "G_recon": "reconstruction",
    "G_feat": "feature_matching",
    "G_vgg": "perceptual",
    "G_distill": "distillation",
    "D": "discriminator",
    "D_real": "discriminator_real",
    "D_fake": "discriminator_fake",
}
"""Their names of losses -> ours, except for CycleGAN."""

CYCLEGAN_LOSSES = {
    "G": "generator",
    "G_A": "adversarial_target",
    "G_B": "adversarial_source",
    "G_cycle_A": "cycle_source",
    "G_cycle_B": "cycle_target",
    "G_idt_A": "identity_target",
    "G_idt_B": "identity_source",
    "D_A": "discriminator_target",
    "D_B": "discriminator_source",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Sorts the cases: `case` has right values, `eval_case` those of the published implementation's bug 1."""
    cases = [Case(path) for path in sorted(metafunc.config.getoption("--parity-dir").glob("step_*.json"))]
    right = [case for case in cases if not starts_in_eval_mode(case)]
    chosen = {
        "case": right,
        "eval_case": [case for case in cases if starts_in_eval_mode(case)],
        "case_with_gradients": [case for case in right if reference(case, "grad_step1")],
        "case_with_weights": [case for case in right if reference(case, "after")],
    }
    for argument in chosen.keys() & set(metafunc.fixturenames):
        assert chosen[argument] or argument == "eval_case", "no step_*.json with what this test needs"
        metafunc.parametrize(argument, chosen[argument], ids=[case.name for case in chosen[argument]])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The networks are so small that threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass
class Run:
    """What three of our steps gave; names are theirs."""

    losses: list[dict[str, float]] = field(default_factory=list)
    gradients: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    states: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def kind_of(case: Case) -> str:
    return case.facts["config"].get("model", "distill")


def is_spade(case: Case) -> bool:
    config = case.facts["config"]
    return "spade" in (config.get("model"), config.get("distiller"))


def starts_in_eval_mode(case: Case) -> bool:
    """Whether the published implementation's bug 1 is in this case: a student in eval mode during its first step."""
    return "in eval()" in case.facts["description"]


def tensors_of(case: Case) -> dict[str, Tensor]:
    """Returns the case's tensors and, where it has none of a kind, those of the case that its description points to."""
    tensors: dict[str, Tensor] = {}
    for name in re.findall(r"(step_\w+)\.safetensors", case.facts["description"]):
        tensors |= Case(case.path.with_name(f"{name}.json")).tensors
    kinds = {key.split("/")[0] for key in case.tensors}
    return {key: value for key, value in tensors.items() if key.split("/")[0] not in kinds} | case.tensors


def group(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def generator_of(case: Case, state: dict[str, Tensor], size: tuple[int, int]) -> Generator:
    config = case.facts["config"]
    activation = "leaky_relu" if "LeakyReLU" in config.get("active_fn", "") else "relu"
    family = "inception_spade" if is_spade(case) else "inception"
    settings = {"family": family, "activation": activation, "norm": NormConfig(kind="batch")}
    like = validate(GeneratorConfig, settings, where=case.name)
    return generator_from_state(state, like=like, input_size=size, where=case.name)


def discriminator_of(case: Case, state: dict[str, Tensor]) -> Discriminator:
    return discriminator_from_state(state, like=PatchConfig(norm=NormConfig(kind="batch")), where=case.name)


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """Translates the options that every training shares."""
    two_time_scales = "lr_G" in config
    if two_time_scales:
        assert config["lr_D"] == pytest.approx(4 * config["lr_G"])
    settings = {
        "adversarial": {"kind": config.get("gan_mode", "hinge"), "weight": config.get("lambda_gan", 1)},
        "adam_betas": config["betas"],
        "two_time_scales": two_time_scales,
        "learning_rate": 2 * config["lr_G"] if two_time_scales else config["lr"],
    }
    if "lambda_feat" in config:
        return settings | {"feature_matching": config["lambda_feat"], "perceptual": float(config.get("vgg", 0))}
    if "lambda_recon" in config:
        recon = config.get("recon")  # of distillations it tells in words that it is L1
        kind = recon if recon in ("l1", "l2", "smooth_l1") else "l1"
        return settings | {"reconstruction": {"kind": kind, "weight": config["lambda_recon"]}}
    return settings


def objective_of(
    case: Case, tensors: dict[str, Tensor], dtype: torch.dtype, size: tuple[int, int]
) -> Pix2PixObjective | CycleGanObjective | SpadeObjective | DistillationObjective:
    config, kind, accelerator = case.facts["config"], kind_of(case), Accelerator(cpu=True)
    settings = settings_of(config)
    networks: dict[str, nn.Module] = {}
    for theirs, ours in NETWORKS[kind].items():
        state = group(tensors, f"init/{theirs}/")
        network = generator_of(case, state, size) if "generator" in ours else discriminator_of(case, state)
        networks[ours] = network.to(dtype)
    if kind == "distill":
        return distillation_of(case, tensors, dtype, size, networks, settings, accelerator)
    if kind == "pix2pix":
        return Pix2PixObjective(Pix2PixConfig(**settings), networks, accelerator)
    if kind == "cycle_gan":
        assert config["lambda_A"] == config["lambda_B"]
        teacher_config = CycleGanConfig(
            cycle=config["lambda_A"],
            identity=config["lambda_identity"],
            image_pool_size=config["pool_size"],
            seed=config["python_random_seed_before_step_1"],
            **settings,
        )
        return CycleGanObjective(teacher_config, networks, accelerator)
    return SpadeObjective(SpadeConfig(**settings), networks, accelerator)


def distillation_of(
    case: Case,
    tensors: dict[str, Tensor],
    dtype: torch.dtype,
    size: tuple[int, int],
    networks: dict[str, nn.Module],
    settings: dict[str, Any],
    accelerator: Accelerator,
) -> DistillationObjective:
    config = case.facts["config"]
    teacher = generator_of(case, group(tensors, "init/teacher/"), size).to(dtype)
    student = networks["generator_source_to_target"]
    assert isinstance(student, Generator)
    assert list(student.distillation_layers) == config["mapping_layers"]
    mode = {"ka": "kernel_alignment", "mse": "mse"}[config.get("distill_G_loss_type", "ka")]
    if mode == "mse":
        networks["adaptors"] = adaptors = FeatureAdaptors(student, teacher).to(dtype)
        for number, convolution in enumerate(adaptors.convolutions):
            convolution.load_state_dict(group(tensors, f"init/A{number}/"))
    family = "spade" if is_spade(case) else "cyclegan" if config.get("dataset_mode") == "unaligned" else "pix2pix"
    distiller = {"kind": mode, "weight": config["lambda_distill"]}
    return distillation_objective(
        validate(DistillConfig, {"family": family, "distiller": distiller, **settings}, where=case.name),
        networks,
        accelerator,
        teacher=teacher,
        direction=Direction.SOURCE_TO_TARGET,
    )


def batches_of(case: Case, tensors: dict[str, Tensor], dtype: torch.dtype) -> list[Batch]:
    source, target = ("semantics", "real_B") if is_spade(case) else ("A", "B")
    return [
        Batch(tensors[f"input/{source}/{step}"].to(dtype), tensors[f"input/{target}/{step}"].to(dtype))
        for step in range(len(case.facts["losses_float64"]))
    ]


def in_their_names(case: Case, losses: dict[str, Tensor]) -> dict[str, float]:
    names = CYCLEGAN_LOSSES if kind_of(case) == "cycle_gan" else LOSSES
    translated = {theirs: losses[ours].item() for theirs, ours in names.items() if ours in losses}
    if "G_vgg" not in translated and is_spade(case):
        translated["G_vgg"] = 0.0
    layers = case.facts["config"].get("mapping_layers", [])
    for number, layer in enumerate(layers):
        if f"misalignment_{layer}" in losses:
            translated[f"G_distill{number}"] = losses[f"misalignment_{layer}"].item() - 1
        else:
            translated[f"G_distill{number}"] = losses[f"feature_mse_{layer}"].item()
    return translated


@functools.cache
def run(case: Case, dtype: torch.dtype, num_steps: int | None = None) -> Run:
    """Takes our steps; results are shared between tests."""
    tensors = tensors_of(case)
    batches = batches_of(case, tensors, dtype)[:num_steps]
    height, width = batches[0].target.shape[-2:]
    objective = objective_of(case, tensors, dtype, (height, width))
    networks = {theirs: objective.networks[ours] for theirs, ours in NETWORKS[kind_of(case)].items()}
    if "adaptors" in objective.networks:
        adaptors = objective.networks["adaptors"]
        assert isinstance(adaptors, FeatureAdaptors)
        networks |= {f"A{number}": convolution for number, convolution in enumerate(adaptors.convolutions)}
    result = Run()
    for batch in batches:
        result.losses.append(in_their_names(case, objective.step(batch)))
        if len(result.losses) == 1:
            result.gradients = {
                name: {key: parameter.grad.clone() for key, parameter in network.named_parameters()}
                for name, network in networks.items()
            }
    result.states = {name: network.state_dict() for name, network in networks.items()}
    return result


def reference(case: Case, kind: str) -> dict[str, dict[str, Tensor]]:
    """Returns tensors such as grad_step1/<network>/<name> by network."""
    found = group(case.tensors, f"{kind}/")
    return {network: group(found, f"{network}/") for network in {key.split("/")[0] for key in found}}


def test_losses_of_the_first_step(case: Case) -> None:
    ours, theirs = run(case, torch.float32, 1).losses[0], case.facts["losses_float32"][0]
    exact = case.facts["losses_float64"][0]
    assert theirs.keys() <= ours.keys()
    for name, expected in theirs.items():
        rounding = 5 * abs(expected - exact[name])
        assert ours[name] == pytest.approx(expected, rel=1e-5, abs=max(rounding, 1e-9)), name


def test_student_starts_in_train_mode(eval_case: Case) -> None:
    """The first step is that of the case without bug 1, not what comes out of a student in eval mode."""
    (twin,) = re.findall(r"(step_\w+)\.safetensors", eval_case.facts["description"])
    expected = Case(eval_case.path.with_name(f"{twin}.json")).facts["losses_float64"][0]
    wrong = eval_case.facts["losses_float64"][0]
    ours = run(eval_case, torch.float64, 1).losses[0]
    assert ours == pytest.approx(expected, rel=1e-8)
    assert abs(ours["G_recon"] - wrong["G_recon"]) > 1e-3 * abs(wrong["G_recon"])


def test_losses_of_all_steps_in_float64(case: Case) -> None:
    steps = case.facts["losses_float64"]
    for step, (ours, theirs) in enumerate(zip(run(case, torch.float64).losses, steps, strict=True)):
        for name, expected in theirs.items():
            assert ours[name] == pytest.approx(expected, rel=1e-8, abs=1e-10), (step, name)


def test_gradients_of_the_first_step(case_with_gradients: Case) -> None:
    """Their gradients are float32, so a tensor is compared as closely as their own float64 run comes to it."""
    case = case_with_gradients
    spread = case.facts["grad_step1_relative_difference_float32_vs_float64"]
    for network, gradients in reference(case, "grad_step1").items():
        ours = run(case, torch.float64).gradients[network]
        largest = max(gradient.abs().max().item() for gradient in gradients.values())
        assert ours.keys() == gradients.keys()
        for name, expected in gradients.items():
            rounding = spread[network][name]
            if rounding < 0.5:
                error = (ours[name] - expected).norm() / expected.norm()
                assert error < 2 * rounding + 1e-5, (network, name)
            else:  # the true gradient is 0, as of a bias in front of a norm
                assert ours[name].abs().max() < 1e-3 * largest, (network, name)


def test_weights_after_all_steps(case_with_weights: Case) -> None:
    """Adam turns the sign of a vanishing gradient into a full step, so such tensors are only known to that."""
    case = case_with_weights
    facts = case.facts
    furthest = 2 * facts["config"].get("lr", facts["config"].get("lr_D")) * len(facts["losses_float64"])
    for network, weights in reference(case, "after").items():
        ours, ill_conditioned = run(case, torch.float64).states[network], facts["ill_conditioned_tensors"][network]
        rounding = 5 * facts["max_abs_diff_after_float32_vs_float64"][network] + 1e-7
        for name, expected in weights.items():
            tolerance = max(rounding, furthest) if name in ill_conditioned else rounding
            torch.testing.assert_close(ours[name].to(expected.dtype), expected, rtol=1e-6, atol=tolerance, msg=name)


def test_running_statistics_after_all_steps(case: Case) -> None:
    """They tell how often each network ran in train mode, and on what; instance norms have none."""
    for network, norms in case.facts["norms_after"].items():
        ours = run(case, torch.float64).states[network]
        tracked = {name for name in norms if ".running_" in name}
        assert tracked == {name for name in ours if ".running_" in name}
        for name in tracked - case.facts["ill_conditioned_tensors"][network].keys():
            assert ours[name].norm().item() == pytest.approx(norms[name], rel=1e-2), (network, name)
