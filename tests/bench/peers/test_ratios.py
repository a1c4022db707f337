"""Times and ratios over rounds, and their intervals."""

import math

import numpy as np
import pytest

from bench.peers.ratios import Replay, as_replay, ratio_of, time_of


def replays(rates: list[float], noise: float, rng: np.random.Generator, passes: int = 4):
    """Rounds with given true times per 1,000 tokens, each of noisy passes over two batches."""
    return [
        Replay((rate * np.array([1.0, 2.0]) * rng.normal(1, noise, (passes, 2))).tolist(),
               [1000, 2000])
        for rate in rates
    ]  # fmt: skip


def test_times_are_per_1000_real_tokens() -> None:
    assert Replay([[10.0, 30.0], [20.0, 40.0]], [300, 700]).ms_per_1k_tokens == pytest.approx(50)


def test_rounds_are_paired_so_a_slow_round_changes_no_ratio() -> None:
    rng = np.random.default_rng(0)
    drift = [100.0, 150.0, 300.0, 80.0]
    ratio = ratio_of(replays([0.5 * ms for ms in drift], 0.001, rng), replays(drift, 0.001, rng))
    assert ratio.value == pytest.approx(0.5, rel=0.01)
    ends = ratio.ends()
    assert ends is not None
    assert ends[1] - ends[0] < 0.01
    time_ends = time_of(replays(drift, 0.001, rng)).ends()
    assert time_ends is not None
    assert time_ends[1] / time_ends[0] > 2


@pytest.mark.parametrize("rounds", [2, 3, 5])
def test_the_interval_contains_the_true_ratio_about_19_times_in_20(rounds: int) -> None:
    rng = np.random.default_rng(rounds)
    contained = 0
    for _ in range(60):
        ours = [0.8 * math.exp(rng.normal(0, 0.03)) for _ in range(rounds)]
        baseline = [math.exp(rng.normal(0, 0.03)) for _ in range(rounds)]
        ratio = ratio_of(replays(ours, 0.01, rng), replays(baseline, 0.01, rng))
        contained += ratio.holds(0.8)
    assert 52 <= contained <= 60


def test_one_round_has_the_interval_of_its_passes() -> None:
    rng = np.random.default_rng(1)
    one, other = replays([50.0], 0.05, rng), replays([100.0], 0.05, rng)
    ends = ratio_of(one, other).ends()
    assert ends is not None
    assert ends[0] < ratio_of(one, other).value < ends[1]
    assert time_of([as_replay(3.5)]).ends() is None
    assert time_of([as_replay(3.5)]).value == pytest.approx(3.5)


def test_equal_times_have_the_ratio_one() -> None:
    same = replays([100.0, 110.0], 0.02, np.random.default_rng(2))
    assert ratio_of(same, same).value == 1


def test_a_ratio_needs_the_same_rounds_on_both_sides() -> None:
    with pytest.raises(ValueError, match="same number of rounds"):
        ratio_of([as_replay(1.0)], [])
    with pytest.raises(ValueError, match="no rounds"):
        time_of([])
