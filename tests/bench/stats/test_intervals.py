"""Intervals: against published values, against scipy, and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from bench.stats.comparing import needed_seeds
from bench.stats.intervals import (
    Interval,
    Spread,
    Std,
    difference,
    fisher,
    mean_of,
    mean_t,
    paired_difference,
    paired_ratio,
    pooled,
    ratio,
    scattered,
    spread,
    wilson,
)


@settings(deadline=None)
@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(pair):
    expected = scipy_stats.binomtest(*pair).proportion_ci(0.95, method="wilson")
    assert wilson(*pair) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("pair", [(-1, 10), (11, 10), (0, 0)])
def test_wilson_refuses_what_is_no_proportion(pair):
    with pytest.raises(ValueError, match="no proportion"):
        wilson(*pair)


def test_fisher_agrees_with_its_formula():
    z, half = math.atanh(-0.4), 1.959964 / (30 - 3) ** 0.5
    assert [*map(math.atanh, fisher(-0.4, 30))] == pytest.approx([z - half, z + half])
    assert fisher(0.9, 3) == (-1.0, 1.0), "three pairs show nothing"
    low, high = fisher(1.0, 100)
    assert 0.99 < low <= high <= 1.0


def layouts(rng, number, seeds, of_seed, of_example, both=0.4, examples=500):
    """Numbers by seed and example, whose true mean is 0: both effects and their interaction."""
    for _ in range(number):
        by_seed, by_example = rng.normal(size=(seeds, 1)), rng.normal(size=(1, examples))
        rest = rng.normal(size=(seeds, examples))
        yield by_seed * of_seed + by_example * of_example + rest * both


@pytest.mark.parametrize(
    ("of_seed", "seeds", "of_example", "widest"), [(0.03, 3, 0.5, 1.3), (0.0, 10, 0.1, 1.2)]
)
def test_intervals_over_seeds_and_examples_cover_and_are_not_too_wide(
    of_seed, seeds, of_example, widest
):
    found = [*map(spread, layouts(np.random.default_rng(2), 400, seeds, of_seed, of_example))]
    assert np.mean([one.interval().holds(0.0) for one in found]) >= 0.93
    true = math.sqrt(of_seed**2 / seeds + (of_example**2 + 0.4**2 / seeds) / 500)
    assert np.mean([one.half_width() for one in found]) < widest * 1.96 * true


def test_more_seeds_reduce_the_interaction_and_no_part_of_the_examples():
    (values,) = layouts(np.random.default_rng(3), 1, 4, 0.0, 0.2, examples=20_000)
    found = spread(values)
    assert found.of_examples == pytest.approx(0.2**2, rel=0.1)
    assert found.of_seeds == pytest.approx(values.mean(axis=1).var(ddof=1))
    errors, _ = found.errors(np.array([4, 10**9]))
    assert errors[1] == pytest.approx(0.2 / math.sqrt(20_000), rel=0.05)
    assert errors[0] >= math.sqrt((0.2**2 + 0.4**2 / 4) / 20_000) * 0.98


def test_the_number_of_seeds_that_is_said_to_decide_decides_four_times_out_of_five():
    over = Spread(0.0, 0.01**2 + 0.4**2 / 500, 0.1**2, 3, 500, 0.4**2)
    needed = needed_seeds(over, 0.025, 0.05)
    found = [*map(spread, layouts(np.random.default_rng(4), 400, needed, 0.01, 0.1))]
    decided = np.mean([abs(one.mean) + one.half_width() <= 0.025 for one in found])
    assert 0.7 <= decided <= 0.9
    assert needed_seeds(over, 0.005, 0.05) is None, "the examples alone are too few"


def test_where_no_example_differs_up_to_three_in_n_may():
    assert spread(np.zeros((1, 1000))).half_width() == pytest.approx(0.003, rel=0.01)
    assert spread(np.zeros((1, 1000))).interval(0.01).high == pytest.approx(0.00394, rel=0.01)
    assert spread(np.zeros((3, 32))).half_width() == pytest.approx(3 / 32, rel=0.05)
    alone = spread(np.ones((1, 1))).interval()
    assert alone.low < 0 < 2 < alone.high


def test_the_pooled_std_is_about_each_samples_own_mean():
    found = pooled([[1.0, 3.0], [10.0], [5.0, 5.0, 5.0]])
    assert found == Std(math.sqrt(2 / 3), 3)
    assert pooled([[1.0], []]) is None


def test_a_std_takes_students_t_and_is_the_least_that_the_interval_of_one_run_has():
    assert Std(0.06, 1).half_width() == pytest.approx(12.7062 * 0.06, rel=1e-4)
    assert Std(0.06, 10**6).half_width(4) == pytest.approx(1.95996 * 0.03, rel=1e-4)
    own = Interval(100.0, 100 * math.exp(-0.03), 100 * math.exp(0.03))
    for run, value, half in ((own, 0.05, 2.0739 * 0.05), (own, 0.001, 0.03),
                             (Interval(100.0), 0.05, 2.0739 * 0.05)):  # fmt: skip
        found = scattered([run], Std(value, 22))
        logs = [math.log(end / 100) for end in found.ends()]
        assert logs == pytest.approx([-half, half], rel=1e-4)


def test_nothing_has_no_mean_and_one_value_no_interval():
    assert mean_t([4.0]) == Interval(4.0)
    assert mean_of([Interval(1.0, 0.5, 1.5), Interval(2.0)]) == Interval(1.5)
    for mean in (mean_t, mean_of):
        with pytest.raises(ValueError, match="the mean of nothing"):
            mean([])


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9).filter(lambda v: np.std(v) > 1e-6))
def test_the_interval_of_a_mean_agrees_with_scipy(values):
    found = mean_t(values)
    low, high = scipy_stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=scipy_stats.sem(values)
    )
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-6)


def test_a_difference_of_proportions_agrees_with_newcombe():
    # Newcombe 1998, Statistics in Medicine 17, 873–890, table II, method 10: 56/70 and 48/80.
    found = difference(Interval(56 / 70, *wilson(56, 70)), Interval(48 / 80, *wilson(48, 80)))
    assert found.value == pytest.approx(0.2)
    assert found.ends() == pytest.approx((0.0524, 0.3339), abs=1e-4)
    unknown = difference(Interval(3.0), Interval(1.0, 0.5, 1.5))
    assert unknown == Interval(2.0)
    assert unknown.holds(0.0) is None


@given(st.floats(0.1, 1e4), st.floats(0.1, 1e4), st.floats(0, 0.3), st.floats(0, 0.3))
def test_a_ratio_turned_over_is_its_reciprocal(a, b, wide_a, wide_b):
    one, two = Interval(a, a * (1 - wide_a), a * (1 + wide_a)), Interval(b, b * (1 - wide_b), b)
    there, back = ratio(one, two), ratio(two, one)
    assert there.value == pytest.approx(a / b)
    assert there.low <= there.value * (1 + 1e-9)
    assert there.low == pytest.approx(1 / back.high)


def test_a_ratio_to_an_interval_that_reaches_zero_has_no_interval():
    assert ratio(Interval(2.0, 1.0, 3.0), Interval(1.0, -1.0, 3.0)).ends() is None


def test_pairing_uses_the_seeds_of_both_and_sees_a_difference_that_they_drown():
    a, b = {0: 1.0, 1: 2.0, 2: 9.0}, {1: 1.0, 0: 0.5, 3: 7.0}
    assert paired_difference(a, b) == mean_t([0.5, 1.0])
    assert paired_ratio(a, b).value == pytest.approx(2.0)
    assert paired_difference(a, {0: 1.0}) is None
    a = {seed: 0.50 + 0.05 * seed for seed in range(5)}
    b = {seed: value - 0.01 - 0.001 * (seed % 2) for seed, value in a.items()}
    assert paired_difference(a, b).holds(0.0) is False
    assert difference(mean_t([*a.values()]), mean_t([*b.values()])).holds(0.0) is True
