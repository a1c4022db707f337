"""A grid that is struck loses nothing: a few faults of `python -m tests.experiments.faults`."""

from dataclasses import replace

from bench.plan.columns import NAMES
from bench.results.rowfile import encode, record
from tests.bench.synthetic_rows import new_row
from tests.components import need
from tests.experiments.faults import checks
from tests.experiments.faults.case import run_suite
from tests.experiments.faults.kinds import Fault
from tests.experiments.faults.notes import Launch

STRUCK = (
    ("disk full", "anywhere", 1), ("parent killed", "half an append", 1),
    ("parent killed", "train", 2), ("parent stopped", "tokenise", 1),
    ("two parents", "both live", 2), ("result spoilt", "cut later", 1),
    ("row torn", "a row more", 1), ("clock jump", "ended", 1), ("folder deleted", "end", 1),
)  # fmt: skip
"""Kind and phase of faults, and how many cells run at a time. Those that end a worker alone are in
tests/bench/launch/test_runner.py."""


def test_nothing_is_lost_or_done_twice_and_nothing_goes_on_running(tmp_path):
    faults = [
        Fault(number=number, seed=3, kind=kind, phase=phase, worker="fake", slots=slots)
        for number, (kind, phase, slots) in enumerate(STRUCK)
    ]
    first, *others = verdicts = run_suite(faults, jobs=2, folder=tmp_path)
    assert [verdict for verdict in verdicts if not verdict.good] == []
    assert sum(not verdict.struck for verdict in others) <= 1
    need(first.means == "small disk", "mounting a small disk takes root", component="mounts")
    assert first.struck


def row(cell_id, status="ok", attempt=1, **values):
    times = {"started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:01Z"}
    ids = {"cell_id": cell_id, "conditions_id": "here", "attempt": attempt, "status": status}
    return new_row(**{**ids, **times, **values})


def csv(*rows):
    return record(NAMES) + b"".join(map(encode, rows))


def test_what_is_unfinished_repeated_lost_wrong_or_left_over_is_seen(tmp_path):
    unfinished = checks.unfinished_cells(["a", "b", "c"], csv(row("a"), row("b", "crashed")))
    assert unfinished == ["b has no ok row", "c has no ok row"]
    assert checks.repeated_rows(csv(row("a", "crashed"), row("a", attempt=2))) == []
    for twice in ([row("a"), row("a", attempt=2)], [row("a", "crashed")] * 2):
        assert len(checks.repeated_rows(csv(*twice))) == 1
    launch = Launch(run=0, cell_id="a", attempt=1, pid=1, was_done=False)
    later = replace(launch, run=1)
    assert checks.repeated_work([launch, later], set()) == []
    assert len(checks.repeated_work([replace(later, was_done=True)], set())) == 1
    assert len(checks.repeated_work([launch, later], {("a", 1)})) == 1
    before = csv(row("a"), row("b"))
    assert checks.lost_rows(before + b"1,half", before + encode(row("c"))) == []
    changed = csv(row("a"), row("b", wall_s=1.0))
    assert checks.lost_rows(before, changed) == ["the row of b, attempt 1"]
    assert checks.lost_rows(before, csv(row("b"), row("a"))) == ["the order of rows, or their form"]
    folder = tmp_path / "runs" / "head-a-here-1"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"columns": {"train_s": 0.5}}')
    assert checks.wrong_rows(tmp_path, csv(row("a", train_s=0.5, wall_s=1.0))) == []
    early = row("b", finished_at="2025-01-01T00:00:00Z")
    for wrong in (row("a", train_s=0.6), early, row("b", wall_s=-1.0)):
        assert len(checks.wrong_rows(tmp_path, csv(wrong))) == 1
    assert checks.strays(tmp_path) == []
    (folder / ".result.json.tmp").touch()
    (tmp_path / "runs.csv.bak").touch()
    assert len(checks.strays(tmp_path)) == 2
    (folder / "stdout.txt").write_bytes(b"x" * 2**21)
    assert len(checks.long_outputs(tmp_path)) == 1
