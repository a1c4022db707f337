"""How time divides into training, evaluation and overhead, and how that is reported."""

import pytest

from bench.report.text import phrase
from bench.results.overhead import Account, overhead_s, times_of
from tests.bench.synthetic_rows import cell, planned_row


def row(**changes):
    measured = {"status": "ok", "wall_s": 100, "train_s": 80, "eval_s": 12, "startup_s": 3}
    return planned_row(cell("full", None, None, "off")) | measured | changes


def test_overhead_is_what_is_neither_training_nor_evaluation_and_shares_add_up():
    assert overhead_s(row()) == pytest.approx(8)
    found = times_of([row(), row(train_s=60.0)])
    assert (found.cells, found.train_s, found.eval_s) == (2, 140, 24)
    assert (found.startup_s, found.rest_s, found.between_s) == pytest.approx((6, 30, 0))
    assert (found.overhead_s, found.total_s) == pytest.approx((36, 200))
    assert found.to_json()["overhead"] == pytest.approx(0.18)
    assert phrase("times", "division", times_of([row()], between_s=5.0)) == (
        "105 s, of which training 76.2%, evaluation 11.4% and overhead 12.4% (start-up 2.9%, "
        "timing, writing and ending 4.8%, between cells 4.8%)"
    )


@pytest.mark.parametrize("missing", ["wall_s", "train_s", "eval_s"])
def test_what_was_not_measured_is_not_counted(missing):
    assert overhead_s(row(**{missing: None})) is None
    assert times_of([row(**{missing: None})]) is None
    assert times_of([row(**{missing: None}), row()]) == times_of([row()])
    assert times_of([row(status="timeout")]) is times_of([]) is None


def test_a_run_counts_what_is_between_its_cells_and_not_what_others_took():
    account = Account(clock=iter((0.0, 0.0, 187.0)).__next__)
    assert account.times() is None
    account.waited(50.0)
    account.add(row())
    account.add(row(status="oom", wall_s=30.0))
    found = account.times()
    assert (found.between_s, found.total_s) == pytest.approx((7, 107))
    for lanes, between_s in ((2, 14), (0, 0)):  # two lanes together, and a cluster
        account = Account(lanes, iter((0.0, 107.0)).__next__)
        account.add(row())
        account.add(row())
        found = account.times()
        assert (found.between_s, found.total_s) == pytest.approx((between_s, 200 + between_s))
