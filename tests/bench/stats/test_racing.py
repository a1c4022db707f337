"""Races: who stays, who leaves, and what is shown."""

import numpy as np
import pytest

from bench.stats.racing import LEVELS, ROUNDS, Race, compare_rounds


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


def test_the_cheapest_within_the_margin_is_picked_after_three_rounds():
    race = race_of([0.5, 0.02, 0.0, 0.5], margin=0.2)
    assert (race.shown, len(race.rounds)) == (1, 3)
    assert race.left == {0: 1, 3: 1}
    assert race.best <= {1, 2}


def test_a_cheap_setting_that_may_still_be_picked_keeps_a_race_open():
    race = race_of([0.06, 0.0], number=3)
    assert race.picks == {0, 1}
    assert race.shown == 1
    assert not race.is_over


def test_equal_settings_stay_until_the_last_round_if_nothing_is_shown():
    race = race_of([0.0, 0.0, 0.0], margin=0.001)
    assert race.is_over
    assert race.shown is None
    assert race.best == {0, 1, 2}
    assert len(race.rounds) == ROUNDS


def test_a_setting_whose_training_failed_leaves():
    race = Race(3, 0.1)
    [[one, other, _]] = rounds([0.0, 0.0, 0.0], number=1)
    race.add([one, None, other])
    assert race.left == {1: 1}
    assert race.live == [0, 2]
    race.add([None, None, None])
    assert race.is_over
    assert race.live == []
    assert race.shown is None


def test_bounds_have_the_level_of_their_round_and_the_variance_between_rounds():
    gaps = [0.0, 0.0]
    few = compare_rounds([*rounds(gaps, 2)], [0, 1])
    assert few.level == LEVELS[1]
    shifted = [
        [values[0] + shift, values[1] - shift]
        for shift, values in zip((0.2, -0.2, 0.1), rounds(gaps, 3), strict=True)
    ]
    wide, narrow = (compare_rounds(some, [0, 1]) for some in (shifted, [*rounds(gaps, 3)]))
    assert wide.error[0, 1] > 3 * narrow.error[0, 1]
    # never less than the variance over examples
    examples = narrow.of_examples[0, 1] ** 0.5
    assert narrow.error[0, 1] >= examples == pytest.approx(0.3 * 2**0.5 / 1200**0.5, rel=0.1)


def test_an_error_of_all_rounds_is_at_most_five_percent_of_races():
    """The best setting must neither leave nor lose to one that is worse by the margin."""
    wrong = 0
    for seed in range(200):
        race = race_of([0.1, 0.1, 0.1, 0.0], seed=seed, noise=1.0, examples=300)
        wrong += race.shown not in (None, 3) or 3 not in race.best
    assert wrong <= 17  # of 200: 5% and two standard errors
