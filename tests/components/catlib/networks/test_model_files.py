import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from components.catlib.config import DiscriminatorConfig, validate
from components.catlib.errors import UserError
from components.catlib.networks.architecture_files import (
    discriminator_file,
    generator_file,
    read_architectures,
    write_architecture,
)
from components.catlib.networks.discriminator_architecture import discriminator_from_config
from components.catlib.networks.discriminators import build_discriminator
from components.catlib.networks.families import build_generator
from components.catlib.networks.model_files import write_networks
from tests.components.catlib.networks.architectures import inception, pruned_inception, pruned_spade
from tests.components.opened import has_weights, read_discriminator, read_generator


def discriminator(family: str) -> nn.Module:
    config = validate(DiscriminatorConfig, {"family": family, "base_channels": 4}, where="discriminator")
    return build_discriminator(discriminator_from_config(config, in_channels=3))


@pytest.fixture
def folder(tmp_path):
    write_networks(
        tmp_path,
        generators={
            "source_to_target": build_generator(inception()),
            "target_to_source": build_generator(pruned_inception()),
        },
        discriminators={"target": discriminator("patch"), "source": discriminator("multiscale")},
        input_size=(16, 24),
    )
    return tmp_path


def test_networks_come_back_as_they_were(tmp_path) -> None:
    generators = {
        "source_to_target": build_generator(pruned_inception()),
        "target_to_source": build_generator(pruned_spade(spectral=True)),
    }
    discriminators = {"target": discriminator("multiscale"), "source": discriminator("pixel")}
    write_networks(tmp_path, generators=generators, discriminators=discriminators, input_size=(64, 128))
    assert read_architectures(tmp_path).input_size == (64, 128)
    pairs = [(network, read_generator(tmp_path, direction)) for direction, network in generators.items()]
    pairs += [(network, read_discriminator(tmp_path, domain)) for domain, network in discriminators.items()]
    for written, read in pairs:
        assert type(read) is type(written)
        assert read.architecture == written.architecture
        assert not read.training
        same_weights(read, written)


def same_weights(read: nn.Module, written: nn.Module) -> None:
    found, expected = read.state_dict(), written.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_files_are_named_after_what_networks_do(folder) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "architecture.json",
        "discriminator_source.safetensors",
        "discriminator_target.safetensors",
        "generator_source_to_target.safetensors",
        "generator_target_to_source.safetensors",
    ]
    assert has_weights(folder, "source_to_target")


def test_weights_in_channels_last_memory_are_written_plainly(tmp_path) -> None:
    generator = build_generator(inception()).to(memory_format=torch.channels_last)
    write_networks(tmp_path, generators={"source_to_target": generator}, discriminators={}, input_size=(16, 16))
    read = read_generator(tmp_path, "source_to_target")
    same_weights(read, generator)


def test_absent_networks_are_named(folder, tmp_path_factory) -> None:
    other = tmp_path_factory.mktemp("student")
    write_architecture(other, "source_to_target", pruned_inception(), (16, 16))
    with pytest.raises(UserError, match="no generator target_to_source"):
        read_generator(other, "target_to_source")
    with pytest.raises(UserError, match="no discriminator"):
        read_discriminator(other, "target")
    with pytest.raises(UserError, match=r"generator_source_to_target\.safetensors does not exist"):
        read_generator(other, "source_to_target")


def rewrite(path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


FIRST = "down_sampling.1.weight"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tensors: tensors.pop(FIRST), rf"lacks the tensor {FIRST} \(float32 \[4, 3, 7, 7\]\)"),
        (lambda tensors: tensors.update({FIRST: torch.zeros(4, 3, 5, 5)}), rf"{FIRST} is float32 \[4, 3, 5, 5\]"),
        (lambda tensors: tensors.update({FIRST: tensors[FIRST].half()}), rf"{FIRST} is float16"),
        (lambda tensors: tensors[FIRST].fill_(float("nan")), f"{FIRST} holds NaN"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "holds the tensor extra"),
    ],
)
def test_the_first_wrong_tensor_is_named(folder, change, complaint: str) -> None:
    path = generator_file(folder, "source_to_target")
    rewrite(path, change)
    with pytest.raises(UserError, match=f"{path.name}.*{complaint}"):
        read_generator(folder, "source_to_target")


def test_wrong_tensors_of_discriminators_are_named(folder) -> None:
    path = discriminator_file(folder, "target")
    rewrite(path, lambda tensors: tensors.pop("model.5.weight"))
    with pytest.raises(UserError, match=r"lacks the tensor model\.5\.weight"):
        read_discriminator(folder, "target")


def test_truncated_file_is_refused(folder) -> None:
    path = generator_file(folder, "source_to_target")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="is damaged"):
        read_generator(folder, "source_to_target")
