"""Comparisons of variations: closed forms, Holm's correction, and simulations in which the truth is known."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from components.catlib.metrics.contest import against, contest, hedges_g, holm, paired_error, stepped_levels

NAMES: tuple[str, ...] = ("a", "b", "c")


def students(
    random: np.random.Generator, num_seeds: int, num_images: int, *, shift: float = 0.0
) -> dict[str, np.ndarray]:
    """Scores of three variations, the third of which is better by `shift`.

    Images are hard or easy for all, seeds are lucky or not, some variations suit some images, and all else is noise.
    """
    images_N = random.normal(size=num_images)
    return {
        name: images_N
        + random.normal(size=(num_seeds, 1)) * 0.3
        + random.normal(size=num_images) * 0.3
        + random.normal(size=(num_seeds, num_images)) * 0.5
        - (shift if name == NAMES[-1] else 0.0)
        for name in NAMES
    }


def test_scores_of_sets_are_compared_by_the_paired_t_test() -> None:
    random = np.random.default_rng(1)
    a, b = random.normal(size=(2, 5))
    found = contest({"a": a[:, None], "b": b[:, None]}, better="lower").between("a", "b")
    known = scipy.stats.ttest_rel(a, b)
    assert found.p == pytest.approx(known.pvalue)
    assert found.interval == pytest.approx(tuple(known.confidence_interval(0.95)))
    assert found.mean == pytest.approx((a - b).mean())


def test_the_error_is_that_of_drawing_seeds_and_images() -> None:
    random = np.random.default_rng(2)
    num_seeds, num_images, draws = 4, 7, 200_000
    delta = random.normal(size=(num_seeds, num_images)) + random.normal(size=(num_seeds, 1)) + random.normal(size=7)
    seeds = random.multinomial(num_seeds, [1 / num_seeds] * num_seeds, size=draws) / num_seeds
    images = random.multinomial(num_images, [1 / num_images] * num_images, size=draws) / num_images
    drawn = np.einsum("ds,sn,dn->d", seeds, delta, images)
    # as drawn, every part lacks the factor of its small sample
    rows, columns = delta.mean(axis=1), delta.mean(axis=0)
    left = delta - rows[:, None] - columns + delta.mean()
    exact = rows.var() / num_seeds + columns.var() / num_images + left.var() / (num_seeds * num_images)
    assert drawn.var() == pytest.approx(exact, rel=0.02)
    corrected = rows.var() / 3 + columns.var() / 6 + left.var() / 18
    assert paired_error(delta) == pytest.approx(np.sqrt(corrected))


def test_only_seeds_that_differ_count_as_in_the_t_test() -> None:
    rows = np.array([0.1, 0.3, 0.2])
    assert paired_error(np.tile(rows[:, None], 50)) == pytest.approx(rows.std(ddof=1) / np.sqrt(3))


def test_holm_on_a_worked_example() -> None:
    # Four hypotheses at 5 %: 0.005 * 4 and 0.01 * 3 are significant, 0.03 * 2 is not, and so 0.04 is not either.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stepped_levels([0.01, 0.04, 0.03, 0.005]) == pytest.approx([1 - 0.05 / 3, 0.975, 0.975, 0.9875])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_its_definition_rejects(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for step, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
            if (len(p_values) - step) * p_values[number] > level:
                break
            rejected.add(number)
        assert {number for number, p in enumerate(corrected) if p <= level} == rejected


@pytest.mark.parametrize("seed", range(30))
def test_intervals_exclude_zero_where_holm_finds_a_difference(seed: int) -> None:
    random = np.random.default_rng(seed)
    found = contest(students(random, 4, 20, shift=random.choice([0.0, 1.0, 2.0])), better="lower")
    assert all(each.is_real == (each.p is not None and each.p < 0.05) for each in found.differences)


def test_effect_sizes_are_hedges_g() -> None:
    assert hedges_g(np.array([1.0, 2.0, 3.0])) == pytest.approx(2 / np.sqrt(np.pi))  # mean 2, deviation 1
    assert hedges_g(np.arange(5.0)) == pytest.approx(2 / np.sqrt(2.5) * np.sqrt(2 / np.pi))
    assert hedges_g(np.array([1.0, 2.0])) is None
    assert hedges_g(np.array([2.0, 2.0, 2.0])) is None
    assert hedges_g(np.array([0.3, 0.1 + 0.2, 0.3])) is None  # 0.1 + 0.2 is rounded


def test_units_and_offsets_change_nothing() -> None:
    scores = students(np.random.default_rng(3), 5, 12, shift=0.7)
    before = contest(scores, better="lower")
    after = contest({name: 100 * values + 7 for name, values in scores.items()}, better="lower")
    for old, new in zip(before.differences, after.differences, strict=True):
        assert new.p == pytest.approx(old.p)
        assert new.effect == pytest.approx(old.effect)
        assert new.interval == pytest.approx(tuple(100 * end for end in old.interval or ()))
    flipped = contest({name: -values for name, values in scores.items()}, better="higher")
    assert (flipped.best, flipped.winner) == (before.best, before.winner)


def test_differences_can_be_read_in_both_directions() -> None:
    found = contest(students(np.random.default_rng(3), 5, 12, shift=0.7), better="lower")
    there, back = found.between("a", "c"), found.between("c", "a")
    assert there.interval is not None and back.interval == (-there.interval[1], -there.interval[0])
    assert (back.mean, back.p) == (-there.mean, there.p)


def test_comparisons_with_one_variation_are_a_family_of_their_own() -> None:
    scores = students(np.random.default_rng(3), 5, 12, shift=0.7)
    found = against("a", scores)
    assert list(found) == ["b", "c"]
    alone = {name: against("a", {"a": scores["a"], name: scores[name]})[name] for name in found}
    p_values = [alone[name].p or 0.0 for name in found]
    assert [each.p for each in found.values()] == pytest.approx(holm(p_values))
    pairs = contest(scores, better="lower")
    for name, each in found.items():
        assert (each.first, each.second) == (name, "a")
        assert (each.mean, each.effect) == (pairs.between(name, "a").mean, pairs.between(name, "a").effect)
        assert each.p <= pairs.between(name, "a").p
    assert against("a", {name: values[:1] for name, values in scores.items()})["b"].interval is None


def test_one_seed_shows_no_interval_and_no_winner() -> None:
    found = contest({"a": np.zeros((1, 9)), "b": np.ones((1, 9))}, better="lower")
    assert (found.best, found.winner) == ("a", None)
    assert found.between("a", "b").mean == -1
    assert found.between("a", "b").interval is None


def test_equal_students_have_no_winner() -> None:
    same = np.random.default_rng(5).normal(size=(3, 8))
    found = contest({"a": same, "b": same.copy()}, better="lower")
    assert found.winner is None
    assert found.differences[0].p == 1.0


def test_a_winner_must_be_better_than_every_other() -> None:
    random = np.random.default_rng(6)
    scores = students(random, 5, 40, shift=5.0)
    assert contest(scores, better="lower").winner == "c"
    assert contest(scores, better="higher").winner is None  # a and b differ from c, not from each other
    assert contest({**scores, "d": scores["c"] + 1e-3 * random.normal(size=(5, 40))}, better="lower").winner is None


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_false_differences_are_rare(num_seeds: int) -> None:
    random = np.random.default_rng(num_seeds)
    trials = 6000
    wrong = sum(
        any(each.is_real for each in contest(students(random, num_seeds, 30), better="lower").differences)
        for _ in range(trials)
    )
    assert wrong / trials <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / trials)


def test_false_differences_from_one_variation_are_rare() -> None:
    random = np.random.default_rng(40)
    trials = 6000
    wrong = sum(
        any(each.is_real for each in against("a", {name: random.normal(size=(5, 1)) for name in "abcdefghi"}).values())
        for _ in range(trials)
    )
    assert 0.02 < wrong / trials <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / trials)


def test_the_correction_is_no_stricter_than_it_must_be() -> None:
    random = np.random.default_rng(30)
    trials = 4000
    wrong = sum(
        any(
            each.is_real
            for each in contest({name: random.normal(size=(5, 1)) for name in NAMES}, better="lower").differences
        )
        for _ in range(trials)
    )
    assert 0.025 < wrong / trials <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize(("num_seeds", "num_images"), [(3, 30), (5, 30), (5, 6)])
def test_every_interval_covers_its_difference(num_seeds: int, num_images: int) -> None:
    random = np.random.default_rng(10 + num_seeds)
    trials, shift = 2000, 1.0
    truth = {("a", "b"): 0.0, ("a", "c"): shift, ("b", "c"): shift}
    covered = dict.fromkeys(itertools.combinations(NAMES, 2), 0)
    for _ in range(trials):
        for each in contest(students(random, num_seeds, num_images, shift=shift), better="lower").differences:
            assert each.interval is not None
            pair = each.first, each.second
            covered[pair] += each.interval[0] <= truth[pair] <= each.interval[1]
    allowed = 0.95 - 2.5 * np.sqrt(0.05 * 0.95 / trials)
    assert all(count / trials >= allowed for count in covered.values())


def test_a_planted_difference_is_found() -> None:
    random = np.random.default_rng(20)
    found = [contest(students(random, 5, 30, shift=2.0), better="lower").winner for _ in range(200)]
    assert found.count("c") > 180
    assert found.count("a") == found.count("b") == 0
