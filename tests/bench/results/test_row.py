"""What a worker left becomes a row, with intervals and doubts; and how time divides."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bench.plan import gridfile
from bench.plan.planning import Resolved, expand
from bench.report.text import phrase
from bench.results import row as rows
from bench.results.overhead import Account, overhead_s, times_of
from bench.results.row import keep_row, kept_row, measured_row, not_learned, score_interval
from bench.stats.steptimes import replay_times
from minbert.data.metrics import micro_f1
from tests.bench.synthetic_rows import HERE, cell, new_row, planned_row

CELL = expand(gridfile.load("smoke"), Resolved("minilm", "m", "mean", "d", "bf16", "grid"))[0]


def row_of(folder, status="ok", message="", **columns):
    return measured_row(
        CELL, HERE, columns=columns, status=status, flags=[], message=message, folder=folder,
        dev_examples={"movies": 100}, majority_score=0.36,
    )  # fmt: skip


def write_lines(path, head, lines):
    path.write_text("\n".join([head, *(",".join(map(str, line)) for line in lines)]) + "\n")


def panel_file(folder, passes, warm, settled=1):
    """A panel of batches of 100, 300, … tokens and 2 examples."""
    write_lines(folder / "panel.csv", "pass,batch,ms,tokens,examples,counts,settled", [
        (number, batch, ms, 100 + 200 * batch, 2, int(number >= warm), settled)
        for number, times in enumerate(passes) for batch, ms in enumerate(times)
    ])  # fmt: skip


def steps_file(folder, times):
    lines = [(number, ms, 400, 410, 8, 0.5) for number, ms in enumerate(times, start=1)]
    write_lines(folder / "steps.csv", "step,ms,tokens,padded,examples,loss", lines)


def test_times_are_those_of_the_passes_that_count(tmp_path):
    panel_file(tmp_path, [[900, 900], [10, 30], [10.4, 30.4], [10.2, 30.2]], warm=1)
    row = row_of(tmp_path)
    assert row["step_ms_median"] == 20.2
    assert row["ms_per_1k_tokens"] == pytest.approx(40.4 / 400 * 1000)
    assert row["steps_timed"] == 6
    assert row["examples_per_s"] == pytest.approx(4 / 0.0404)
    found = replay_times([[10, 30], [10.4, 30.4], [10.2, 30.2]], [100, 300])
    assert (row["step_ms_ci_low"], row["step_ms_ci_high"]) == found.step_ms.ends()
    low, high = row["ms_per_1k_tokens_ci_low"], row["ms_per_1k_tokens_ci_high"]
    assert low < 101 < high
    assert (low, high) == found.ms_per_1k_tokens.ends()
    assert "unstable_timing" not in str(row["flags"])


@pytest.mark.parametrize(("passes", "settled"), [
    ([[10, 30], [10, 30], [10, 30]], 0), ([[10, 30], [20, 60], [10, 30], [20, 60]], 1),
])  # fmt: skip
def test_times_that_did_not_settle_are_flagged(tmp_path, passes, settled):
    panel_file(tmp_path, passes, warm=0, settled=settled)
    assert "unstable_timing" in str(row_of(tmp_path)["flags"])
    (tmp_path / "panel.csv").unlink()
    steps_file(tmp_path, [40.0 * 2 ** (step // 8 % 2) for step in range(128)])
    assert "unstable_timing" in str(row_of(tmp_path)["flags"]), "its beginning never came to rest"


def test_a_long_training_shows_its_own_times(tmp_path):
    assert rows.step_times(tmp_path) == ({}, True)
    steps_file(tmp_path, [40.0] * 95)
    assert rows.step_times(tmp_path) == ({}, True), "a short one without a panel has none"
    steps_file(tmp_path, [90.0] * 8 + [40.0, 41.0] * 60)
    row = row_of(tmp_path)
    assert row["ms_per_1k_tokens"] == pytest.approx(40.5 / 400 * 1000)
    assert row["steps_timed"] == 128 - 16
    assert row["examples_per_s"] == pytest.approx(8 / 0.0405)
    assert row["flags"] is None
    panel_file(tmp_path, [[10, 30], [10.4, 30.4], [10.2, 30.2]], warm=0)
    assert row_of(tmp_path)["steps_timed"] == 6, "a panel was replayed because steps were few"


def test_the_parts_of_a_step_add_up_to_its_median(tmp_path):
    head = "step,ms,tokens,padded,examples,forward_ms,backward_ms,loss"
    write_lines(tmp_path / "steps.csv", head, [
        (number, ms, 400, 410, 8, ms * share, ms * 0.5, 0.5)
        for number, (ms, share) in enumerate([(90.0, 0.1)] * 8 + [(40.0, 0.3)] * 120, start=1)
    ])  # fmt: skip
    row = row_of(tmp_path)
    assert row["step_ms_median"] == pytest.approx(40)
    parts = [row[name] for name in ("forward_ms", "backward_ms", "optimizer_ms")]
    assert parts == pytest.approx([12, 20, 8])


def test_a_row_that_was_kept_is_read_again(tmp_path):
    row = row_of(tmp_path, dev_metric="accuracy", dev_score=0.6) | {"attempt": 1}
    keep_row(tmp_path, row)
    assert kept_row(tmp_path) == row
    for text in ("{", "[]", '{"mode": "lorra"}', "3"):
        (tmp_path / "row.json").write_text(text)
        assert kept_row(tmp_path) is None


def test_intervals_are_by_wilson_or_fisher_or_without_a_formula_from_the_predictions(tmp_path):
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 4)) < 0.4).astype(np.int8)
    logits = (labels - 0.5 + rng.normal(size=(200, 4))).astype(np.float32)
    save_file({"logits": logits, "labels": labels}, tmp_path / "predictions.safetensors")
    row = new_row(dev_metric="micro_f1", dev_score=micro_f1(logits, labels))
    draws = rng.integers(0, 200, (300, 200))
    half = 1.96 * np.std([micro_f1(logits[one], labels[one]) for one in draws], ddof=1)
    expected = {"dev_ci_low": row.dev_score - half, "dev_ci_high": row.dev_score + half}
    assert score_interval(row, {"mine": 200}, tmp_path) == pytest.approx(expected, abs=0.15 * half)
    assert score_interval(row, {"mine": 200}, tmp_path / "none") == {}
    accuracy, correlation = (
        score_interval(new_row(dev_metric=metric, dev_score=0.5), {"movies": 100}, Path())
        for metric in ("accuracy", "pearson")
    )
    assert accuracy == pytest.approx({"dev_ci_low": 0.4038, "dev_ci_high": 0.5962}, abs=1e-4)
    assert correlation["dev_ci_low"] == pytest.approx(0.3366, abs=1e-3)


def test_not_learned_is_flagged_by_the_interval(tmp_path):
    assert row_of(tmp_path, dev_metric="accuracy", dev_score=0.44)["flags"] == "not_learned"
    assert row_of(tmp_path, dev_metric="accuracy", dev_score=0.60)["flags"] is None
    assert not_learned(new_row(dev_metric="pearson"))
    assert not_learned(new_row(dev_metric="pearson", dev_score=0.1, dev_ci_low=-0.1))
    assert not not_learned(new_row(dev_metric="pearson", dev_score=0.4, dev_ci_low=0.2))
    assert not not_learned(new_row())


def test_a_failed_cell_keeps_its_message_on_one_line(tmp_path):
    row = row_of(tmp_path, status="oom", message="no\nmemory", peak_rss_mib=5.0)
    assert (row["status"], row["message"]) == ("oom", "no memory")
    assert row["peak_rss_mib"] == 5.0
    assert row["dev_ci_low"] is None


def timed(**changes):
    measured = {"status": "ok", "wall_s": 100, "train_s": 80, "eval_s": 12, "startup_s": 3}
    return planned_row(cell("full", None, None, "off")) | measured | changes


def test_overhead_is_what_is_neither_training_nor_evaluation_and_shares_add_up():
    assert overhead_s(timed()) == pytest.approx(8)
    found = times_of([timed(), timed(train_s=60.0)])
    assert (found.cells, found.train_s, found.eval_s) == (2, 140, 24)
    assert (found.startup_s, found.rest_s, found.between_s) == pytest.approx((6, 30, 0))
    assert (found.overhead_s, found.total_s) == pytest.approx((36, 200))
    assert found.to_json()["overhead"] == pytest.approx(0.18)
    assert phrase("times", "division", times_of([timed()], between_s=5.0)) == (
        "105 s, of which training 76.2%, evaluation 11.4% and overhead 12.4% (start-up 2.9%, "
        "timing, writing and ending 4.8%, between cells 4.8%)"
    )


def test_a_run_counts_what_is_between_its_cells_and_not_what_others_took():
    account = Account(clock=iter((0.0, 0.0, 187.0)).__next__)
    assert account.times() is None
    account.waited(50.0)
    account.add(timed())
    account.add(timed(status="oom", wall_s=30.0))
    found = account.times()
    assert (found.between_s, found.total_s) == pytest.approx((7, 107))
    for lanes, between_s in ((2, 14), (0, 0)):  # two lanes together, and a cluster
        account = Account(lanes, iter((0.0, 107.0)).__next__)
        account.add(timed())
        account.add(timed())
        found = account.times()
        assert (found.between_s, found.total_s) == pytest.approx((between_s, 200 + between_s))
