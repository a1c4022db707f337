"""Step times and change points: known ones are seen, and intervals cover as they say."""

from functools import partial

import numpy as np
import pytest

from bench.stats import changepoints
from bench.stats.changepoints import SHORTEST, autoregressive, change_points
from bench.stats.intervals import Interval
from bench.stats.steptimes import STEPS_ENOUGH, WARMUP_WINDOWS, WINDOW, replay_times, training_times


def test_panel_times_are_a_median_step_and_a_mean_for_1000_tokens():
    found = replay_times([[10, 20, 30, 40], [10, 20, 30, 40]], [100, 200, 300, 400])
    assert found.step_ms == Interval(25, 25, 25)
    assert found.ms_per_1k_tokens == Interval(100, 100, 100)
    one = replay_times([[10.0, 20.0]], [1, 1])
    assert (one.step_ms, one.ms_per_1k_tokens) == (Interval(15.0), Interval(15_000.0))
    noisy = np.array([10, 20, 30, 40]) * np.random.default_rng(0).normal(1, 0.1, size=(5, 4))
    found = replay_times(noisy, [1, 2, 3, 4])
    assert found == replay_times(noisy, [1, 2, 3, 4])
    for interval in (found.step_ms, found.ms_per_1k_tokens):
        assert interval.low < interval.value < interval.high
    for rng in map(np.random.default_rng, range(6)):  # however a machine was disturbed
        passes = np.array([100.0, 120.0, 300.0, 480.0]) * rng.normal(1, 0.01, size=(6, 4))
        passes[rng.integers(6)] *= rng.uniform(1.5, 6)
        passes[rng.integers(6), rng.integers(4)] += rng.uniform(0, 2000)
        found = replay_times(passes.tolist(), [100, 120, 300, 480], draws=400)
        for interval in (found.step_ms, found.ms_per_1k_tokens):
            assert 0 <= interval.low <= interval.value <= interval.high


@pytest.mark.parametrize(("of_pass", "of_step"), [(0, 0.1), (0.03, 0.003)])
def test_intervals_of_panels_cover_about_as_often_as_they_say(of_pass, of_step):
    rng, hits = np.random.default_rng(1), np.zeros(2)
    for _ in range(300):
        noise = rng.normal(1, of_pass, size=(3, 1)) * rng.normal(1, of_step, size=(3, 5))
        found = replay_times(np.array([10, 20, 30, 40, 50]) * noise, [1, 2, 3, 4, 5], draws=400)
        hits += found.ms_per_1k_tokens.holds(10_000), found.step_ms.holds(30)
    assert (hits / 300 >= 0.91).all()
    assert (hits / 300 <= 0.99).all()


@pytest.mark.parametrize(("measure", "times", "tokens"), [
    *((replay_times, passes, [1, 1]) for passes in ([], [[]], [[1.0]])),
    (partial(training_times, padded=[1] * 95), [1.0] * 95, [1] * 95),
    (partial(training_times, padded=[1] * 199), [1.0] * 200, [1] * 199),
])  # fmt: skip
def test_times_that_are_not_of_the_panel_or_of_no_such_training_are_refused(measure, times, tokens):
    with pytest.raises(ValueError, match=r"timing batches|training"):
        measure(times, tokens)


def sizes(rng, steps):
    """Real tokens of an epoch's batches, short and long, in a shuffled order; the last is small."""
    return [*map(int, rng.uniform(600, 2400, size=steps - 1)), 90]


def true_ms(tokens):
    """What such steps take on a machine without noise: a start, and more than linear in tokens."""
    scaled = np.asarray(tokens) / 1000
    return 20 + 200 * scaled + 15 * scaled**2


def test_training_without_noise_gives_its_times_and_padding_explains_what_real_tokens_do_not():
    rng = np.random.default_rng(5)
    padded = sizes(rng, 134)
    tokens = [*map(round, np.array(padded) * rng.uniform(0.3, 0.7, 134))]
    ms = true_ms(padded)
    found = training_times(ms.tolist(), tokens, padded)
    assert (found.warm, found.settled) == (WINDOW, True)
    rate, median = found.ms_per_1k_tokens, found.step_ms
    assert rate.value == pytest.approx(ms.sum() / sum(tokens) * 1000)
    assert median.value == pytest.approx(np.median(ms))
    for interval in (rate, median):
        assert interval.high < 1.001 * interval.low


@pytest.mark.parametrize(("of_step", "shared", "kept"), [(0.05, 0.0, 0.0), (0.01, 0.03, 0.8)])
def test_intervals_of_training_cover_about_as_often_as_they_say(of_step, shared, kept):
    rng, steps = np.random.default_rng(2), STEPS_ENOUGH
    rates = medians = 0
    for _ in range(300):
        truth = true_ms(tokens := sizes(rng, steps))
        slow = 1 + autoregressive(rng.normal(0, shared, steps), kept)  # for a while
        ms = truth * slow * rng.normal(1, of_step, steps)
        found = training_times(ms.tolist(), tokens, tokens)
        rates += bool(found.ms_per_1k_tokens.holds(truth.sum() / sum(tokens) * 1000))
        medians += bool(found.step_ms.holds(float(np.median(truth))))
    assert 0.9 <= rates / 300 <= 0.99
    assert 0.9 <= medians / 300 <= 0.99


def test_steps_of_a_warm_up_do_not_count():
    tokens = sizes(np.random.default_rng(3), 134)
    ms = true_ms(tokens)
    slow = ms.copy()
    slow[: 2 * WINDOW] *= np.repeat([3.0, 1.4], WINDOW)
    found = training_times(slow.tolist(), tokens, tokens)
    assert (found.warm, found.settled) == (3 * WINDOW, True)
    same = training_times(ms.tolist(), tokens, tokens)
    values = [(of.step_ms.value, of.ms_per_1k_tokens.value) for of in (found, same)]
    assert values[0] == pytest.approx(values[1]), "of the same batches, whatever the warm-up"
    windows = np.arange(STEPS_ENOUGH) // WINDOW  # a training that never comes to rest
    ms, tokens = 100 * 1.2 ** (windows % 2 + windows // 3), [1000] * STEPS_ENOUGH
    found = training_times(ms.tolist(), tokens, tokens)
    assert (found.warm, found.settled) == (WARMUP_WINDOWS * WINDOW, False)


def unequal(random, series, runs):
    """Against a common reference."""
    noise = random.standard_normal((series + 1, runs))
    return np.exp(random.normal(0, 0.5, (series, 1))) * (noise[1:] - noise[0])


def correlated(random, series, runs):
    """As on a machine that is slow for a while: neighbours correlate by 0.5."""
    return autoregressive(random.standard_normal((series, runs)), 0.5)


@pytest.mark.parametrize(("noise", "series", "runs"), [
    (correlated, 1, 6), (unequal, 3, 8), (correlated, 3, 8),
    (lambda random, *size: random.standard_t(5, size), 3, 8),  # with outliers
])  # fmt: skip
def test_noise_has_change_points_in_at_most_one_history_of_twenty(noise, series, runs):
    random, histories = np.random.default_rng(1), 200
    drawn = (noise(random, series, runs).tolist() for _ in range(histories))
    alarms = sum(any(change_points(history, 1e-9)) for history in drawn)
    assert alarms <= 0.05 * histories + 2 * (0.05 * 0.95 * histories) ** 0.5


def test_a_step_is_found_where_it_is():
    series = 0.01 * np.random.default_rng(3).standard_normal((4, 12))
    series[2, 9:] += np.log(1.1)
    assert change_points(series.tolist(), np.log(1.05)) == [[], [], [9], []]
    both = 0.005 * np.random.default_rng(4).standard_normal((1, 15))
    both[0, 5:10] += 0.2
    assert change_points(both.tolist(), 0.05) == [[5, 10]], "up and down"
    for size in (1, SHORTEST - 1):  # an excursion is no change
        assert change_points([[0.0] * 4 + [1.0] * size + [0.0] * 4], 0.1) == [[]]
        assert change_points([[0.0] * 4 + [3.0] * size + [1.0] * 4], 0.1) == [[4 + size]]


def test_a_step_is_found_only_with_enough_runs_on_either_side():
    for after in range(1, SHORTEST + 2):
        expected = [6] if after >= SHORTEST else []
        assert change_points([[0.0] * 6 + [1.0] * after], 0.1) == [expected]
    assert change_points([[0.0, 1.0]], 0.1) == [[]]
    assert change_points([[], [0.0] * 3 + [1.0] * 3], 0.1) == [[], [3]]
    assert change_points([], 0.1) == []
    exact = [[0.0] * 5 + [size] * 5 for size in (0.0201, 0.0199, -0.03)]
    assert change_points(exact, 0.02) == [[5], [], [5]], "from the limit on"
    assert changepoints.segment_medians([1, 1, 4, 6], [2]) == [1, 5]
    assert changepoints.segment_medians([1, 3, 90], []) == [3]
    # more measures need larger steps
    assert changepoints.threshold(1, 12, 1) < changepoints.threshold(1, 12, 6)
    assert changepoints.threshold(4, 12) < changepoints.threshold(12, 12), "and so do more series"


def test_autoregressive_noise_has_its_variance_and_correlation():
    noise = autoregressive(np.random.default_rng(0).standard_normal((200, 200)), 0.7)
    assert noise.std() == pytest.approx(1.0, abs=0.02)
    assert np.mean(noise[:, 1:] * noise[:, :-1]) == pytest.approx(0.7, abs=0.02)
