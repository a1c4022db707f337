"""Change points: found where a mean steps, and hardly ever in noise."""

import numpy as np
import pytest

from bench.stats.changepoints import (
    SHORTEST,
    autoregressive,
    change_points,
    segment_medians,
    threshold,
)


def outliers(random, series, runs):
    return random.standard_t(5, (series, runs))


def unequal(random, series, runs):
    """Against a common reference."""
    noise = random.standard_normal((series + 1, runs))
    return np.exp(random.normal(0, 0.5, (series, 1))) * (noise[1:] - noise[0])


def correlated(random, series, runs):
    """As on a machine that is slow for a while: neighbours correlate by 0.5."""
    return autoregressive(random.standard_normal((series, runs)), 0.5)


@pytest.mark.parametrize(
    ("noise", "series", "runs"),
    [(correlated, 1, 6), (outliers, 3, 8), (unequal, 3, 8), (correlated, 3, 8)],
)
def test_noise_has_change_points_in_at_most_one_history_of_twenty(noise, series, runs):
    random = np.random.default_rng(1)
    histories = 200
    alarms = sum(
        any(change_points(noise(random, series, runs).tolist(), 1e-9)) for _ in range(histories)
    )
    assert alarms <= 0.05 * histories + 2 * (0.05 * 0.95 * histories) ** 0.5


def test_a_step_is_found_where_it_is():
    series = 0.01 * np.random.default_rng(3).standard_normal((4, 12))
    series[2, 9:] += np.log(1.1)
    assert change_points(series.tolist(), np.log(1.05)) == [[], [], [9], []]
    both = 0.005 * np.random.default_rng(4).standard_normal((1, 15))
    both[0, 5:10] += 0.2
    assert change_points(both.tolist(), 0.05) == [[5, 10]], "up and down"


def test_a_step_is_found_only_with_enough_runs_on_either_side():
    for after in range(1, SHORTEST + 2):
        expected = [6] if after >= SHORTEST else []
        assert change_points([[0.0] * 6 + [1.0] * after], 0.1) == [expected]
    assert change_points([[0.0, 1.0]], 0.1) == [[]]
    assert change_points([[], [0.0] * 3 + [1.0] * 3], 0.1) == [[], [3]]
    assert change_points([], 0.1) == []
    exact = [[0.0] * 5 + [size] * 5 for size in (0.0201, 0.0199, -0.03)]
    assert change_points(exact, 0.02) == [[5], [], [5]], "from the limit on"
    assert segment_medians([1, 1, 4, 6], [2]) == [1, 5]
    assert segment_medians([1, 3, 90], []) == [3]


def test_more_series_and_more_measures_need_larger_steps():
    assert threshold(1, 12, 1) < threshold(1, 12, 6)
    assert threshold(4, 12) < threshold(12, 12)


def test_autoregressive_noise_has_its_variance_and_correlation():
    noise = autoregressive(np.random.default_rng(0).standard_normal((200, 200)), 0.7)
    assert noise.std() == pytest.approx(1.0, abs=0.02)
    assert np.mean(noise[:, 1:] * noise[:, :-1]) == pytest.approx(0.7, abs=0.02)


def test_an_excursion_is_no_change():
    for size in (1, SHORTEST - 1):
        assert change_points([[0.0] * 4 + [1.0] * size + [0.0] * 4], 0.1) == [[]]
        assert change_points([[0.0] * 4 + [3.0] * size + [1.0] * 4], 0.1) == [[4 + size]]
