"""Generators whose norms mix a batch: what they compute of one image, and that none is trained."""

import logging
from pathlib import Path

import pytest
import torch

from components.catlib.config import NormConfig
from components.catlib.errors import UserError
from components.catlib.networks.batch_dependence import one_at_a_time, settle_norms
from components.catlib.networks.families import Architecture, build_generator
from components.catlib.networks.generator import Generator
from components.catlib.networks.initialisation import initialise
from components.catlib.networks.model_files import write_networks
from tests.components.catlib.networks.architectures import inception, pruned_inception, pruned_spade, spade
from tests.components.opened import read_generator

BATCH = NormConfig(kind="batch")
SYNC = NormConfig(kind="syncbatch", affine=False, epsilon=1e-3)
MIXING = {
    "inception": inception(norm=BATCH),
    "inception without scales": inception(norm=SYNC),
    "inception student": pruned_inception(norm=NormConfig(kind="syncbatch")),
    "spade": spade(norm=BATCH),
    "spade student": pruned_spade(norm=SYNC),
}
APART = {
    "instance": inception(),
    "running": inception(norm=NormConfig(kind="batch", track_running_stats=True)),
    "spade": spade(),
}


def build(architecture: Architecture) -> Generator:
    generator = build_generator(architecture)
    initialise(generator, kind="xavier", gain=1.0, seed=3)
    return generator.eval()


def examples(architecture: Architecture) -> torch.Tensor:
    size = architecture.fixed_size or (16, 16)
    return torch.from_numpy(architecture.example_input(3, size)) * torch.tensor([1.0, 0.1, 0.5])[:, None, None, None]


@pytest.mark.parametrize("architecture", MIXING.values(), ids=MIXING.keys())
def test_every_image_is_computed_as_if_it_came_alone(architecture, caplog: pytest.LogCaptureFixture) -> None:
    generator, inputs = build(architecture).double(), examples(architecture).double()
    state = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    with torch.no_grad():
        mixed, _ = generator(inputs, return_features=True)
        alone = [generator(image[None], return_features=True) for image in inputs]
        images, features = one_at_a_time(generator, where="weights.pth")(inputs, return_features=True)
    torch.testing.assert_close(images, torch.cat([image for image, _ in alone]), rtol=0, atol=1e-12)
    for name, feature in features.items():
        torch.testing.assert_close(feature, torch.cat([found[name] for _, found in alone]), rtol=1e-9, atol=1e-9)
    assert (mixed - images).abs().max() > 1e-3, "this generator does not mix its batch"
    assert {name: tensor.tolist() for name, tensor in generator.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in state.items()
    }
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "weights.pth: its batch norms keep no running statistics" in caplog.text


@pytest.mark.parametrize("architecture", APART.values(), ids=APART.keys())
def test_other_generators_stay_and_may_be_trained(architecture, caplog: pytest.LogCaptureFixture) -> None:
    generator = build(architecture)
    modules = list(generator.modules())
    assert list(one_at_a_time(generator, where="here").modules()) == modules
    settle_norms(generator, trains=True, where="here", advice="do something")
    assert caplog.records == []


@pytest.mark.parametrize("architecture", MIXING.values(), ids=MIXING.keys())
def test_training_is_refused_in_one_sentence(architecture) -> None:
    with pytest.raises(
        UserError, match=r"^The teacher has batch norms without running statistics, .*; do something\.$"
    ):
        settle_norms(build(architecture), trains=True, where="The teacher", advice="do something")


def test_artifacts_are_read_that_way_unless_only_their_weights_are_wanted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generator = build(MIXING["inception"])
    write_networks(tmp_path, generators={"source_to_target": generator}, discriminators={}, input_size=(16, 16))
    inputs = examples(generator.architecture)
    as_written = read_generator(tmp_path, "source_to_target", alone=False)
    assert caplog.records == []
    with torch.no_grad():
        assert torch.equal(as_written(inputs), generator(inputs))
        read = read_generator(tmp_path, "source_to_target")
        torch.testing.assert_close(read(inputs)[:1], generator(inputs[:1]), rtol=0, atol=1e-5)
    assert len(caplog.records) == 1
