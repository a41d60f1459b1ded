import json

import pytest

from components.catlib.networks.directions import Direction, Domain


@pytest.mark.parametrize("direction", Direction)
def test_names_are_made_of_the_domains(direction: Direction) -> None:
    assert direction == f"{direction.input}_to_{direction.output}"
    assert {direction.input, direction.output} == set(Domain)


def test_files_hold_plain_names() -> None:
    assert json.dumps({Direction.SOURCE_TO_TARGET: Domain.TARGET}) == '{"source_to_target": "target"}'
    assert {"source_to_target": 1}[Direction.SOURCE_TO_TARGET] == 1
