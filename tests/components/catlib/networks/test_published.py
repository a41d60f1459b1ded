import hashlib
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from components.catlib.config import (
    GeneratorConfig,
    InceptionConfig,
    InceptionSpadeConfig,
    MultiscaleConfig,
    NormConfig,
    PatchConfig,
    PixelConfig,
)
from components.catlib.errors import UserError
from components.catlib.networks.discriminator_architecture import discriminator_from_config
from components.catlib.networks.discriminators import build_discriminator
from components.catlib.networks.families import build_generator
from components.catlib.networks.initialisation import initialise
from components.catlib.networks.layers import BranchChannels
from components.catlib.networks.modules import make_norm
from components.catlib.networks.published import reading
from components.catlib.networks.published.discriminators import load_discriminator
from components.catlib.networks.published.generators import generator_from_state, load_generator
from components.catlib.networks.published.reading import load_statistics
from components.catlib.networks.spade.generator import SpadeNorm
from tests.components.catlib.networks.architectures import inception, pruned_inception, pruned_spade, spade

TRACKING = NormConfig(kind="batch", track_running_stats=True)
GENERATORS = {
    "instance": inception(),
    "batch": inception(norm=TRACKING),
    "batch, no statistics": inception(norm=NormConfig(kind="batch")),
    "no scales": inception(norm=NormConfig(affine=False)),
    "grey to colour": inception(1, 3),
    "student": pruned_inception(),
    "batch student": pruned_inception(norm=TRACKING),
    "one kernel size": inception(kernel_sizes=(7,)),
    "falling kernel sizes": inception(kernel_sizes=(5, 3, 1)),
    "no branches": inception(channels_reduction_factor=64),
    "spade more": spade(),
    "spade normal": spade(num_upsampling_layers="normal"),
    "spade most": spade((128, 128), num_upsampling_layers="most"),
    "spade spectral": spade(spectral=True),
    "spade instance": spade(spade_norm="instance", norm=NormConfig(kind="instance")),
    "spade student": pruned_spade(),
}


def like(architecture) -> GeneratorConfig:
    """A recipe that agrees with an architecture in what tensors cannot tell, and in nothing else."""
    shared = {"family": architecture.family, "activation": architecture.activation, "dropout": architecture.dropout}
    if architecture.family == "inception":
        return InceptionConfig(**shared, kernel_sizes=architecture.kernel_sizes, padding=architecture.padding)
    return InceptionSpadeConfig(
        **shared,
        num_upsampling_layers=architecture.num_upsampling_layers,
        spade_norm=architecture.spade_norm,
        norm=NormConfig(kind=architecture.norm.kind),
    )


def size(architecture) -> tuple[int, int]:
    return architecture.image_size if architecture.family == "inception_spade" else (16, 16)


def published_state(network: nn.Module) -> dict[str, Tensor]:
    """Adds what the published layout keeps for blocks without branches, where nothing reads it."""
    architecture, state = network.architecture, network.state_dict()
    if architecture.family == "inception":
        for number, block in enumerate(architecture.blocks):
            if block.vanished:
                state |= make_norm(architecture.norm, architecture.down[-1]).state_dict(
                    prefix=f"features.{number}.pw_bn."
                )
    else:
        for name, block in architecture.blocks.items():
            if block.branches.vanished:
                norm = SpadeNorm(architecture.block_widths[name][0], name, architecture)
                state |= norm.state_dict(prefix=f"{name}.spade.")
    return state


def save(content: object, folder: Path) -> Path:
    path = folder / "latest_net_G.pth"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("architecture", GENERATORS.values(), ids=GENERATORS.keys())
def test_generators_are_recognised_from_their_tensors(architecture, tmp_path) -> None:
    generator = build_generator(architecture)
    initialise(generator, kind="normal", gain=0.02, seed=3)
    state = generator.state_dict()
    path = save(published_state(generator), tmp_path)
    loaded = load_generator(path, like=like(architecture), input_size=size(architecture))
    assert loaded.architecture == architecture
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    found = loaded.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in found.items())


def test_names_of_data_parallel_runs_are_read(tmp_path) -> None:
    state = build_generator(inception()).state_dict()
    path = save({f"module.{name}": value for name, value in state.items()}, tmp_path)
    found = load_generator(path, like=like(inception()), input_size=(16, 16)).state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in found.items())


@pytest.mark.parametrize("architecture", [pruned_inception(), pruned_spade()], ids=["inception", "spade"])
def test_blocks_without_branches_may_hold_nothing_or_what_is_not_read(architecture) -> None:
    generator = build_generator(architecture)
    settings = {"like": like(architecture), "input_size": size(architecture), "where": "state"}
    assert published_state(generator).keys() > generator.state_dict().keys()
    for state in (generator.state_dict(), published_state(generator)):
        loaded = generator_from_state(state, **settings)
        assert loaded.state_dict().keys() == generator.state_dict().keys()
        assert loaded.distillation_layers == generator.distillation_layers


def test_kernel_sizes_come_from_all_blocks_together() -> None:
    """No block has all three kernel sizes, and no branch of size 5 is left in the first."""
    blocks = (BranchChannels(res=(1, 2, 0), dw=(0, 0, 0)), BranchChannels(res=(0, 0, 3), dw=(0, 1, 4)))
    architecture = inception().model_copy(update={"blocks": blocks})
    state = build_generator(architecture).state_dict()
    loaded = generator_from_state(state, like=InceptionConfig(), input_size=(16, 16), where="state")
    assert loaded.architecture == architecture


def test_blocks_that_disagree_about_the_order_of_kernels_are_refused() -> None:
    state = build_generator(inception(kernel_sizes=(1, 3))).state_dict()
    other = build_generator(inception(kernel_sizes=(3, 1))).state_dict()
    state |= {name: value for name, value in other.items() if name.startswith("features.1.")}
    with pytest.raises(UserError, match=r"kernel sizes \[1, 3\] in differing orders"):
        generator_from_state(state, like=InceptionConfig(), input_size=(16, 16), where="state")


def test_recipe_tells_what_tensors_cannot(tmp_path) -> None:
    path = save(build_generator(inception(norm=NormConfig(kind="batch"))).state_dict(), tmp_path)
    recipe = InceptionConfig(
        padding="zero",
        activation="leaky_relu",
        dropout=0.25,
        norm=NormConfig(kind="syncbatch", momentum=0.2, epsilon=1e-3, affine=False, track_running_stats=True),
    )
    architecture = load_generator(path, like=recipe, input_size=(16, 16)).architecture
    assert (architecture.padding, architecture.activation, architecture.dropout) == ("zero", "leaky_relu", 0.25)
    assert architecture.norm == NormConfig(kind="syncbatch", momentum=0.2, epsilon=1e-3)


def test_half_precision_and_old_norms_are_read(tmp_path) -> None:
    architecture = inception(norm=TRACKING)
    state = build_generator(architecture).state_dict()
    old = {name: value.half() for name, value in state.items() if not name.endswith("num_batches_tracked")}
    loaded = load_generator(save(old, tmp_path), like=like(architecture), input_size=(16, 16)).state_dict()
    assert all(torch.equal(loaded[name], value.float()) for name, value in old.items())
    assert loaded["down_sampling.2.num_batches_tracked"] == 0


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_both_formats_of_pytorch_files_are_read(tmp_path, zip_format: bool) -> None:
    state = build_generator(inception()).state_dict()
    path = tmp_path / "net.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zip_format)
    assert load_generator(path, like=InceptionConfig(), input_size=(16, 16)).architecture == inception()


def test_sizes_that_a_spade_generator_cannot_make_are_refused() -> None:
    architecture = spade()
    state = build_generator(architecture).state_dict()
    height, width = architecture.image_size
    with pytest.raises(UserError, match=f"multiples of .* pixels, found {height}x{width + 8}"):
        generator_from_state(state, like=like(architecture), input_size=(height, width + 8), where="here")


DISCRIMINATORS = [
    PatchConfig(base_channels=4),
    PatchConfig(base_channels=4, num_layers=1, norm=TRACKING),
    PatchConfig(base_channels=4, num_layers=5, norm=NormConfig(kind="batch", affine=False)),
    PixelConfig(base_channels=4),
    PixelConfig(base_channels=4, norm=TRACKING),
    MultiscaleConfig(base_channels=4, num_layers=4),
    MultiscaleConfig(base_channels=4, num_layers=2, num_scales=3),
]


@pytest.mark.parametrize("config", DISCRIMINATORS, ids=lambda config: config.family)
def test_discriminators_are_recognised_from_their_tensors(config, tmp_path) -> None:
    architecture = discriminator_from_config(config, in_channels=6)
    state = build_discriminator(architecture).state_dict()
    path = save({f"module.{name}": value for name, value in state.items()}, tmp_path)
    loaded = load_discriminator(path, like=PatchConfig())
    assert loaded.architecture == architecture
    found = loaded.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in found.items())


# ----------------------------------------------------------------------------------------------------- unexpected files


def refused(content: object, folder: Path, complaint: str) -> None:
    path = content if isinstance(content, Path) else save(content, folder)
    with pytest.raises(UserError, match=complaint) as caught:
        load_generator(path, like=InceptionConfig(), input_size=(16, 16))
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return dict(build_generator(inception()).state_dict())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: state.pop("up_sampling.7.weight"), r"lacks the tensor up_sampling\.7\.weight"),
        (lambda state: state.pop("features.1.res_ops.1.4.weight"), r"lacks the tensor features\.1\.res_ops\.1\.4"),
        (lambda state: state.update({"up_sampling.9.weight": torch.ones(1)}), r"holds the tensor up_sampling\.9"),
        (lambda state: state.update({"up_sampling.7.bias": torch.ones(4)}), r"up_sampling\.7\.bias is float32 \[4\]"),
        (lambda state: state.update({"down_sampling.1.weight": torch.ones(4)}), r"1\.weight has the shape \[4\]"),
        (lambda state: state["down_sampling.4.weight"].fill_(torch.inf), r"down_sampling\.4\.weight holds NaN or inf"),
        (lambda state: state.update(epoch=3), "'epoch' is a int"),
        (lambda state: state.update({3: torch.ones(1)}), "called '3'"),
        (lambda state: state.update({"x" * 10_000: torch.ones(1)}), "no name of a tensor"),
        (lambda state: state.update({"up_sampling.7.bias": torch.ones(3).to_sparse()}), "not made of plain numbers"),
        (lambda state: state.update({"up_sampling.7.bias": torch.ones(3) * 1j}), "not made of plain numbers"),
        (lambda state: state.update({"up_sampling.7.bias": torch.ones(3, dtype=torch.int32)}), r"bias is int64 \[3\]"),
        (lambda state: state.update({"up_sampling.7.bias": torch.ones(0)}), "is empty"),
        (lambda state: state.update({"module.fc.bias": state.pop("up_sampling.7.bias")}), "lacks the tensor up"),
        (
            lambda state: state.update({"features.0.res_ops.1.1.0.weight": torch.ones(2, 16, 2, 2)}),
            "kernel_sizes must be distinct odd numbers",
        ),
    ],
)  # fmt: skip
def test_unexpected_tensors_are_named(state, change, complaint: str, tmp_path) -> None:
    change(state)
    refused(state, tmp_path, complaint)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([1, 2], "holds a list"),
        ({}, "holds a dict"),
        (torch.ones(3), "holds a Tensor"),
        ({"weight": torch.ones(1), "bias": torch.ones(1)}, "is not a generator: .* but weight, bias"),
        (
            {"model": {"fc.weight": torch.ones(1)}},
            "is a checkpoint, not a state dict: its entry 'model' holds tensors by name; save this entry",
        ),
        ({"fc.weight": torch.ones(20, 5, 3, 3)}, "20 channels, expected a multiple of 16"),
    ],
)
def test_other_content_is_named(content: object, complaint: str, tmp_path) -> None:
    refused(content, tmp_path, complaint)


def test_a_discriminator_is_no_generator_and_the_other_way_round(tmp_path, state) -> None:
    config = PatchConfig(base_channels=4)
    network = build_discriminator(discriminator_from_config(config, in_channels=3))
    refused(network.state_dict(), tmp_path, "is not a generator")
    with pytest.raises(UserError, match="is not a discriminator"):
        load_discriminator(save(state, tmp_path), like=config)


@pytest.mark.parametrize(
    ("name", "tensor", "complaint"),
    [
        ("model.999.weight", torch.ones(1, 4, 4, 4), r"model\.11\.weight is float32 .*, expected"),
        ("model.99999999999.weight", torch.ones(1, 4, 4, 4), r"holds the tensor model\.99999999999"),
        ("model.5.weight", torch.ones(16, 8, 3, 3), r"model\.5\.weight is float32 \[16, 8, 3, 3\]"),
    ],
)
def test_unexpected_tensors_of_discriminators_are_named(name, tensor, complaint, tmp_path) -> None:
    config = PatchConfig(base_channels=4)
    network = build_discriminator(discriminator_from_config(config, in_channels=3))
    path = save(dict(network.state_dict()) | {name: tensor}, tmp_path)
    with pytest.raises(UserError, match=complaint):
        load_discriminator(path, like=config)


class _Attack:
    def __reduce__(self):
        return os.mkdir, (self.folder,)

    def __init__(self, folder: str) -> None:
        self.folder = folder


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_code_in_a_file_is_never_run(tmp_path, zip_format: bool) -> None:
    path, made = tmp_path / "net.pth", tmp_path / "made by the file"
    torch.save({"fc.weight": _Attack(str(made))}, path, _use_new_zipfile_serialization=zip_format)
    refused(path, tmp_path, "tensors and nothing else .*mkdir")
    path.write_bytes(pickle.dumps(_Attack(str(made))))
    refused(path, tmp_path, "tensors and nothing else")
    assert not made.exists()


def test_a_pickled_network_is_refused(tmp_path) -> None:
    refused(nn.Sequential(nn.Conv2d(3, 3, 1)), tmp_path, "tensors and nothing else")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04nonsense", b"\x80\x02", b"\x00" * 5000])
def test_files_of_another_kind_are_refused(tmp_path, content: bytes) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    refused(path, tmp_path, "tensors and nothing else")


def test_missing_file_and_folder_are_refused(tmp_path) -> None:
    refused(tmp_path / "none.pth", tmp_path, "There is no file")
    refused(tmp_path, tmp_path, "There is no file")


def test_few_bytes_that_pose_as_a_huge_tensor_are_refused(tmp_path, state) -> None:
    refused(
        state | {"down_sampling.1.weight": torch.ones(1).expand(2**28, 4, 7, 7)}, tmp_path, "more than 4 GiB of weights"
    )
    # Below that limit, what would be built from it is found out before it is built.
    posing = torch.ones(1).expand(60_000, 3, 7, 7)
    refused(state | {"down_sampling.1.weight": posing}, tmp_path, r"down_sampling\.1\.bias is float32 \[4\], expected")
    refused(state | {"down_sampling.1.weight": torch.ones(1).expand(70_000, 3, 7, 7)}, tmp_path, "square convolution")


def test_archive_that_unpacks_to_more_than_allowed_is_refused(tmp_path, monkeypatch) -> None:
    path = tmp_path / "net.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2_000_000))
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 1_000_000)
    assert path.stat().st_size < 10_000
    refused(path, tmp_path, "unpacks to more than")


def test_file_larger_than_allowed_is_not_read(tmp_path) -> None:
    path = tmp_path / "net.pth"
    with path.open("wb") as stream:
        stream.truncate(reading.MAX_FILE_BYTES + 1)  # sparse: takes no space
    refused(path, tmp_path, "is larger than 4 GiB")


def test_digest_is_checked_before_anything_is_read(tmp_path, state) -> None:
    path = save(state, tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_generator(path, like=InceptionConfig(), input_size=(16, 16), sha256=digest)
    with pytest.raises(UserError, match=f"has the SHA-256 {digest}, expected 000"):
        load_generator(path, like=InceptionConfig(), input_size=(16, 16), sha256="0" * 64)


@pytest.fixture(scope="module")
def valid_file(tmp_path_factory) -> bytes:
    state = build_generator(inception(base_channels=1, num_blocks=1, kernel_sizes=(1,))).state_dict()
    return save(dict(state), tmp_path_factory.mktemp("published")).read_bytes()


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_bytes_end_in_a_sentence_or_in_a_network(data, valid_file: bytes, tmp_path) -> None:
    damaged = bytearray(valid_file)
    for _ in range(data.draw(st.integers(1, 20))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "net.pth"
    path.write_bytes(bytes(damaged[: data.draw(st.integers(len(damaged) // 2, len(damaged)))]))
    try:
        network = load_generator(path, like=InceptionConfig(), input_size=(16, 16))
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert all(parameter.isfinite().all() for parameter in network.parameters())


# ----------------------------------------------------------------------------------------------------------- statistics


def test_statistics_are_read_as_float64(tmp_path) -> None:
    path = tmp_path / "real_stats.npz"
    mu = np.linspace(0, 1, 2048, dtype=np.float32)
    sigma = np.eye(2048) + 0.1
    np.savez(path, mu=mu, sigma=sigma)
    statistics = load_statistics(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    np.testing.assert_array_equal(statistics.mu, mu.astype(np.float64))
    np.testing.assert_array_equal(statistics.sigma, sigma)
    assert statistics.mu.dtype == statistics.sigma.dtype == np.float64


MU, SIGMA = np.zeros(2048), np.eye(2048)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"mu": MU}, "has no array sigma"),
        ({"sigma": SIGMA}, "has no array mu"),
        ({"mu": MU[:100], "sigma": SIGMA}, r"mu is float64 \[100\], expected floats \[2048\]"),
        ({"mu": MU, "sigma": SIGMA[:5]}, r"sigma is float64 \[5, 2048\]"),
        ({"mu": MU.astype(np.int64), "sigma": SIGMA}, "mu is int64"),
        ({"mu": MU + np.nan, "sigma": SIGMA}, "mu holds NaN"),
        ({"mu": MU, "sigma": SIGMA + np.triu(SIGMA + 1, 1)}, "not a covariance matrix"),
        ({"mu": MU, "sigma": -SIGMA}, "not a covariance matrix"),
        ({"mu": np.array([_Attack("here")]), "sigma": SIGMA}, "not an .npz file of plain arrays"),
    ],
)
def test_other_statistics_are_refused(arrays, complaint: str, tmp_path) -> None:
    path = tmp_path / "real_stats.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=complaint):
        load_statistics(path)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04nonsense", pickle.dumps({"mu": 1})])
def test_statistics_of_another_kind_are_refused(tmp_path, content: bytes) -> None:
    path = tmp_path / "real_stats.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="npz file of plain arrays"):
        load_statistics(path)


def test_a_single_array_is_no_statistics(tmp_path) -> None:
    path = tmp_path / "mu.npy"
    np.save(path, MU)
    with pytest.raises(UserError, match="npz file of plain arrays"):
        load_statistics(path)
