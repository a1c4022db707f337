"""The report's sections on predictions, and on costs by length and batch."""

from bench.analysis.groups import groups
from bench.plan.columns import NAMES
from bench.report.forecasts import forecasts_section
from bench.report.render import report
from bench.results import curves
from bench.results.curves import curves_key
from bench.results.rescoring import read_results
from bench.results.rowfile import encode, record
from tests.bench.report.snapshots import check_snapshot
from tests.bench.report.test_side_files import CURVES, KEY, ROWS
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


def sections(path):
    return {section.anchor: section for section in report(read_results([path], None))["sections"]}


def test_a_report_has_the_curves_of_its_model_on_its_kind_of_device(tmp_path, undrawn):
    path = tmp_path / "runs.csv"
    path.write_bytes(record(NAMES) + b"".join(map(encode, ROWS)))
    assert "lengths" not in sections(path)
    curves.CURVES.update(path, curves_key("another model", "cpu"), lambda _: CURVES)
    curves.CURVES.update(path, KEY.replace("cpu", "cuda"), lambda _: CURVES)
    assert "lengths" not in sections(path)
    curves.CURVES.update(path, KEY, lambda _: CURVES)
    section = sections(path)["lengths"]
    assert section.short == "Length and batch"
    # 300 MiB of 1,324 are weights, of which LoRA has 100
    assert section.lines[0].startswith(
        "In batches of 64 and at 16 tokens lora saves 15% of the memory of full fine-tuning, at 16 "
    )
    assert (
        "since activations are 77% of full fine-tuning's there; from 99 tokens on it saves"
        in (section.lines[0])
    )
    assert section.lines[-1] == "Error: none."
    assert [row[:2] for row in section.tables[0].rows] == [["full", "16"], ["lora", "16"]] * 2
