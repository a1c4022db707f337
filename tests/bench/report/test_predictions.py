"""The report's section on predictions."""

import pytest

from bench.analysis.groups import groups
from bench.report.predictions import predictions_section
from bench.report.render import report
from tests.bench.synthetic_rows import synthetic_rows


def predicted(memory: float, time: float, every: int = 1):
    """Rows of which one in `every` has predictions: multiples of the measured values."""
    rows = synthetic_rows(68, failures=False)
    return [
        row | {"predicted_peak_mib": memory * row["peak_rss_mib"],
               "predicted_s": time * row["wall_s"]} if i % every == 0 else row
        for i, row in enumerate(rows)
    ]  # fmt: skip


def section(rows):
    (found,) = predictions_section(groups(rows)[0])
    return found


def test_without_predictions_nothing_is_said():
    assert predictions_section(groups(synthetic_rows(68))[0]) == []


def test_the_report_ends_its_sections_with_them():
    found = report(predicted(1.05, 0.8)[:4], [], [])["sections"]
    assert found[-1].heading == "Prediction: 4 of 4 peaks and 0 of 4 times within 10%"


def test_the_share_within_a_tenth_is_reported_and_drawn_for_memory_and_time():
    found = section(predicted(1.05, 0.8, every=2))
    assert found.heading == "Prediction: 34 of 34 peaks and 0 of 34 times within 10%"
    assert found.said[0].startswith("The predicted peak was within 10% of the measured one in 34 ")
    assert "in 34 of 34 cells (100%); the median error was 5.0%." in found.said[0]
    assert "in 0 of 34 cells (0%); the median error was 20.0%." in found.said[1]
    assert [drawing.stem for drawing in found.drawings] == ["predicted-peak", "predicted-time"]
    assert "34 of 34 points in the band" in found.drawings[0].alt
    assert "0 of 34 points in the band" in found.drawings[1].alt
    assert "peak RSS, MiB" in found.drawings[0].svg


def test_cells_that_failed_are_no_misses():
    rows = [row | {"predicted_peak_mib": 1.0, "predicted_s": 1.0} for row in synthetic_rows(68)]
    found = section(rows)
    assert found.heading == "Prediction: 0 of 65 peaks and 0 of 65 times within 10%"


@pytest.mark.parametrize("missing", ["predicted_s", "predicted_peak_mib"])
def test_one_of_them_may_be_missing(missing: str):
    rows = [row | {missing: None} for row in predicted(1.0, 1.0)]
    found = section(rows)
    assert len(found.drawings) == 1
    assert found.heading.count("of 68") == 1
