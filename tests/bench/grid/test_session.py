"""A run of cells: what it takes over from runs that died, what it leaves to others, and that it
loses nothing when it is struck, by a few faults of `python -m tests.experiments.faults`."""

import json
import os
import shutil
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from unittest import mock

import pytest

from bench.analysis.groups import groups
from bench.executors.local import LocalExecutor
from bench.forecast.forecast import Prediction
from bench.forecast.outlook import outlook_on
from bench.grid.session import Session
from bench.launch.locks import Locks
from bench.machine.devices import Device
from bench.machine.gpu_trial import GpuInfo
from bench.plan.budget import Budget
from bench.plan.columns import NAMES
from bench.plan.job import Job
from bench.plan.planning import plan
from bench.plan.rows import latest
from bench.results.origins import folder_of
from bench.results.rowfile import encode, record
from bench.results.store import Store, cells_folder, read_plan, read_rows
from tests.bench.synthetic_rows import new_row, write_rows
from tests.components import need
from tests.experiments.faults import checks
from tests.experiments.faults.case import run_case
from tests.experiments.faults.kinds import Fault
from tests.experiments.faults.notes import Launch, Notes
from tests.experiments.faults.parent import stub_report
from tests.experiments.faults.setups import ROOT, setup
from tests.experiments.faults.worker import NOTES, PLACE, RUN


class Place:
    """A runs.csv, and runs on it with a worker without torch."""

    def __init__(self, folder):
        self.csv = folder / "place" / "runs.csv"
        self.notes = Notes(folder / "notes")
        self.notes.folder.mkdir(exist_ok=True)
        self.setup = setup("fake")

    def plan(self, cells=None, **options):
        here = self.setup.conditions.columns()
        return plan(cells or self.setup.cells, self.rows(), here, **options)

    def version(self, name):
        """From now on the code is of another version."""
        conditions = replace(self.setup.conditions, code_version=name)
        self.setup = replace(self.setup, conditions=conditions)

    def run(self, *rounds, fresh=False, as_json=False, device=None, forecaster=None, **options):
        target = self.setup.target(str(self.csv.parent), device or Device())
        store = Store(self.csv, self.setup.conditions.code_version if fresh else None)
        session = self.setup.session(self.csv, [target], store=store, **options)
        outlook = partial(outlook_on, forecaster=forecaster)
        with mock.patch.object(
            Session, "outlook", lambda _, planned, signals: outlook(planned, signals=signals)
        ):
            return session.run(rounds, as_json)

    def rows(self):
        return read_rows(self.csv)

    def launches(self):
        return len(self.notes.launches())


def place_in(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "bench.report.render", SimpleNamespace(render=stub_report))
    made = Place(folder)
    values = {PLACE: made.csv.parent, NOTES: made.notes.folder, RUN: 1, "PYTHONPATH": ROOT}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    return made


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a place with all cells done. Not to be changed."""
    folder = tmp_path_factory.mktemp("done")
    with pytest.MonkeyPatch.context() as patch:
        made = place_in(folder, patch)
        assert made.run(made.plan()) == 0
    assert [row["status"] for row in made.rows()] == ["ok"] * 3
    return folder


@pytest.fixture
def place(done, tmp_path, monkeypatch):
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    return place_in(tmp_path, monkeypatch)


def test_repeats_run_in_processes_and_folders_of_their_own(place, capsys):
    planned = place.plan(repeats=3)
    assert [item.action for item in planned] == ["done"] * 3 + ["run"] * 6
    assert place.run(planned) == 0
    out, err = capsys.readouterr()
    assert "9 repeats of 3 cells: 9 ok" in out
    assert "[9/9] head-fp32-s2, repeat 3  ok" in err
    rows = place.rows()
    assert [row["repeat"] for row in rows] == [1] * 3 + [2] * 3 + [3] * 3
    assert {row["attempt"] for row in rows} == {1}
    assert place.launches() == len({folder_of(place.csv, row) for row in rows}) == 9
    assert {Job.read(folder_of(place.csv, row)).repeat for row in rows[6:]} == {3}
    assert [row["repeat"] for row in read_plan(place.csv)] == [row["repeat"] for row in rows]
    place.csv.unlink()
    assert place.run(place.plan(repeats=3)) == 0, "taken over from the folders"
    assert (place.rows(), place.launches()) == (rows, 9)


def test_scores_of_another_machine_are_done_and_costs_are_measured_here_once(place, capsys):
    there = {"conditions_id": "there", "machine": "another", "dev_score": 0.5}
    write_rows(place.csv, [row | there for row in place.rows()])
    shutil.rmtree(cells_folder(place.csv))
    capsys.readouterr()
    for launches, as_json in ((4, False), (4, True)):
        assert place.run(place.plan(), as_json=as_json) == 0
        assert place.launches() == launches
        out, err = capsys.readouterr()
        if as_json:
            document = json.loads(out)
            assert (document["cells"], document["scores_from_other_machines"]) == ({"ok": 3}, 2)
            assert document["recommendation"]["obstacles"] == ["not learned"]
        else:
            assert "3 cells: 3 ok\n2 cells take their scores from other machines\n" in out
            assert "Not decided; the best by score so far is head, fp32: " in out
            assert out.splitlines()[-1].startswith("  python -m bench.grid --grid ")
        assert "2 cells take their scores from other machines\n" in err
        assert [row["seed"] for row in read_plan(place.csv)] == [0], "the others lack nothing"
    [mine] = [row for row in place.rows() if row["conditions_id"] != "there"]
    assert (mine["seed"], mine["status"]) == (0, "ok")


KEEPS = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[-1])
if json.loads((folder / "cell.json").read_text())["keep"]:
    (folder / "weights.safetensors").write_bytes(bytes(6))
(folder / "result.json").write_text('{"status": "ok"}')
"""


def test_small_weights_are_kept_up_to_a_cap_and_taken_over_beyond_it(place, monkeypatch, capsys):
    """Below it, a result without weights is not."""
    settings = place.setup.grid.settings.model_copy(update={"init": "pretrained"})
    grid = place.setup.grid.model_copy(update={"settings": settings})
    place.setup = replace(place.setup, grid=grid, argv=(sys.executable, "-S", "-c", KEEPS))
    monkeypatch.setattr("bench.results.kept.CAP", 10)
    assert place.run(place.plan()) == 0
    assert capsys.readouterr().err.count("from head-fp32-s2 on no weights are kept") == 1
    rows = place.rows()
    assert [Job.read(folder_of(place.csv, row)).keep for row in rows[3:]] == [1, 1, 0]
    for cap, keep in ((0, True), (100, False)):
        monkeypatch.setattr("bench.results.kept.CAP", cap)
        write_rows(place.csv, rows[:3])
        folder = folder_of(place.csv, rows[3])
        (folder / "row.json").unlink()
        job = replace(Job.read(folder), keep=keep)
        (folder / "cell.json").write_text(job.to_json())
        result = (folder / "result.json").stat().st_mtime_ns
        assert place.run(place.plan()[:1]) == 0
        assert ((folder / "result.json").stat().st_mtime_ns == result) is keep


@pytest.mark.parametrize(("capability", "flags"), [((7, 5), "emulated_bf16"), ((8, 0), None)])
def test_a_worker_sees_one_gpu_and_bf16_that_it_emulates_is_a_flag(place, capability, flags):
    conditions = replace(place.setup.conditions, device="cuda:1")
    axes = [axes.model_copy(update={"amp": ["off", "bf16"]}) for axes in place.setup.grid.cells]
    grid = place.setup.grid.model_copy(update={"cells": axes})
    place.setup = replace(place.setup, conditions=conditions, grid=grid)
    gpu = Device("cuda:1", GpuInfo("a GPU", "1", capability, "GPU-1"))
    place.run(place.plan()[:2], device=gpu)
    rows = [row for row in place.rows() if row["device"] == "cuda:1"]
    assert {(row["amp"], row["flags"]) for row in rows} == {("off", None), ("bf16", flags)}
    on_cpu = (folder_of(place.csv, place.rows()[0]) / "command.txt").read_text()
    assert on_cpu.startswith("env CUDA_VISIBLE_DEVICES= ")


def test_what_another_grid_interrupted_does_not_stop_this_one(place):
    planned = place.plan(rerun="ok")
    Store(place.csv).append(place.rows()[0] | {"attempt": 2, "status": "interrupted"})
    assert place.run(planned) == 1
    assert [row["attempt"] for row in place.rows()] == [1, 1, 1, 2, 2, 2]


def test_results_whose_rows_were_never_written_are_taken_over_unless_of_another_version(place):
    """They end after they began, though the clock jumped; and so are those of a rerun."""
    row, *others = place.rows()
    before = folder_of(place.csv, row)
    os.utime(before / "cell.json", (2e9, 2e9))
    (before / "row.json").unlink()
    place.csv.unlink()
    assert place.run(place.plan(), budget=Budget(0.0)) == 0
    assert place.rows()[1:] == others
    assert all(row["started_at"] <= row["finished_at"] for row in place.rows())

    Store(place.csv).append(row | {"attempt": 2, "status": "interrupted"})
    folder = before.with_name(f"{before.name.removesuffix('1')}3")
    shutil.copytree(before, folder)
    (folder / "row.json").unlink()
    (folder / "cell.json").write_text(replace(Job.read(before), attempt=3).to_json())
    assert place.run(place.plan(rerun="ok")[:1]) == 0
    again = place.rows()[-1]
    assert (again["attempt"], again["status"], again["wall_s"]) == (3, "ok", None)
    unmeasured = ("wall_s", "started_at", "finished_at", "predicted_s", "predicted_peak_mib")
    nothing = dict.fromkeys(("attempt", *unmeasured))
    assert again | nothing == row | nothing
    assert place.launches() == 3

    (before / "row.json").unlink()
    place.csv.unlink()
    place.version("newer")
    assert place.run(place.plan()) == 0
    assert (place.launches(), {row.code_version for row in place.rows()}) == (6, {"newer"})


def test_fresh_runs_what_the_present_version_lacks_and_goes_on(place, capsys):
    def statuses():
        [group] = groups(place.rows(), read_plan(place.csv))
        return [row["status"] for row in group.ordered]

    place.version("newer")
    assert [item.action for item in place.plan()] == ["done"] * 3, "of whatever version"
    assert place.run(place.plan()) == 0
    assert [row["code_version"] for row in read_plan(place.csv)] == ["none"] * 3
    assert statuses() == ["ok"] * 3
    assert place.run(place.plan(fresh=True)[:1], fresh=True) == 0
    planned = place.plan(fresh=True)
    actions = [(item.action, item.attempt) for item in planned]
    assert actions == [("done", 3), ("run", 2), ("run", 2)]
    with mock.patch.object(LocalExecutor, "run", return_value=True):
        assert place.run(planned, fresh=True) == 130
    assert statuses() == ["ok", "ok", "ok", None, "ok", None], "as it was stopped"
    out, err = capsys.readouterr()
    assert "report: " in out
    assert "to go on: python -m bench.grid" in err
    assert place.run(planned, fresh=True) == 0
    assert "3 cells: 3 ok" in capsys.readouterr().out
    rows = place.rows()
    assert [row["code_version"] for row in rows] == ["none"] * 3 + ["newer"] * 3
    assert list(latest(rows).values()) == rows, "none replaces another"
    assert {item.action for item in place.plan(fresh=True)} == {"done"}
    write_rows(place.csv, rows[:3])
    assert place.run(place.plan(fresh=True), fresh=True) == 0
    assert (place.rows(), place.launches()) == (rows, 6)


def test_failures_leave_the_older_result_and_a_fresh_run_of_them_waits_for_rerun(place, capsys):
    place.setup = replace(place.setup, argv=(sys.executable, "-S", "-c", "raise SystemExit(3)"))
    assert place.run(place.plan(rerun="ok")) == 1
    assert [row["status"] for row in place.rows()] == ["ok"] * 3 + ["crashed"] * 3
    out, err = capsys.readouterr()
    assert "3 cells: 3 ok" in out
    assert "3 cells did not end ok this time: older results count instead" in err
    assert [(item.action, item.attempt) for item in place.plan()] == [("done", 3)] * 3

    place.version("newer")
    assert place.run(place.plan(fresh=True), fresh=True) == 1
    out, err = capsys.readouterr()
    assert "3 cells: 3 crashed" in out
    assert "to run again what ended crashed" in err
    assert "older results" not in err
    assert [item.action for item in place.plan(fresh=True)] == ["kept"] * 3
    assert [row["status"] for row in latest(place.rows()).values()] == ["ok"] * 3


def test_what_another_version_has_run_meanwhile_is_no_result_of_this_one(place):
    row = place.rows()[0]
    place.version("newer")
    planned = place.plan(fresh=True)
    Store(place.csv).append(row | {"attempt": 2, "code_version": "other"})
    assert place.run(planned, fresh=True) == 0
    rows = place.rows()
    assert len({row.row_key for row in rows}) == len(rows) == 7
    assert [(row["code_version"], row["attempt"]) for row in rows[4:]] == [
        ("newer", 3), ("newer", 2), ("newer", 2),
    ]  # fmt: skip


def bigger(place, **settings):
    [planned] = place.plan([replace(place.setup.cells[0], **settings)])
    return planned


def test_what_is_the_same_only_bigger_than_an_oom_is_skipped_until_that_one_runs(place, capsys):
    """Or until it is asked for, or the code is of another version."""
    store = Store(place.csv)
    cell = replace(place.setup.cells[0], seed=100)
    failed = place.rows()[0] | cell.columns() | {"status": "oom"}
    store.append(failed)
    item = bigger(place, batch_size=128, seed=7)
    for _ in range(2):
        assert place.run([item]) == 1
    [row] = place.rows()[4:]  # reported once
    assert (row["status"], row["attempt"], row["batch_size"]) == ("skipped", 1, 128)
    assert "batch size 64, here 128" in row["message"]
    assert place.launches() == 3
    assert "--rerun skipped" in capsys.readouterr().err
    assert place.run(place.plan([item.cell], rerun="skipped")) == 0
    code = place.setup.conditions.code_version
    place.version("newer")
    assert place.run([bigger(place, batch_size=512)], fresh=True) == 0, "by an older version"
    place.version(code)
    store.append(failed | {"attempt": 2, "status": "ok"})
    assert place.run([bigger(place, batch_size=256)]) == 0


def test_a_cell_without_rates_is_skipped_and_what_may_find_them_is_said(place, capsys):
    tries = ("timeout", "timeout", "crashed")
    item = replace(bigger(place, seed=7), action="skip", reason="no learning rate", tries=tries)
    for _ in range(2):
        assert place.run([item]) == 1
    [row] = place.rows()[3:]  # reported once
    assert (row["status"], row["message"]) == ("skipped", "no learning rate")
    assert place.launches() == 3
    err = capsys.readouterr().err
    named = [f"--rerun {status}" in err for status in ("timeout", "crashed", "skipped")]
    assert named == [True, True, False]


def foretold(seconds_by_amp):
    """Makes a forecast that knows a cell's time by its AMP."""
    forecast = SimpleNamespace(learn=id, time_s=lambda cell: seconds_by_amp[cell.amp])
    forecast.predict = lambda cell: Prediction(100.0, seconds_by_amp[cell.amp], 1.0)
    return lambda planned, signals: forecast


def test_what_does_not_fit_into_the_budget_is_skipped_once_and_smaller_cells_run(place, capsys):
    forecaster = foretold({"off": 60.0, "bf16": 6000.0})
    for minutes in (20, 30):
        planned = [bigger(place, seed=7, amp="bf16"), bigger(place, seed=8)]
        assert place.run(planned, budget=Budget(60 * minutes), forecaster=forecaster) == 1
        out, err = capsys.readouterr()
        assert "2 cells: 1 ok, 1 skipped" in out
        assert f"1 cell was left out for the budget of {minutes} min" in err
        assert "to go on: python -m bench.grid" in err
        assert "--rerun skipped" not in err
    skipped, small = place.rows()[3:]
    assert (skipped["status"], skipped["attempt"], skipped["amp"]) == ("skipped", 1, "bf16")
    assert "of the budget of 20 min are left" in skipped["message"], "as at first"
    assert (small["status"], small["seed"]) == ("ok", 8)
    assert place.launches() == 4
    again = bigger(place, seed=7, amp="bf16")
    assert place.run([again], budget=Budget(6600.0), forecaster=forecaster) == 0
    assert [row["status"] for row in place.rows()[3:]] == ["skipped", "ok", "ok"]


def test_without_a_prediction_cells_run_while_any_of_the_budget_is_left(place, capsys, monkeypatch):
    """A cell uses its device alone, and one that is left out waits for no other grid."""
    used, using = [], Locks.using
    monkeypatch.setattr(Locks, "using", lambda *of: used.append(of[1]) or using(*of))
    forecaster = foretold({"off": 1e9})
    forecaster([], None).time_s = lambda _: None  # before anything has run here it is a guess
    assert place.run([bigger(place, seed=8)], budget=Budget(0.0)) == 1
    why = "left out: its time is not predicted, and the budget of 0 min is used up"
    assert place.rows()[-1]["message"] == why
    assert used == []
    assert place.run([bigger(place, seed=7)], budget=Budget(600.0), forecaster=forecaster) == 0
    assert used == [str(place.csv.parent)]
    assert place.launches() == 4
    assert "longer than all of it" not in capsys.readouterr().err


def test_a_search_of_which_a_try_is_left_out_goes_no_further(place):
    attempt = bigger(place, seed=7, amp="bf16", learning_rate_source="candidate")
    other, after = bigger(place, seed=8, amp="bf16"), bigger(place, seed=9)
    forecaster = foretold({"off": 60.0, "bf16": 6000.0})
    assert place.run([attempt], [after], budget=Budget(600.0), forecaster=forecaster) == 1
    assert [row["status"] for row in place.rows()[3:]] == ["skipped"]
    assert place.run([other], [after], budget=Budget(600.0), forecaster=forecaster) == 0
    assert [row["status"] for row in place.rows()[3:]] == ["skipped", "skipped", "ok"]


STRUCK = (
    ("disk full", "anywhere", 1), ("parent killed", "half an append", 1),
    ("parent killed", "train", 2), ("parent stopped", "tokenise", 1),
    ("two parents", "both live", 2), ("result spoilt", "cut later", 1),
    ("row torn", "a row more", 1), ("clock jump", "ended", 1), ("folder deleted", "end", 1),
)  # fmt: skip
"""Kind and phase of faults, and how many cells run at a time; for others see launch/test_runner."""


def test_nothing_is_lost_or_done_twice_and_nothing_goes_on_running(tmp_path):
    faults = [
        Fault(number=number, seed=3, kind=kind, phase=phase, worker="fake", slots=slots)
        for number, (kind, phase, slots) in enumerate(STRUCK)
    ]
    first, *others = verdicts = [run_case(fault, tmp_path) for fault in faults]
    assert [verdict for verdict in verdicts if not verdict.good] == []
    assert sum(not verdict.struck for verdict in others) <= 1
    need(first.means == "small disk", "mounting a small disk takes root", component="mounts")
    assert first.struck


def ended(cell_id, status="ok", **values):
    times = {"started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T00:00:01Z"}
    ids = {"cell_id": cell_id, "conditions_id": "here", "attempt": 1, "status": status}
    return new_row(**{**ids, **times, **values})


def csv_of(*rows):
    return record(NAMES) + b"".join(map(encode, rows))


def test_what_is_unfinished_repeated_lost_wrong_or_left_over_is_seen(tmp_path):
    unfinished = checks.unfinished_cells(["a", "b", "c"], csv_of(ended("a"), ended("b", "crashed")))
    assert unfinished == ["b has no ok row", "c has no ok row"]
    for twice in ([ended("a"), ended("a", attempt=2)], [ended("a", "crashed")] * 2):
        assert len(checks.repeated_rows(csv_of(*twice))) == 1
    launch = Launch(run=0, cell_id="a", attempt=1, pid=1, was_done=False)
    later = replace(launch, run=1)
    assert len(checks.repeated_work([replace(later, was_done=True)], set())) == 1
    assert len(checks.repeated_work([launch, later], {("a", 1)})) == 1
    before = csv_of(ended("a"), ended("b"))
    changed = csv_of(ended("a"), ended("b", wall_s=1.0))
    assert checks.lost_rows(before, changed) == ["the row of b, attempt 1"]
    moved = checks.lost_rows(before, csv_of(ended("b"), ended("a")))
    assert moved == ["the order of rows, or their form"]
    folder = tmp_path / "runs" / "head-a-here-1"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"columns": {"train_s": 0.5}}')
    early = ended("b", finished_at="2025-01-01T00:00:00Z")
    for wrong in (ended("a", train_s=0.6), early, ended("b", wall_s=-1.0)):
        assert len(checks.wrong_rows(tmp_path, csv_of(wrong))) == 1
    (folder / ".result.json.tmp").touch()
    (tmp_path / "runs.csv.bak").touch()
    assert len(checks.strays(tmp_path)) == 2
    (folder / "stdout.txt").write_bytes(b"x" * 2**21)
    assert len(checks.long_outputs(tmp_path)) == 1
