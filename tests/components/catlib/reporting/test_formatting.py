import pytest

from components.catlib.reporting.formatting import (
    as_text,
    as_yaml,
    budget_label,
    factor,
    file_size,
    milliseconds,
    quantity,
    short_number,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [(43_527_405_568, "43.5 G"), (2.55e9, "2.55 G"), (149_000, "149 k"), (1e12, "1.00 T"), (999, "999")],
)
def test_quantities_have_three_digits(count: float, text: str) -> None:
    assert quantity(count) == text


def test_file_sizes() -> None:
    assert [file_size(n) for n in (12, 1_400_000, 65_900)] == ["12 B", "1.40 MB", "65.9 kB"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.25, "−0.25"),
        (1234.5678, "1235"),
        (12_345, "12.35 k"),
        (2_600_000_000, "2.6 G"),
        (0.00025, "2.5e−4"),
        (-0.0002, "−2e−4"),
        (0.001, "0.001"),
    ],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short_number(value) == text


def test_milliseconds_have_three_digits() -> None:
    assert [milliseconds(t) for t in (28.9712, 1.8711, 312.4, 0.0)] == ["29.0 ms", "1.87 ms", "312 ms", "0 ms"]


def test_factors() -> None:
    assert [factor(ratio) for ratio in (16.72, 1.0, 0.5)] == ["÷ 16.7", "÷ 1.0", "× 2.0"]


def test_budgets() -> None:
    assert [budget_label(budget) for budget in ("2.6e+09", "0.05x", "1.5ms")] == ["2.6 G", "0.05×", "1.5 ms"]


def test_settings_and_facts() -> None:
    assert as_yaml({"name": "größe", "sizes": [1, 2]}) == "name: größe\nsizes:\n- 1\n- 2\n"
    assert as_text({"seen_by": ["a", {"b": 1}], "c": None}) == "seen by: a, b: 1, c: None"
