import pytest
import torch
from torch import nn

from components.catlib.training.moving_average import MovingAverages


def network(value: float) -> nn.Module:
    made = nn.BatchNorm1d(1)
    assert made.running_mean is not None
    with torch.no_grad():
        made.weight.fill_(value)
        made.running_mean.fill_(value)
    return made


def test_the_example_of_the_docstring():
    generator = network(0.0)
    averages = MovingAverages({"a": generator}, decay=0.9)
    found = []
    for value in (1.0, 12.0):
        with torch.no_grad():
            generator.weight.fill_(value)
        averages.update()
        with averages.in_place():
            found.append(generator.weight.item())
        assert float(generator.weight) == value
    assert found == pytest.approx([0.91, 10.2], abs=0.1)


def test_buffers_stay_as_they_are():
    generator = network(0.0)
    averages = MovingAverages({"a": generator}, decay=0.5)
    generator.running_mean.fill_(3.0)  # type: ignore[union-attr,operator]
    averages.update()
    with averages.in_place():
        assert float(generator.running_mean) == 3.0  # type: ignore[arg-type]


def test_no_decay_changes_nothing():
    generator = network(2.0)
    averages = MovingAverages({"a": generator}, decay=0.0)
    averages.update()
    with averages.in_place():
        assert float(generator.weight) == 2.0
    averages.apply()
    assert float(generator.weight) == 2.0
    assert averages.state_dict() == {}


def test_weights_come_back_after_an_error():
    generator = network(0.0)
    averages = MovingAverages({"a": generator}, decay=0.9)
    with torch.no_grad():
        generator.weight.fill_(5.0)
    with pytest.raises(ZeroDivisionError), averages.in_place():
        raise ZeroDivisionError
    assert float(generator.weight) == 5.0


def test_averages_are_never_the_weights_themselves():
    """Seen from outside: applying them and training on does not change what was noted."""
    generator = network(1.0)
    averages = MovingAverages({"a": generator}, decay=0.9)
    averages.apply()
    with torch.no_grad():
        generator.weight.fill_(7.0)
    assert float(averages.state_dict()["a"]["weight"]) == 1.0


def test_state_comes_back():
    generator = network(0.0)
    first = MovingAverages({"a": generator}, decay=0.99)
    with torch.no_grad():
        generator.weight.fill_(4.0)
    for _ in range(3):
        first.update()
    second = MovingAverages({"a": network(9.0)}, decay=0.99)
    second.load_state_dict(first.state_dict(), step=3)
    first.update()
    assert float(second.state_dict()["a"]["weight"]) < 4.0
    other = MovingAverages({"a": generator}, decay=0.99)
    other.load_state_dict(second.state_dict(), step=3)
    other.update()
    assert torch.equal(other.state_dict()["a"]["weight"], first.state_dict()["a"]["weight"])


def test_all_weights_are_averaged_at_once_as_one_by_one():
    """Bit for bit, for parameters of every shape and for several networks."""
    torch.manual_seed(0)
    networks: dict[str, nn.Module] = {"a": nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)), "b": nn.Linear(7, 1)}
    averages = MovingAverages(networks, decay=0.999)
    expected = {name: [weight.detach().clone() for weight in each.parameters()] for name, each in networks.items()}
    for step in range(1, 30):
        for name, each in networks.items():
            for weight, average in zip(each.parameters(), expected[name], strict=True):
                weight.data.add_(torch.randn_like(weight))
                average.lerp_(weight.detach(), 1 - min(0.999, step / (step + 10)))
        averages.update()
    for name, found in averages.state_dict().items():
        for average, wanted in zip(found.values(), expected[name], strict=True):
            assert torch.equal(average, wanted)
