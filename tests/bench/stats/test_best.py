"""Multiple comparisons with the best: variances, critical values, and the rate of errors."""

import numpy as np
import pytest
from scipy.special import stdtrit
from scipy.stats import dunnett

from bench.stats.best import Sample, compare_all, excluded_rate

MARGIN = 0.02


def samples(shares, *, seeds=3, examples=1000, by_seed=0.004, rng=None):
    """Settings whose true scores are these shares, with examples that are hard or easy for all."""
    rng = rng or np.random.default_rng(0)
    hardness = rng.random(examples)
    return [
        sample({
            seed: (hardness < share + rng.normal(0, 0.15, examples) + rng.normal(0, by_seed))
            for seed in range(seeds)
        })
        for share in shares
    ]  # fmt: skip


def sample(values):
    return Sample(
        {seed: float(v.mean()) for seed, v in values.items()},
        {seed: v.astype(float) for seed, v in values.items()},
    )


def test_a_difference_is_over_the_seeds_that_both_have():
    one, two = samples([0.6, 0.5])
    fewer = Sample({0: two.scores[0]}, {0: two.values[0]})
    compared = compare_all([one, fewer])
    assert compared.difference[0, 1] == pytest.approx(one.scores[0] - two.scores[0])
    assert compared.seeds[0, 1] == 1
    other = Sample({7: 0.5}, {7: two.values[0]})
    assert compare_all([one, other]).lower[0, 1] == -np.inf
    assert compare_all([one, other]).upper[0, 1] == np.inf


def test_the_critical_value_is_dunnetts_for_independent_settings():
    """Against the intervals of scipy, for settings on independent examples."""
    rng = np.random.default_rng(1)
    groups = [(rng.random(400) < 0.5).astype(float) for _ in range(6)]
    compared = compare_all([Sample({0: float(g.mean())}, {0: g}) for g in groups])
    known = dunnett(*groups[1:], control=groups[0], alternative="greater")
    low = known.confidence_interval(0.95).low
    assert compared.lower[1:, 0] == pytest.approx(low, abs=0.004)
    assert not compared.shows_seeds


def test_the_interaction_of_seeds_and_examples_counts_once():
    """Variances over examples of 2 by the interaction alone, and of 0.5 by the examples."""
    rng, number = np.random.default_rng(0), 20_000
    easier = rng.normal(0, 0.5**0.5, number)
    values = [
        {seed: shift + rng.normal(size=number) for seed in range(3)} for shift in (easier, 0.0)
    ]
    compared = compare_all([*map(sample, values)])
    assert compared.of_examples[0, 1] == pytest.approx(0.5 / number, rel=0.1)


def test_critical_values_are_no_larger_than_bonferronis():
    """Which holds if the simulated statistics have the variance by which they are divided."""
    compared = compare_all(samples([0.6] * 12))
    least = compared.freedom[~np.eye(12, dtype=bool)].min()
    assert compared.critical.max() < stdtrit(least, 1 - 0.05 / 11) + 0.1
    assert compared.critical.min() > stdtrit(1e6, 0.95)


def test_copies_need_no_correction_and_settings_alike_are_known_precisely():
    one, two = samples([0.6, 0.55], seeds=1)
    compared = compare_all([one, two, two, two, two])
    assert compared.critical[0] == pytest.approx(1.65, abs=0.1)
    compared = compare_all([one, *samples([0.6, 0.6, 0.6, 0.6])])
    assert compared.critical[0] > 1.9
    one, two = samples([0.6, 0.55])
    compared = compare_all([one, two, two])
    assert compared.error[1, 2] < compared.error[0, 1] / 4


def test_what_is_worse_by_the_margin_is_rarely_called_no_worse():
    """Five settings, four of which are worse than the best by exactly the margin."""
    wrong = 0
    for number in range(200):
        rng = np.random.default_rng(number)
        made = samples([0.6, *[0.6 - MARGIN] * 4], by_seed=0.01, rng=rng, examples=400)
        wrong += (compare_all(made).lower[1:, 0] >= -MARGIN).any()
    assert wrong <= 0.05 * 200 + 3 * (0.05 * 0.95 * 200) ** 0.5


@pytest.mark.parametrize(("seeds", "least"), [(2, 5.0), (3, 2.9)])
def test_a_pair_that_alone_varies_by_seed_has_its_own_degrees_of_freedom(seeds, least):
    """Student's t of one or two, where one setting of seven is worse in its last seed."""
    made = samples([0.6] * 7, seeds=seeds, examples=100_000, by_seed=0.0)
    values = dict(made[6].values)
    values[seeds - 1] = np.where(np.arange(100_000) < 10_000, 0, values[seeds - 1])
    compared = compare_all([*made[:6], sample(values)])
    assert (compared.quantiles[:6, 6] > least).all()
    assert (compared.quantiles[6, :6] > least).all()
    usual = compared.quantiles[:6, :6]
    assert (usual == np.broadcast_to(compared.critical[:6], (6, 6))).all()


def test_trainings_without_a_failure_exclude_a_rate():
    assert (1 - excluded_rate(14)) ** 14 == pytest.approx(0.05)
