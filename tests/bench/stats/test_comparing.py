"""Comparisons of two sides: against published values, against resampling, and by simulation."""

import math

import numpy as np
import pytest

from bench.stats.comparing import (
    Estimates,
    mean_of_settings,
    needed_repeats,
    nominal_level,
    sample_means,
    unpaired,
)
from bench.stats.intervals import mean_t


@pytest.mark.parametrize(
    ("alpha", "looks", "published"),
    [(0.05, 2, 0.0294), (0.05, 10, 0.0106), (0.01, 5, 0.0028), (0.03, 1, 0.03)],
)
def test_nominal_levels_are_those_of_pocock(alpha, looks, published):
    assert nominal_level(alpha, looks) == pytest.approx(published, abs=5e-5)


def means(samples, constant=0.06, weights=1.0):
    values = np.concatenate([np.asarray(one, dtype=float) for one in samples])
    index = np.repeat(np.arange(len(samples)), [len(one) for one in samples])
    return sample_means(values, index, len(samples), constant, weights)


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
    some = sample_means(np.array([1.0]), np.array([1]), 3, 0.1)
    assert np.isnan(some.error).tolist() == [True, False, True], "those without values"


def test_a_sample_that_scatters_more_than_the_rest_has_its_own_std_outside_the_pool():
    rng = np.random.default_rng(1)
    samples = [rng.normal(0, 0.01, 6) for _ in range(10)]
    wild = rng.normal(0, 0.3, 6)
    found = means([*samples, wild])
    assert found.freedom.tolist() == [50.0] * 10 + [5.0]
    assert found.error[-1] == pytest.approx(wild.std(ddof=1) / math.sqrt(6))
    assert found.error[:-1] == pytest.approx(means(samples).error)


def test_of_samples_that_share_values_fewer_degrees_of_freedom_count():
    """As many as the variance of their pooled variance has by simulation."""
    rng, settings, repeats = np.random.default_rng(5), 6, 4
    base = rng.normal(size=(20_000, 1, repeats))
    differences = rng.normal(size=(20_000, settings, repeats)) - base
    variances = differences.var(axis=2, ddof=1).mean(axis=1)
    simulated = 2 * variances.mean() ** 2 / variances.var()
    found = means(list(differences[0]), weights=4 / (settings + 3))
    assert found.freedom.tolist() == pytest.approx([8.0] * settings)
    assert found.freedom[0] == pytest.approx(simulated, rel=0.05)


def test_without_pairs_the_errors_of_both_sides_add_up():
    base, new = means([[0.0, 0.2, 0.4]]), means([[1.0, 1.1]])
    found = unpaired(base, new)
    assert found.value[0] == pytest.approx(0.85)
    assert found.error[0] == pytest.approx(math.hypot(base.error[0], new.error[0]))
    assert found.number[0] == 2


def test_the_error_over_all_settings_is_that_of_resampling_repeats_and_not_settings():
    rng = np.random.default_rng(2)
    samples = rng.normal(rng.normal(0, 1, (8, 1)), 0.05, (8, 12))
    found = mean_of_settings(means(list(samples)), np.arange(8))
    draws = np.take_along_axis(samples[None], rng.integers(0, 12, (4000, 8, 12)), axis=2)
    resampled = draws.mean(axis=(1, 2)).std()
    assert found.value[0] == pytest.approx(samples.mean())
    # resampling divides the squares by the number of values and not by one less
    assert found.error[0] == pytest.approx(resampled * math.sqrt(12 / 11), rel=0.05)


def test_settings_compared_with_one_and_the_same_are_not_independent():
    estimates = means([[0.0, 0.1], [0.3, 0.4], [0.2, 0.3], [0.5, 0.6]])
    apart = mean_of_settings(estimates, np.arange(4)).error[0]
    assert mean_of_settings(estimates, np.zeros(4, dtype=int)).error[0] == pytest.approx(2 * apart)


def test_the_error_over_all_settings_has_the_degrees_of_freedom_of_its_largest_parts():
    rng = np.random.default_rng(7)
    calm = [rng.normal(0, 0.01, 3) for _ in range(9)]
    wild = means([*calm, [-0.4, 0.0, 0.4]])
    assert 2 < mean_of_settings(wild, np.arange(10)).freedom[0] < 2.2
    alike = means(calm)
    assert mean_of_settings(alike, np.arange(9)).freedom[0] == pytest.approx(18)
    constant = means([[0.0]], constant=0.001)
    both = Estimates(
        *map(np.concatenate, zip(vars(constant).values(), vars(wild).values(), strict=True))
    )
    assert 2 < mean_of_settings(both, np.arange(11)).freedom[0] < 2.2


@pytest.mark.parametrize("settings", [1, 5])
def test_the_needed_repeats_decide_four_times_out_of_five(settings):
    """Whatever std those few repeats show from which they are named."""
    rng, limit, level = np.random.default_rng(3), math.log(1.05), 0.01
    within = []
    for _ in range(300):
        first = means(rng.normal(0, 0.06, (settings, 3)))
        (needed, *_) = needed_repeats(first, limit, level)
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
