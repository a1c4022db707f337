"""The report's section on costs by length and batch."""

from bench.plan.columns import NAMES
from bench.report.render import report
from bench.results.curves import curves_key, update_curves
from bench.results.rescoring import read_results
from bench.results.rowfile import encode, record
from tests.bench.report.test_side_files import CURVES, KEY, ROWS


def sections(path):
    return {section.anchor: section for section in report(read_results([path], None))["sections"]}


def test_a_report_has_the_curves_of_its_model_on_its_kind_of_device(tmp_path, undrawn):
    path = tmp_path / "runs.csv"
    path.write_bytes(record(NAMES) + b"".join(map(encode, ROWS)))
    assert "lengths" not in sections(path)
    update_curves(path, curves_key("another model", "cpu"), lambda _: CURVES)
    update_curves(path, KEY.replace("cpu", "cuda"), lambda _: CURVES)
    assert "lengths" not in sections(path)
    update_curves(path, KEY, lambda _: CURVES)
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
