"""Parity tests name the files they cover with `@pytest.mark.cases("gen_inception_*.json")`."""

import pytest

from tests.parity.cases import parametrize_cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("cases")
    if marker is not None:
        parametrize_cases(metafunc, marker.args[0])
