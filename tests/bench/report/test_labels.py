"""What twice the examples add: by formula, and by simulation of curves of known truth."""

import numpy as np
import pytest

from bench.report.labels import doubled
from bench.stats.intervals import Interval


def test_a_doubling_adds_what_the_last_one_did_or_less_as_the_curve_flattens():
    gain = doubled(2, Interval(0.04, 0.02, 0.06))
    assert gain.value == pytest.approx(0.04 / 2**0.5), "errors that shrink as 1/√n"
    assert gain.high == pytest.approx(0.06), "a line in log n: all of the upper end"
    assert gain.low == pytest.approx(0.01), "errors that shrink as 1/n: half of the lower end"
    down = doubled(4, Interval(-0.04, -0.06, -0.02))
    assert (down.low, down.high) == pytest.approx((-0.03, -0.02 / 6))
    assert down.value == pytest.approx(-0.04 * (1 - 0.5**0.5))
    assert doubled(2, Interval(0.04)).ends() is None
    full = doubled(2, Interval(0.06, 0.04, 0.08), room=0.03)
    assert (full.value, full.high) == (0.03, 0.03), "no share is above 1"


@pytest.mark.parametrize("power", [0.01, 0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("missing", [0.05, 0.3])
def test_the_interval_holds_the_truth_of_power_laws(power, missing):
    """Scores of 1 − floor − missing · n^−power, measured with errors of 0.7 points."""
    chance = np.random.default_rng(0)
    third, whole, twice = (-missing * n**-power for n in (1 / 3, 1, 2))
    held, error = 0, 0.007 * np.sqrt(2)
    for difference in whole - third + error * chance.standard_normal(2000):
        half = 1.96 * error
        gain = doubled(3, Interval(difference, difference - half, difference + half))
        held += gain.holds(twice - whole)
    assert held / 2000 >= 0.94
