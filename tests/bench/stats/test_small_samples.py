"""The committed table of how often intervals of scores hold the true one on few examples."""

from pathlib import Path

from bench.results.facts import FEWEST
from tests.experiments.small_samples import line, row

PAGE = (Path(__file__).parents[3] / "docs" / "measuring.md").read_text(encoding="utf-8")


def test_the_committed_line_is_what_the_command_prints():
    heavy = "heavy tails (t, 3 degrees of freedom)"
    assert row("pearson", 3.0, heavy) in PAGE.splitlines()


def test_intervals_of_metrics_by_class_are_too_narrow_below_the_warning():
    few, enough = line("mcc", 0.05, 150, (50, 300))
    assert 50 * 0.05 < FEWEST <= 300 * 0.05
    assert few < 0.91 <= enough


def test_intervals_of_correlations_bear_heavy_tails():
    assert min(line("spearman", 3.0, 150, (50, 200))) >= 0.9
