"""Intervals and comparisons against published values, scipy, resampling and simulations."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from bench.results.facts import FEWEST
from bench.stats import comparing, intervals
from bench.stats.comparing import Estimates, needed_repeats
from bench.stats.intervals import Interval, Spread, Std, difference, mean_t, ratio, spread, wilson
from tests.experiments.small_samples import line, row


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(pair):
    expected = scipy_stats.binomtest(*pair).proportion_ci(0.95, method="wilson")
    assert wilson(*pair) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("calculate", "value", "why"), [
    *((wilson, pair, "no proportion") for pair in ((-1, 10), (11, 10), (0, 0))),
    *((mean, ([],), "the mean of nothing") for mean in (mean_t, intervals.mean_of)),
])  # fmt: skip
def test_what_has_no_interval_is_refused(calculate, value, why):
    with pytest.raises(ValueError, match=why):
        calculate(*value)


def test_fisher_agrees_with_its_formula():
    z, half = math.atanh(-0.4), 1.959964 / (30 - 3) ** 0.5
    assert [*map(math.atanh, intervals.fisher(-0.4, 30))] == pytest.approx([z - half, z + half])
    assert intervals.fisher(0.9, 3) == (-1.0, 1.0), "three pairs show nothing"
    low, high = intervals.fisher(1.0, 100)
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
def test_intervals_over_seeds_and_examples_cover(of_seed, seeds, of_example, widest):
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
    needed = comparing.needed_seeds(over, 0.025, 0.05)
    found = [*map(spread, layouts(np.random.default_rng(4), 400, needed, 0.01, 0.1))]
    assert 0.7 <= np.mean([abs(one.mean) + one.half_width() <= 0.025 for one in found]) <= 0.9
    assert comparing.needed_seeds(over, 0.005, 0.05) is None, "the examples alone are too few"
    # where no example differs, up to three in n may
    assert spread(np.zeros((1, 1000))).half_width() == pytest.approx(0.003, rel=0.01)
    assert spread(np.zeros((1, 1000))).interval(0.01).high == pytest.approx(0.00394, rel=0.01)
    assert spread(np.zeros((3, 32))).half_width() == pytest.approx(3 / 32, rel=0.05)
    alone = spread(np.ones((1, 1))).interval()
    assert alone.low < 0 < 2 < alone.high


def test_a_std_is_pooled_and_takes_students_t_and_is_the_least_of_an_interval_of_one_run():
    """Pooled, it is about each sample's own mean."""
    assert intervals.pooled([[1.0, 3.0], [10.0], [5.0, 5.0, 5.0]]) == Std(math.sqrt(2 / 3), 3)
    assert intervals.pooled([[1.0], []]) is None
    assert Std(0.06, 1).half_width() == pytest.approx(12.7062 * 0.06, rel=1e-4)
    assert Std(0.06, 10**6).half_width(4) == pytest.approx(1.95996 * 0.03, rel=1e-4)
    own = Interval(100.0, 100 * math.exp(-0.03), 100 * math.exp(0.03))
    for run, value, half in ((own, 0.05, 2.0739 * 0.05), (own, 0.001, 0.03),
                             (Interval(100.0), 0.05, 2.0739 * 0.05)):  # fmt: skip
        logs = [math.log(end / 100) for end in intervals.scattered([run], Std(value, 22)).ends()]
        assert logs == pytest.approx([-half, half], rel=1e-4)


def test_a_difference_of_proportions_agrees_with_newcombe():
    # Newcombe 1998, Statistics in Medicine 17, 873–890, table II, method 10: 56/70 and 48/80.
    found = difference(Interval(56 / 70, *wilson(56, 70)), Interval(48 / 80, *wilson(48, 80)))
    assert found.value == pytest.approx(0.2)
    assert found.ends() == pytest.approx((0.0524, 0.3339), abs=1e-4)
    unknown = difference(Interval(3.0), Interval(1.0, 0.5, 1.5))
    assert (unknown, unknown.holds(0.0)) == (Interval(2.0), None)
    assert mean_t([4.0]) == Interval(4.0)
    assert intervals.mean_of([Interval(1.0, 0.5, 1.5), Interval(2.0)]) == Interval(1.5)
    assert ratio(Interval(2.0, 1.0, 3.0), Interval(1.0, -1.0, 3.0)).ends() is None


@given(st.floats(0.1, 1e4), st.floats(0.1, 1e4), st.floats(0, 0.3), st.floats(0, 0.3))
def test_a_ratio_turned_over_is_its_reciprocal(a, b, wide_a, wide_b):
    one, two = Interval(a, a * (1 - wide_a), a * (1 + wide_a)), Interval(b, b * (1 - wide_b), b)
    there, back = ratio(one, two), ratio(two, one)
    assert there.value == pytest.approx(a / b)
    assert there.low <= there.value * (1 + 1e-9)
    assert there.low == pytest.approx(1 / back.high)


def test_pairing_uses_the_seeds_of_both_and_sees_a_difference_that_they_drown():
    a, b = {0: 1.0, 1: 2.0, 2: 9.0}, {1: 1.0, 0: 0.5, 3: 7.0}
    assert intervals.paired_difference(a, b) == mean_t([0.5, 1.0])
    assert intervals.paired_ratio(a, b).value == pytest.approx(2.0)
    assert intervals.paired_difference(a, {0: 1.0}) is None
    a = {seed: 0.50 + 0.05 * seed for seed in range(5)}
    b = {seed: value - 0.01 - 0.001 * (seed % 2) for seed, value in a.items()}
    assert intervals.paired_difference(a, b).holds(0.0) is False
    assert difference(mean_t([*a.values()]), mean_t([*b.values()])).holds(0.0) is True


@pytest.mark.parametrize(("alpha", "looks", "published"), [
    (0.05, 2, 0.0294), (0.05, 10, 0.0106), (0.01, 5, 0.0028), (0.03, 1, 0.03),
])  # fmt: skip
def test_nominal_levels_are_those_of_pocock(alpha, looks, published):
    assert comparing.nominal_level(alpha, looks) == pytest.approx(published, abs=5e-5)


def means(samples, constant=0.06, weights=1.0):
    values = np.concatenate([np.asarray(one, dtype=float) for one in samples])
    index = np.repeat(np.arange(len(samples)), [len(one) for one in samples])
    return comparing.sample_means(values, index, len(samples), constant, weights)


def test_a_single_value_has_the_std_of_the_others_and_without_others_the_constant():
    values = [0.1, 0.3, 0.25, 0.2]
    found, expected = means([values]), mean_t(values)
    assert found.value[0] == pytest.approx(expected.value)
    assert [end[0] for end in found.ends(0.05)] == pytest.approx(expected.ends())
    pooled = means([[0.0, 0.2], [1.0, 1.2], [5.0]])
    assert pooled.error[2] == pytest.approx(math.sqrt(0.02))
    assert pooled.freedom[2] == 2
    alone = means([[5.0], [3.0]])
    assert alone.ends(0.05)[1] == pytest.approx([5 + 1.959964 * 0.06, 3 + 1.959964 * 0.06])
    half = 1.959964 * math.hypot(0.06, 0.08)
    assert alone.ends(0.05, 1.959964 * 0.08)[0] == pytest.approx([5 - half, 3 - half])
    some = comparing.sample_means(np.array([1.0]), np.array([1]), 3, 0.1)
    assert np.isnan(some.error).tolist() == [True, False, True], "those without values"
    base, new = means([[0.0, 0.2, 0.4]]), means([[1.0, 1.1]])
    found, error = comparing.unpaired(base, new), math.hypot(base.error[0], new.error[0])
    assert (found.value[0], found.error[0], found.number[0]) == pytest.approx((0.85, error, 2))


def test_samples_that_scatter_more_or_share_values_have_other_degrees_of_freedom():
    """As many as the variance of their pooled variance has by simulation."""
    rng = np.random.default_rng(1)
    samples = [rng.normal(0, 0.01, 6) for _ in range(10)]
    wild = rng.normal(0, 0.3, 6)
    found = means([*samples, wild])
    assert found.freedom.tolist() == [50.0] * 10 + [5.0]
    assert found.error[-1] == pytest.approx(wild.std(ddof=1) / math.sqrt(6))
    assert found.error[:-1] == pytest.approx(means(samples).error)
    rng, settings, repeats = np.random.default_rng(5), 6, 4
    base = rng.normal(size=(20_000, 1, repeats))
    differences = rng.normal(size=(20_000, settings, repeats)) - base
    variances = differences.var(axis=2, ddof=1).mean(axis=1)
    simulated = 2 * variances.mean() ** 2 / variances.var()
    found = means(list(differences[0]), weights=4 / (settings + 3))
    assert found.freedom.tolist() == pytest.approx([8.0] * settings)
    assert found.freedom[0] == pytest.approx(simulated, rel=0.05)


def test_the_error_over_all_settings_is_that_of_resampling_repeats():
    """With the degrees of freedom of its largest parts."""
    rng = np.random.default_rng(2)
    samples = rng.normal(rng.normal(0, 1, (8, 1)), 0.05, (8, 12))
    found = comparing.mean_of_settings(means(list(samples)), np.arange(8))
    draws = np.take_along_axis(samples[None], rng.integers(0, 12, (4000, 8, 12)), axis=2)
    resampled = draws.mean(axis=(1, 2)).std()
    assert found.value[0] == pytest.approx(samples.mean())
    # resampling divides the squares by the number of values and not by one less
    assert found.error[0] == pytest.approx(resampled * math.sqrt(12 / 11), rel=0.05)
    shared = comparing.mean_of_settings(means(list(samples)), np.zeros(8, dtype=int))
    assert shared.error[0] == pytest.approx(found.error[0] * math.sqrt(8))
    rng = np.random.default_rng(7)
    calm = [rng.normal(0, 0.01, 3) for _ in range(9)]
    wild = means([*calm, [-0.4, 0.0, 0.4]])
    assert 2 < comparing.mean_of_settings(wild, np.arange(10)).freedom[0] < 2.2
    assert comparing.mean_of_settings(means(calm), np.arange(9)).freedom[0] == pytest.approx(18)
    constant = means([[0.0]], constant=0.001)
    parts = zip(vars(constant).values(), vars(wild).values(), strict=True)
    both = Estimates(*map(np.concatenate, parts))
    assert 2 < comparing.mean_of_settings(both, np.arange(11)).freedom[0] < 2.2


@pytest.mark.parametrize("settings", [1, 5])
def test_the_needed_repeats_decide_four_times_out_of_five(settings):
    """Whatever std those few repeats show from which they are named."""
    rng, limit, level = np.random.default_rng(3), math.log(1.05), 0.01
    within = []
    for _ in range(300):
        (needed, *_) = needed_repeats(means(rng.normal(0, 0.06, (settings, 3))), limit, level)
        found = means(rng.normal(0, 0.06, (settings, needed or 1000)))
        within += (np.abs(found.ends(level)).max(axis=0) <= limit).tolist()
    assert 0.78 < np.mean(within) < 0.93


def test_close_to_the_limit_more_repeats_are_needed_and_for_exact_values_none_are_named():
    estimates = Estimates(*(np.array([one]) for one in (0.045, 0.005, math.inf, 0.02, 16, 1.0)))
    (needed,) = needed_repeats(estimates, math.log(1.05), 0.05)
    assert needed > 16
    assert needed_repeats(estimates.part([0]), math.log(1.2), 0.05) == [17], "of no difference"
    exact, wild = means([[0.1, 0.1]]), means([[-300.0, 300.0]])
    assert needed_repeats(exact, 0.05, 0.05) == needed_repeats(wild, 0.05, 0.05) == [None]


def test_what_docs_measuring_md_says_of_small_samples():
    """A line that its command prints; and intervals are too narrow below the warning alone."""
    heavy = row("pearson", 3.0, "heavy tails (t, 3 degrees of freedom)")
    page = Path(__file__).parents[3] / "docs" / "measuring.md"
    assert heavy in page.read_text(encoding="utf-8").splitlines()
    few, enough = line("mcc", 0.05, 150, (50, 300))
    assert 50 * 0.05 < FEWEST <= 300 * 0.05
    assert few < 0.91 <= enough
    assert min(line("spearman", 3.0, 150, (50, 200))) >= 0.9
