import numpy as np
import pytest
import torch
from torch import nn

from components.catlib.config import NormConfig, PruneConfig
from components.catlib.networks.families import Architecture, build_generator
from components.catlib.networks.macs import paper_macs
from components.catlib.networks.spade.architecture import InceptionSpadeArchitecture
from components.catlib.pruning.search import Pruning, prune
from components.catlib.pruning.slicing import inherit_weights
from tests.components.catlib.networks.sample_architectures import ARCHITECTURES, inception, spade

BATCH = NormConfig(kind="batch", track_running_stats=True)


def random_network(architecture: Architecture) -> nn.Module:
    """Makes a network in eval mode in which no two channels are alike: norms and running statistics are random too."""
    network = build_generator(architecture).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif name.endswith("num_batches_tracked"):
                tensor.fill_(7)
            elif tensor.ndim == 1 and not name.endswith(("weight_u", "weight_v")):
                tensor.normal_()
    return network


def arrays(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def with_weights(architecture: Architecture, state: dict[str, np.ndarray]) -> nn.Module:
    network = build_generator(architecture).eval()
    network.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return network


def prune_network(network: nn.Module, size: tuple[int, int], budget: str) -> Pruning:
    architecture, state = network.architecture, arrays(network)
    assert isinstance(architecture, Architecture)
    return prune(
        architecture,
        {norm.name: state[f"{norm.name}.weight"] for norm in architecture.prunable_norms()},
        input_size=size,
        budget=budget,
        config=PruneConfig(min_channels=1, student_init="inherit"),
    )


def image(architecture: Architecture, size: tuple[int, int]) -> torch.Tensor:
    return torch.randn(2, architecture.in_channels, *size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("architecture", "size"),
    [(architecture, size) for architecture, size in ARCHITECTURES.values() if architecture.norm.affine],
    ids=[name for name, (architecture, _) in ARCHITECTURES.items() if architecture.norm.affine],
)
def test_a_student_of_which_nothing_was_cut_is_the_teacher(architecture: Architecture, size: tuple[int, int]) -> None:
    teacher = random_network(architecture)
    before = {name: array.copy() for name, array in arrays(teacher).items()}
    pruning = prune_network(teacher, size, "1x")
    inherited = inherit_weights(arrays(teacher), pruning)
    assert inherited.keys() == before.keys()
    student = with_weights(pruning.architecture, inherited)
    for name, array in inherited.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
        array += 1  # must not reach the teacher's
    with torch.no_grad():
        assert torch.equal(student(image(architecture, size)), teacher(image(architecture, size)))


def silence(network: nn.Module, survivors: dict[str, np.ndarray], size: tuple[int, int]) -> None:
    """Makes the channels that will be dropped unheard: whatever reads them has a weight of 0 for them.

    A branch that will vanish makes nothing, its last bias included. A channel of a SPADE block's output has no scale of
    its own: all filters that make a dropped one become 0, which is how the cut recognises it.
    """
    modules = dict(network.named_modules())
    architecture = network.architecture
    assert isinstance(architecture, Architecture)
    scaled = {norm.name for norm in architecture.prunable_norms()}
    with torch.no_grad():
        for layer in architecture.layers(*size):
            if layer.kind == "norm" or layer.groups > 1:
                continue
            convolution = modules[layer.name]
            if layer.in_space in survivors:
                dropped = np.delete(np.arange(layer.in_channels), survivors[layer.in_space])
                weight = convolution.weight
                (weight if layer.kind == "conv_transpose" else weight.transpose(0, 1))[dropped] = 0
                if len(dropped) == layer.in_channels and layer.affine:
                    convolution.bias[:] = 0
            if layer.out_space in survivors.keys() - scaled:
                convolution.weight[np.delete(np.arange(layer.out_channels), survivors[layer.out_space])] = 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        (inception(num_blocks=2), (32, 32)),
        (inception(num_blocks=2, norm=BATCH, padding="zero"), (32, 32)),
        (inception(num_blocks=1, upsample="resize"), (32, 32)),
        (inception(num_blocks=1, upsample="subpixel", norm=BATCH), (32, 32)),
        (spade(norm=BATCH), (64, 128)),
        (spade(base_channels=4, num_upsampling_layers="most", crop_size=(128, 256), kernel_sizes=(1, 3)), (128, 256)),
    ],
    ids=["instance", "batch", "resize", "subpixel", "spade", "spade most"],
)
def test_dropping_what_nobody_hears_changes_nothing(architecture, size, seed: int) -> None:
    """The student computes what the teacher computes when only silent channels and branches were cut."""
    random = np.random.default_rng(seed)
    teacher = random_network(architecture)
    state = arrays(teacher)
    survivors = {}
    for norm in architecture.prunable_norms():
        count = (
            norm.channels // 2 if norm.group == "fc" else random.integers("branch" not in norm.group, norm.channels + 1)
        )
        survivors[norm.name] = np.sort(random.permutation(norm.channels)[:count])
        scales = state[f"{norm.name}.weight"]
        scales[:] = np.where(np.isin(np.arange(norm.channels), survivors[norm.name]), 1, 0.01) * random.uniform(
            0.8, 1.2, norm.channels
        )
    wanted = architecture.resized({name: len(channels) for name, channels in survivors.items()})
    if isinstance(wanted, InceptionSpadeArchitecture):
        for name, (reads, makes) in architecture.block_widths.items():
            if reads != makes:
                survivors[name] = np.sort(random.permutation(makes)[: wanted.block_widths[name][1]])
    silence(teacher, survivors, size)

    pruning = prune_network(teacher, size, str(paper_macs(wanted, *size)))
    assert pruning.architecture == wanted
    student = with_weights(wanted, inherit_weights(arrays(teacher), pruning))
    with torch.no_grad():
        expected = teacher(image(architecture, size))
        assert expected.std() > 1e-3
        torch.testing.assert_close(student(image(architecture, size)), expected, rtol=0, atol=2e-5)


def test_indices_of_every_kind_of_tensor() -> None:
    teacher = random_network(inception(num_blocks=1, norm=BATCH))
    state = arrays(teacher)
    pruning = prune_network(teacher, (32, 32), "0.4x")
    inherited = inherit_weights(state, pruning)
    first, second, features = (pruning.kept[f"down_sampling.{i}"] for i in (2, 5, 8))
    up, last = (pruning.kept[f"up_sampling.{i}"] for i in (1, 4))
    expected = {
        "down_sampling.1.weight": state["down_sampling.1.weight"][first],
        "down_sampling.4.weight": state["down_sampling.4.weight"][second][:, first],
        "up_sampling.0.weight": state["up_sampling.0.weight"][features][:, up],
        "up_sampling.4.running_var": state["up_sampling.4.running_var"][last],
        "up_sampling.7.weight": state["up_sampling.7.weight"][:, last],
        "up_sampling.7.bias": state["up_sampling.7.bias"],
        "features.0.pw_bn.weight": state["features.0.pw_bn.weight"][features],
        "features.0.pw_bn.running_mean": state["features.0.pw_bn.running_mean"][features],
        "features.0.pw_bn.num_batches_tracked": np.array(7),
    }
    hidden = pruning.kept["features.0.dw_ops.2.0.1"]
    student = {layer.identity: layer.name for layer in pruning.architecture.layers(32, 32)}
    depthwise = student["features.0.dw_5x5.conv_depthwise"]
    expected[f"{depthwise}.weight"] = state["features.0.dw_ops.2.2.0.weight"][hidden]
    for name, array in expected.items():
        np.testing.assert_array_equal(inherited[name], array, err_msg=name)


def test_spectral_norm_survives_a_cut() -> None:
    teacher = random_network(spade(norm=BATCH, spectral=True))
    inherited = inherit_weights(arrays(teacher), pruning := prune_network(teacher, (64, 128), "0.5x"))
    student = with_weights(pruning.architecture, inherited)
    for name, array in inherited.items():
        if name.endswith(("weight_u", "weight_v")):
            assert np.linalg.norm(array) == pytest.approx(1, abs=1e-5)
    with torch.no_grad():
        assert student(image(pruning.architecture, (64, 128))).isfinite().all()


def test_tensors_of_another_network_are_a_mistake_of_ours() -> None:
    teacher = random_network(inception(num_blocks=1))
    pruning = prune_network(teacher, (32, 32), "0.5x")
    with pytest.raises(AssertionError, match="not of this teacher"):
        inherit_weights(arrays(random_network(inception(num_blocks=2))), pruning)
