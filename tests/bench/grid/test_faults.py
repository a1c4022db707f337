"""A grid that is struck at any moment loses nothing and does nothing twice.

These are a few of the faults of `python -m tests.experiments.faults`, each kind at least once.
"""

from dataclasses import replace

import pytest

from bench.plan.columns import NAMES
from bench.results.rowfile import encode, record
from tests.bench.synthetic_rows import new_row
from tests.components import need
from tests.experiments.faults import checks
from tests.experiments.faults.kinds import KINDS, Fault, draw, statuses_of, strike_of
from tests.experiments.faults.limits import memory_group
from tests.experiments.faults.notes import Launch
from tests.experiments.faults.suite import run_suite, summary

SEED = 3
FEW = len(KINDS)


@pytest.fixture(scope="module")
def verdicts(minilm, tmp_path_factory):
    """What became of a few faults, a small disk among them, one of them at a real worker, and some
    while two cells run at a time."""
    chosen = (
        ("disk full", "anywhere", "fake"),
        ("parent killed", "half an append", "fake"),
        ("cuda memory", "train", "real"),
    )
    others = [
        Fault(number=FEW + number, seed=SEED, kind=kind, phase=phase, worker=worker)
        for number, (kind, phase, worker) in enumerate(chosen)
    ]
    faults = draw(FEW, 0, SEED) + others
    on_slots = (
        ("parent killed", "train"),
        ("two parents", "both live"),
    )
    faults += [
        Fault(number=100 + number, seed=SEED, kind=kind, phase=phase, worker="fake", slots=2)
        for number, (kind, phase) in enumerate(on_slots)
    ]
    return run_suite(faults[::-1], jobs=2, folder=tmp_path_factory.mktemp("faults"))


def test_nothing_is_lost_or_done_twice_and_nothing_goes_on_running(verdicts):
    assert [verdict for verdict in verdicts if not verdict.good] == []


def test_every_kind_of_fault_struck(verdicts):
    struck = {verdict.fault.kind for verdict in verdicts if verdict.struck}
    assert struck == {kind.name for kind in KINDS}
    assert sum(not verdict.struck for verdict in verdicts) <= 2
    total = summary(verdicts, SEED, 1.0)
    assert total["injected"] + total["missed"] == len(verdicts)
    assert total["at_real_workers"] == 1


def test_a_disk_was_really_full(verdicts):
    [verdict] = [verdict for verdict in verdicts if verdict.fault.phase == "anywhere"][-1:]
    need(verdict.means == "small disk", "mounting a small disk takes root", component="mounts")
    assert verdict.struck


def test_a_control_group_is_made_and_removed():
    with memory_group("minbert-faults-test", 2**28) as group:
        need(group is not None, "a control group of its own takes root", component="mounts")
        assert (group / "cgroup.procs").read_text() == ""
    assert not group.exists()


# What is drawn


def test_a_thousand_faults_strike_in_every_phase_and_at_real_workers():
    faults = draw(1000, 125, seed=0)
    assert draw(1000, 125, seed=0) == faults != draw(1000, 125, seed=1)
    assert len(faults) == len({fault.number for fault in faults}) == 1000
    assert sum(fault.worker == "real" for fault in faults) == 125
    drawn = {(fault.kind, fault.phase) for fault in faults}
    assert drawn == {(kind.name, phase) for kind in KINDS for phase in kind.phases}
    for fault in faults:
        strike = strike_of(fault, early=False, limited=False)
        assert strike is None or 0 <= strike.wait_s < 2
        assert statuses_of(fault)


# That the checks see what they look for


def row(cell_id, status="ok", attempt=1, **values):
    times = {"started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:01Z"}
    ids = {"cell_id": cell_id, "conditions_id": "here", "attempt": attempt, "status": status}
    return new_row(**{**ids, **times, **values})


def csv(*rows):
    return record(NAMES) + b"".join(map(encode, rows))


def test_a_row_that_is_gone_or_changed_is_lost():
    before = csv(row("a"), row("b"))
    assert checks.lost_rows(before, before + encode(row("c"))) == []
    assert checks.lost_rows(before + b"1,half", before) == []
    assert checks.lost_rows(before, csv(row("b"))) == ["the row of a, attempt 1"]
    assert checks.lost_rows(before, csv(row("a"), row("b", wall_s=1.0))) == [
        "the row of b, attempt 1"
    ]
    assert checks.lost_rows(before, csv(row("b"), row("a"))) == ["the order of rows, or their form"]
    assert len(checks.lost_rows(before, b"")) == 2


def test_what_is_unfinished_or_repeated_is_seen():
    data = csv(row("a"), row("b", "crashed"))
    unfinished = checks.unfinished_cells(["a", "b", "c"], data)
    assert unfinished == ["b has no ok row", "c has no ok row"]
    assert checks.repeated_rows(csv(row("a", "crashed"), row("a", attempt=2))) == []
    assert len(checks.repeated_rows(csv(row("a"), row("a", attempt=2)))) == 1
    assert len(checks.repeated_rows(csv(row("a", "crashed"), row("a", "crashed")))) == 1
    launch = Launch(run=0, cell_id="a", attempt=1, pid=1, was_done=False)
    later = replace(launch, run=1)
    assert checks.repeated_work([launch, later], set()) == []
    assert len(checks.repeated_work([replace(later, was_done=True)], set())) == 1
    assert len(checks.repeated_work([launch, later], {("a", 1)})) == 1


def test_rows_that_differ_from_their_results_or_end_before_they_begin_are_wrong(tmp_path):
    folder = tmp_path / "runs" / "head-a-here-1"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"columns": {"train_s": 0.5}}')
    assert checks.wrong_rows(tmp_path, csv(row("a", train_s=0.5, wall_s=1.0))) == []
    assert len(checks.wrong_rows(tmp_path, csv(row("a", train_s=0.6)))) == 1
    assert len(checks.wrong_rows(tmp_path, csv(row("b", finished_at="2025-01-01T00:00:00Z")))) == 1
    assert len(checks.wrong_rows(tmp_path, csv(row("b", wall_s=-1.0)))) == 1


def test_leftovers_are_seen(tmp_path):
    (tmp_path / "runs" / "cell").mkdir(parents=True)
    (tmp_path / "runs.csv").touch()
    assert checks.strays(tmp_path) == []
    (tmp_path / "runs" / "cell" / ".result.json.tmp").touch()
    (tmp_path / "runs.csv.bak").touch()
    assert checks.strays(tmp_path) == ["runs/cell/.result.json.tmp", "runs.csv.bak"]
    (tmp_path / "runs" / "cell" / "stdout.txt").write_bytes(b"x" * 2**21)
    assert len(checks.long_outputs(tmp_path)) == 1
