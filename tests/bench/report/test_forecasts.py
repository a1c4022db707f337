"""The report's section on predictions."""

from bench.analysis.groups import groups
from bench.report.forecasts import forecasts_section
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import synthetic_rows


def predicted(memory, time, every=1):
    """Rows of which one in `every` has predictions: multiples of the measured values."""
    rows = synthetic_rows(68, failures=False)
    return [
        row | {"predicted_peak_mib": memory * row["peak_rss_mib"],
               "predicted_s": time * row["wall_s"]} if i % every == 0 else row
        for i, row in enumerate(rows)
    ]  # fmt: skip


def test_the_section_counts_predictions_of_cells_that_ended_ok():
    constant = {"predicted_peak_mib": 1.0, "predicted_s": 1.0}
    check_snapshot("forecasts", {
        title: forecasts_section(groups(rows)[0]) for title, rows in {
            "half, the times too short": predicted(1.05, 0.8, every=2),
            "failed cells are no misses": [row | constant for row in synthetic_rows(68)],
            "no times": [row | {"predicted_s": None} for row in predicted(1.0, 1.0)],
            "no peaks": [row | {"predicted_peak_mib": None} for row in predicted(1.0, 1.0)],
            "none": synthetic_rows(68),
        }.items()
    })  # fmt: skip
