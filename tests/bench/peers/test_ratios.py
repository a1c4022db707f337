"""Times and ratios over rounds, and their intervals."""

import math

import numpy as np
import pytest

from bench.peers.ratios import Replay, ratio_of, time_of, whole


def replays(rates: list[float], noise: float, rng: np.random.Generator, passes: int = 4):
    """Rounds whose true time for 1,000 tokens is given, each of noisy passes over two batches."""
    return [
        Replay((rate * np.array([1.0, 2.0]) * rng.normal(1, noise, (passes, 2))).tolist(),
               [1000, 2000])
        for rate in rates
    ]  # fmt: skip


def test_time_for_1000_tokens_is_of_real_tokens() -> None:
    assert Replay([[10.0, 30.0], [20.0, 40.0]], [300, 700]).ms_per_1k_tokens == pytest.approx(50)


def test_rounds_are_paired_so_a_slow_round_changes_no_ratio() -> None:
    rng = np.random.default_rng(0)
    drift = [100.0, 150.0, 300.0, 80.0]
    found = ratio_of(replays([0.5 * ms for ms in drift], 0.001, rng), replays(drift, 0.001, rng))
    assert found.value == pytest.approx(0.5, rel=0.01)
    ends = found.ends()
    assert ends is not None
    assert ends[1] - ends[0] < 0.01
    apart = time_of(replays(drift, 0.001, rng)).ends()
    assert apart is not None
    assert apart[1] / apart[0] > 2


@pytest.mark.parametrize("rounds", [2, 3, 5])
def test_the_interval_holds_the_true_ratio_about_19_times_of_20(rounds: int) -> None:
    rng = np.random.default_rng(rounds)
    held = 0
    for _ in range(60):
        ours = [0.8 * math.exp(rng.normal(0, 0.03)) for _ in range(rounds)]
        peers = [math.exp(rng.normal(0, 0.03)) for _ in range(rounds)]
        found = ratio_of(replays(ours, 0.01, rng), replays(peers, 0.01, rng))
        held += bool(found.holds(0.8))
    assert 52 <= held <= 60


def test_one_round_has_the_interval_of_its_passes() -> None:
    rng = np.random.default_rng(1)
    one, other = replays([50.0], 0.05, rng), replays([100.0], 0.05, rng)
    ends = ratio_of(one, other).ends()
    assert ends is not None
    assert ends[0] < ratio_of(one, other).value < ends[1]
    assert time_of([whole(3.5)]).ends() is None
    assert time_of([whole(3.5)]).value == pytest.approx(3.5)


def test_the_same_times_give_one() -> None:
    of = replays([100.0, 110.0], 0.02, np.random.default_rng(2))
    assert ratio_of(of, of).value == 1


def test_a_ratio_is_of_as_many_rounds() -> None:
    with pytest.raises(ValueError, match="as many rounds"):
        ratio_of([whole(1.0)], [])
    with pytest.raises(ValueError, match="no rounds"):
        time_of([])
