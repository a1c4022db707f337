"""The committed table of how often intervals of scores hold the true one on few examples."""

from pathlib import Path

import pytest

from bench.results.facts import FEWEST
from tests.experiments.small_samples import line, row

PAGE = (Path(__file__).parents[3] / "docs" / "measuring.md").read_text(encoding="utf-8")


def test_the_committed_line_is_what_the_command_prints():
    heavy = "heavy tails (t, 3 degrees of freedom)"
    assert row("pearson", 3.0, heavy) in PAGE.splitlines()


@pytest.mark.parametrize(("metric", "rare"), [("mcc", 0.05), ("macro_f1", 0.1)])
def test_intervals_of_metrics_by_class_are_too_narrow_below_the_warning(metric, rare):
    few, enough = line(metric, rare, 150, (50, 300))
    assert 50 * rare < FEWEST <= 300 * rare
    assert few < 0.91 <= enough


@pytest.mark.parametrize(("metric", "freedom"), [("pearson", 5.0), ("spearman", 3.0)])
def test_intervals_of_correlations_bear_heavy_tails(metric, freedom):
    assert min(line(metric, freedom, 150, (50, 200))) >= 0.9
