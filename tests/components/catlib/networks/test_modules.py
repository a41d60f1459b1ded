"""Norms and activations: memory formats, and what autograd records."""

import collections
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional

from components.catlib.config import NormConfig
from components.catlib.networks.discriminator_architecture import MultiscaleArchitecture, PatchArchitecture
from components.catlib.networks.discriminators import build_discriminator
from components.catlib.networks.families import build_generator
from components.catlib.networks.initialisation import initialise
from components.catlib.networks.layers import BranchChannels
from components.catlib.networks.modules import InstanceNorm
from components.catlib.networks.spade.architecture import InceptionSpadeArchitecture, SpadeBlock
from tests.components.catlib.networks.architectures import inception, spade

INSTANCE = NormConfig(kind="instance")
VANISHED = BranchChannels(res=(0, 0, 0), dw=(0, 0, 0))


def wide_spade(**blocks: SpadeBlock) -> InceptionSpadeArchitecture:
    """Makes a SPADE generator of instance norms, whose last block has two branches of two channels."""
    whole = spade(spade_norm="instance", norm=INSTANCE, num_upsampling_layers="normal", activation="leaky_relu")
    return whole.model_copy(update={"blocks": whole.blocks | {"up_3": SpadeBlock(branches=FEW, spade=FEW)} | blocks})


FEW = BranchChannels(res=(0, 3, 2), dw=(0, 2, 0))
GENERATORS = {  # at least two channels everywhere, because one channel has no memory format
    "inception": inception(),
    "inception student": inception().model_copy(update={"blocks": (FEW, FEW, VANISHED)}),
    "inception with running statistics": inception(norm=NormConfig(track_running_stats=True)),
    "spade": wide_spade(),
    "spade student": wide_spade(
        head_0=SpadeBlock(branches=FEW, spade=VANISHED), up_0=SpadeBlock(branches=VANISHED, spade=FEW)
    ),
}
NETWORKS = {name: lambda made=made: build_generator(made) for name, made in GENERATORS.items()} | {
    "patch": lambda: build_discriminator(
        PatchArchitecture(in_channels=3, base_channels=4, num_layers=2, norm=INSTANCE)
    ),
    "multiscale": lambda: build_discriminator(
        MultiscaleArchitecture(in_channels=3, base_channels=4, num_layers=3, num_scales=2)
    ),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    """Builds a network with weights that show every channel, and an input for it."""
    network = NETWORKS[name]()
    initialise(network, kind="xavier", gain=1.0, seed=3)
    channels = getattr(network.architecture, "in_channels", 3)
    size = getattr(network.architecture, "fixed_size", None) or (32, 32)
    return network, 2 * torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0)) - 1


def total(output: Tensor | list[list[Tensor]]) -> Tensor:
    """Returns a scalar that every value of a network's output counts in."""
    if isinstance(output, Tensor):
        return output.square().sum()
    return torch.stack([each.square().sum() for each in itertools.chain(*output)]).sum()


def recorded(loss: Tensor) -> collections.Counter[str]:
    """Counts the operations of a graph by their names in autograd."""
    seen, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [earlier for earlier, _ in node.next_functions]
    return collections.Counter(node.name() for node in seen)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_activation_overwrites_a_view(name: str, memory_format: torch.memory_format) -> None:
    network, x = made(name)
    if name != "multiscale":  # its spectral norms copy NHWC weights to look at them as matrices
        network.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
    found = recorded(total(network(x.to(memory_format=memory_format))))
    assert found["ConvolutionBackward0"] > 3
    assert [kind for kind in found if any(word in kind for word in ("CopySlices", "AsStrided"))] == []
    instance_norms = sum(isinstance(module, InstanceNorm) for module in network.modules())
    # On CPUs their images go to NCHW and back.
    assert found["CloneBackward0"] == (2 * instance_norms if memory_format == torch.channels_last else 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_activations_out_of_place_compute_the_same_bits(name: str) -> None:
    network, x = made(name)
    results = []
    for inplace in (False, True):
        for module in network.modules():
            if isinstance(module, nn.ReLU | nn.LeakyReLU):
                module.inplace = inplace
        network.zero_grad()
        for buffer in network.buffers():
            buffer.copy_(torch.ones_like(buffer))
        torch.manual_seed(0)
        loss = total(network(x))
        loss.backward()
        results.append([loss, *(parameter.grad for parameter in network.parameters())])
    assert any(each.abs().sum() for each in results[0][1:])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("name", GENERATORS)
def test_nhwc_memory_stays_so_through_a_whole_generator(name: str) -> None:
    (plain, x), (generator, _) = made(name), made(name)
    plain.double()
    generator.double().to(memory_format=torch.channels_last)
    x = x.double()
    formats = formats_seen(generator)
    for training in (True, False):
        plain.train(training), generator.train(training)
        formats.clear()
        found, expected = generator(nhwc(x)), plain(x)
        assert len(formats) > 20
        assert set(formats.values()) == {True}
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
        ours = torch.autograd.grad(total(found), list(generator.parameters()))
        theirs = torch.autograd.grad(total(expected), list(plain.parameters()))
        assert largest_difference(ours, theirs) < 1e-10
        assert largest_difference(tuple(generator.buffers()), tuple(plain.buffers())) < 1e-11


def largest_difference(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Returns the largest difference in any tensor, relative to the largest value of all."""
    largest = max([1.0, *(each.abs().max().item() for each in expected)])
    differences = ((one - other).abs().max().item() for one, other in zip(found, expected, strict=True))
    return max(differences, default=0.0) / largest


def nhwc(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def formats_seen(network: nn.Module) -> dict[str, bool]:
    """Records in every pass which modules return NHWC memory, where that is not NCHW memory too."""
    seen: dict[str, bool] = {}

    def look(name: str, output: Tensor) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[1] > 1 and output.shape[2:] != (1, 1):
            seen[name] = output.is_contiguous(memory_format=torch.channels_last)

    for name, module in network.named_modules():
        module.register_forward_hook(lambda _module, _inputs, output, name=name: look(name, output))
    return seen


@pytest.mark.parametrize("name", ["inception student", "spade student"])
def test_nhwc_memory_stays_so_on_a_gpu(name: str) -> None:
    generator, x = made(name)
    formats = formats_seen(generator)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):
        state = {key: nhwc(torch.empty(value.shape)) for key, value in generator.state_dict().items()}
        image = torch.func.functional_call(generator, state, nhwc(torch.empty(x.shape)))
        assert image.device.type == "cuda"
        # torch's reflected padding knows only NCHW there; the convolution behind it returns NHWC again.
        pads = {key for key, module in generator.named_modules() if isinstance(module, nn.ReflectionPad2d)}
        assert {key for key, kept in formats.items() if not kept} == pads
        # The reason why GPUs do without torch's group norm.
        assert functional.group_norm(nhwc(torch.empty(2, 8, 4, 4)), 8).is_contiguous()


@pytest.mark.parametrize("affine", [True, False])
def test_the_nhwc_form_is_instance_norm(affine: bool) -> None:
    norm = InstanceNorm(5, affine=affine, eps=1e-3).double()
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    x = (3 + torch.randn(2, 5, 6, 7, dtype=torch.float64)).requires_grad_()
    other = nhwc(x.detach()).requires_grad_()
    found, expected = norm.by_sums(other), norm(x)
    torch.testing.assert_close(norm(other), expected, rtol=0, atol=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights, learned = torch.randn_like(expected), [*norm.parameters()]
    ours = torch.autograd.grad((found * weights).sum(), [other, *learned], create_graph=True)
    theirs = torch.autograd.grad((expected * weights).sum(), [x, *learned], create_graph=True)
    assert largest_difference(ours, theirs) < 1e-12
    # Gradient penalties differentiate twice.
    ours = torch.autograd.grad(ours[0].square().sum(), other)
    theirs = torch.autograd.grad(theirs[0].square().sum(), x)
    assert largest_difference(ours, theirs) < 1e-11


def test_short_types_come_back_as_they_were_with_statistics_in_full() -> None:
    norm = InstanceNorm(5, affine=True)
    x = nhwc(100 + torch.randn(2, 5, 16, 16)).bfloat16()
    found = norm.by_sums(x)
    assert norm(x).is_contiguous(memory_format=torch.channels_last)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.float(), norm(x.float()), rtol=0, atol=0.02)
