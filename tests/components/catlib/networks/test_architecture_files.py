import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from components.catlib.errors import UserError
from components.catlib.networks.architecture_files import (
    generator_file,
    read_architectures,
    read_generator_weights,
    write_architecture,
)
from components.catlib.networks.families import build_generator
from tests.components.catlib.networks.architectures import pruned_inception, pruned_spade
from tests.components.opened import has_weights, opened, read_generator


@pytest.mark.parametrize("architecture", [pruned_inception(), pruned_spade()], ids=["inception", "spade"])
def test_untrained_student_is_an_architecture_alone(tmp_path, architecture) -> None:
    write_architecture(tmp_path, "target_to_source", architecture, (64, 128))
    assert [path.name for path in tmp_path.iterdir()] == ["architecture.json"]
    read = read_architectures(tmp_path)
    assert read.generators == {"target_to_source": architecture}
    assert read.generator("target_to_source") == architecture
    assert read.input_size == (64, 128)
    assert read.discriminators == {}
    assert not has_weights(tmp_path, "target_to_source")
    with pytest.raises(UserError, match="holds no weights"):
        read_generator_weights(opened(tmp_path), "target_to_source")


@pytest.mark.parametrize("architecture", [pruned_inception(), pruned_spade()], ids=["inception", "spade"])
def test_inherited_weights_survive_as_arrays(tmp_path, architecture) -> None:
    generator = build_generator(architecture)
    weights = {name: value.numpy() for name, value in generator.state_dict().items()}
    write_architecture(tmp_path, "source_to_target", architecture, (16, 16), weights)
    assert has_weights(tmp_path, "source_to_target")
    read = read_generator_weights(opened(tmp_path), "source_to_target")
    assert read.keys() == weights.keys()
    for name, array in read.items():
        assert array.shape == weights[name].shape
        np.testing.assert_array_equal(array, weights[name])
    for name, value in read_generator(tmp_path, "source_to_target").state_dict().items():
        np.testing.assert_array_equal(value.numpy(), weights[name])


def test_needs_no_torch() -> None:
    script = "import sys, components.catlib.networks.architecture_files as module; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_missing_networks_are_named(tmp_path) -> None:
    write_architecture(tmp_path, "source_to_target", pruned_inception(), (16, 16))
    architectures = read_architectures(tmp_path)
    with pytest.raises(UserError, match="no generator target_to_source; there is: source_to_target"):
        architectures.generator("target_to_source")
    with pytest.raises(UserError, match="no discriminator that judges target images"):
        architectures.discriminator("target")


def test_folder_without_networks_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"architecture\.json does not exist"):
        read_architectures(tmp_path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda content: content.pop("input_size"), "input_size"),
        (lambda content: content.update(input_size=[0, 4]), "input_size"),
        (lambda content: content["generators"].update(sideways={}), "generators"),
        (lambda content: content["generators"]["source_to_target"].update(family="unet"), "family"),
        (lambda content: content["generators"]["source_to_target"].update(down=[1, 2]), "down"),
        (lambda content: content["generators"]["source_to_target"].update(colour=1), "colour"),
    ],
)
def test_damaged_architecture_is_named(tmp_path, change, complaint: str) -> None:
    write_architecture(tmp_path, "source_to_target", pruned_inception(), (16, 16))
    path = tmp_path / "architecture.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"architecture.json.*{complaint}"):
        read_architectures(tmp_path)


def test_text_that_is_not_json_is_refused(tmp_path) -> None:
    (tmp_path / "architecture.json").write_bytes(b"\xff{")
    with pytest.raises(UserError, match="is not JSON"):
        read_architectures(tmp_path)


def test_damaged_weights_are_refused(tmp_path) -> None:
    write_architecture(tmp_path, "source_to_target", pruned_inception(), (16, 16))
    path = generator_file(tmp_path, "source_to_target")
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="is damaged"):
        read_generator_weights(opened(tmp_path), "source_to_target")
    save_file({"fc.weight": np.array([1, np.nan], dtype=np.float32)}, path)
    with pytest.raises(UserError, match=r"fc\.weight holds NaN"):
        read_generator_weights(opened(tmp_path), "source_to_target")
