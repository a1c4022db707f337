"""Multiple comparisons with the best: variances, critical values, the rate of errors, and races."""

import numpy as np
import pytest
from scipy.special import stdtrit
from scipy.stats import dunnett

from bench.stats.best import (
    LEVELS,
    ROUNDS,
    Race,
    Sample,
    compare_all,
    compare_rounds,
    excluded_rate,
)


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
    compared = compare_all([one, Sample({0: two.scores[0]}, {0: two.values[0]})])
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
    assert compared.lower[1:, 0] == pytest.approx(known.confidence_interval(0.95).low, abs=0.004)
    assert not compared.shows_seeds
    # no larger than Bonferroni's, if the simulated statistics have the variance of their divisor
    compared = compare_all(samples([0.6] * 12))
    least = compared.freedom[~np.eye(12, dtype=bool)].min()
    assert compared.critical.max() < stdtrit(least, 1 - 0.05 / 11) + 0.1
    assert compared.critical.min() > stdtrit(1e6, 0.95)
    assert (1 - excluded_rate(14)) ** 14 == pytest.approx(0.05)


def test_the_interaction_of_seeds_and_examples_counts_once():
    """Variances over examples of 2 by the interaction alone, and of 0.5 by the examples."""
    rng, number = np.random.default_rng(0), 20_000
    shifts = rng.normal(0, 0.5**0.5, number), 0.0
    values = [{seed: shift + rng.normal(size=number) for seed in range(3)} for shift in shifts]
    compared = compare_all([*map(sample, values)])
    assert compared.of_examples[0, 1] == pytest.approx(0.5 / number, rel=0.1)


def test_copies_need_no_correction_and_settings_alike_are_known_precisely():
    one, two = samples([0.6, 0.55], seeds=1)
    assert compare_all([one, two, two, two, two]).critical[0] == pytest.approx(1.65, abs=0.1)
    assert compare_all([one, *samples([0.6, 0.6, 0.6, 0.6])]).critical[0] > 1.9
    one, two = samples([0.6, 0.55])
    compared = compare_all([one, two, two])
    assert compared.error[1, 2] < compared.error[0, 1] / 4


@pytest.mark.parametrize(("seeds", "least"), [(2, 5.0), (3, 2.9)])
def test_a_pair_that_alone_varies_by_seed_has_its_own_degrees_of_freedom(seeds, least):
    """Student's t of one or two, where one setting of seven is worse in its last seed."""
    *others, last = samples([0.6] * 7, seeds=seeds, examples=100_000, by_seed=0.0)
    fallen = np.where(np.arange(100_000) < 10_000, 0, last.values[seeds - 1])
    compared = compare_all([*others, sample({**last.values, seeds - 1: fallen})])
    assert (compared.quantiles[:6, 6] > least).all()
    assert (compared.quantiles[6, :6] > least).all()
    assert (compared.quantiles[:6, :6] == np.broadcast_to(compared.critical[:6], (6, 6))).all()


def rounds(gaps, number=ROUNDS, examples=400, noise=0.3, seed=0):
    """Rounds of settings that score by so much less than the first, beside noise by example."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        shared = rng.normal(0.6, 1.0, examples)
        yield [shared - gap + noise * rng.normal(size=examples) for gap in gaps]


def race_of(gaps, margin=0.1, **options):
    race = Race(len(gaps), margin)
    for values in rounds(gaps, **options):
        if race.is_over:
            break
        race.add([v if i in race.live else None for i, v in enumerate(values)])
    return race


@pytest.mark.parametrize(("gaps", "margin", "number", "shown", "left", "best", "is_over"), [
    ([0.5, 0.02, 0.0, 0.5], 0.2, 3, 1, {0: 1, 3: 1}, {1, 2}, True),
    ([0.06, 0.0], 0.1, 3, 1, {}, {0, 1}, False),  # the first may still be picked
    ([0.0, 0.0, 0.0], 0.001, ROUNDS, None, {}, {0, 1, 2}, True),
])  # fmt: skip
def test_the_cheapest_within_the_margin_is_picked(gaps, margin, number, shown, left, best, is_over):
    race = race_of(gaps, margin, number=number if not is_over else ROUNDS)
    assert (race.shown, race.left, race.is_over) == (shown, left, is_over)
    assert len(race.rounds) == number
    assert race.best <= best
    assert race.shown is not None or race.best == best
    assert is_over or race.picks == {0, 1}
    failing = Race(3, 0.1)  # a setting whose training failed leaves
    [[one, other, _]] = rounds([0.0, 0.0, 0.0], number=1)
    failing.add([one, None, other])
    assert (failing.left, failing.live) == ({1: 1}, [0, 2])
    failing.add([None, None, None])
    assert (failing.is_over, failing.live, failing.shown) == (True, [], None)


def test_bounds_have_the_variance_between_rounds_and_five_percent_of_races_err():
    """In a race, the best setting must neither leave nor lose to one worse by the margin."""
    gaps = [0.0, 0.0]
    assert compare_rounds([*rounds(gaps, 2)], [0, 1]).level == LEVELS[1]
    shifted = [
        [values[0] + shift, values[1] - shift]
        for shift, values in zip((0.2, -0.2, 0.1), rounds(gaps, 3), strict=True)
    ]
    wide, narrow = (compare_rounds(some, [0, 1]) for some in (shifted, [*rounds(gaps, 3)]))
    assert wide.error[0, 1] > 3 * narrow.error[0, 1]
    # never less than the variance over examples
    examples = narrow.of_examples[0, 1] ** 0.5
    assert narrow.error[0, 1] >= examples == pytest.approx(0.3 * 2**0.5 / 1200**0.5, rel=0.1)

    wrong = 0
    for seed in range(200):
        race = race_of([0.1, 0.1, 0.1, 0.0], seed=seed, noise=1.0, examples=300)
        wrong += race.shown not in (None, 3) or 3 not in race.best
    assert wrong <= 17  # of 200: 5% and two standard errors
