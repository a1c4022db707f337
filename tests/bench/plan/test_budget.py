"""A budget of time: which cells fit, and the messages about those that do not."""

import math

from bench.grid.session import LEFT_OUT, how_to_go_on, to_run_again
from bench.plan.budget import Budget, minutes, needs_no_row, that_fit, was_left_out
from bench.plan.columns import LARGEST
from tests.bench.synthetic_rows import cell, failed_row

MINUTE = 60.0
SHORT = "left out: predicted to take {} min, and 3 of the budget of 90 min are left"


def budget_of(minutes_=math.inf):
    """A budget, and a function that puts its clock forward by some minutes."""
    now = [1000.0]

    def forward(by):
        now[0] += by * MINUTE

    return Budget(minutes_ * MINUTE, lambda: now[0]), forward


def test_a_cell_fits_that_takes_no_longer_than_what_is_left():
    unlimited, forward = budget_of()
    forward(1e8)
    assert unlimited.fits(LARGEST)
    assert unlimited.leave_out("a", None) is None
    assert how_to_go_on([], {"ok": 1}, budget=unlimited) == []
    budget, forward = budget_of(90)
    assert budget.leave_out("a", 90 * MINUTE) is None
    forward(87)
    assert budget.left_s() == 3 * MINUTE
    assert (budget.fits(3 * MINUTE), budget.fits(3 * MINUTE + 1)) == (True, False)
    assert budget.leave_out("a", None) is None, "one without a prediction"
    assert budget.leave_out("b", 12 * MINUTE) == SHORT.format(12)
    assert budget.left_out == {"b": 12 * MINUTE}
    forward(3)
    assert budget.left_s() == 0
    why = "left out: {}, and the budget of 90 min is used up"
    assert budget.leave_out("a", None) == why.format("its time is not predicted")
    assert budget.leave_out("b", 0.0) == why.format("predicted to take 0 min")
    texts = [minutes(s) for s in (0, 15, 59.9, 204, 5400, 86_400)]
    assert texts == ["0", "0.25", "1", "3.4", "90", "1,440"]

    budget, forward = budget_of(10)
    forward(5)
    budget.leave_out("a", 8 * MINUTE)
    lines = how_to_go_on([], {"ok": 1}, budget=budget)
    assert lines == ["1 cell was left out for the budget of 10 min"]
    budget.leave_out("b", 30 * MINUTE)
    budget.leave_out("c", 12 * MINUTE)
    first, second = how_to_go_on([], {"ok": 1}, budget=budget)
    assert first == "3 cells were left out for the budget of 10 min"
    assert second.startswith("2 of them are predicted to take longer than all of it, up to 30 min")
    assert that_fit(100.0, [60.0, 50.0, None, 40.0, 1.0]) == [True, False, None, True, False]
    assert that_fit(float("inf"), [1e12, None]) == [True, None]
    assert that_fit(100.0, [60.0, 50.0, None, 45.0, 41.0], 2) == [True, True, None, True, False]


def left_out(**changes):
    return failed_row(cell("full", None, None, "off"), "skipped", SHORT.format(12)) | changes


def test_a_reason_is_recorded_once_and_the_same_command_goes_on():
    why, other = SHORT.format(7), "the same, only smaller, ran out of memory"
    assert was_left_out(left_out())
    assert needs_no_row(left_out(), why), "only the numbers differ"
    for status in ("ok", "crashed", "oom"):
        assert not was_left_out(left_out(status=status))
        assert needs_no_row(left_out(status=status), why)
    assert not needs_no_row(None, why)
    assert not needs_no_row(left_out(status="interrupted"), why)
    bigger = left_out(message=other)
    assert not was_left_out(bigger)
    assert not needs_no_row(bigger, why)
    assert needs_no_row(bigger, other)
    assert not needs_no_row(left_out(), other)
    for rerun in (["--rerun", "crashed"], ["--rerun=crashed"]):
        arguments = ["--grid", "paper", "--fresh", *rerun, "--seeds", "3"]
        command = f"python -m bench.grid --grid paper --fresh {' '.join(rerun)} --seeds 3"
        plain = "python -m bench.grid --grid paper --fresh --seeds 3"
        again = f"to run again what ended timeout: {plain} --rerun timeout"
        lines = how_to_go_on(arguments, {"not run": 1, "timeout": 2})
        assert lines == [f"to go on: {command}", again]
        older = "2 cells did not end ok this time: older results count instead"
        assert how_to_go_on(arguments, {"ok": 3}, fell_back=2) == [older, f"to go on: {command}"]
    counts = to_run_again({"ok": 3, "skipped": 5}, [], left_out=4)
    assert counts == {"ok": 3, "skipped": 1, LEFT_OUT: 4}
    first, second = how_to_go_on(["--grid", "paper", "--budget", "90"], counts)
    assert first == "to go on: python -m bench.grid --grid paper --budget 90"
    assert second.startswith("to run again what ended skipped: ")
    counts = to_run_again({"ok": 3, "skipped": 4}, [], left_out=4)
    assert len(how_to_go_on([], counts)) == 1
