"""Cells on several slots of a machine: stub workers, each of which notes where it runs."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest

from bench.common.errors import DiskFullError
from bench.executors import local
from bench.executors.local import LocalExecutor
from bench.launch.locks import CELL_LOCKS
from bench.launch.signals import Signals
from bench.plan.cell import TRANSFORMERS
from bench.plan.planning import plan
from bench.results.store import Store, cells_folder, read_rows
from tests.experiments.faults.parent import stub_report
from tests.experiments.faults.setups import ROOT, setup, slots_of

WORKER = """
import json, os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
here = {"gpu": os.environ["CUDA_VISIBLE_DEVICES"], "cores": sorted(os.sched_getaffinity(0))}
(folder / "where.json").write_text(json.dumps(here))
result = {"status": "ok", "message": "", "flags": [], "columns": {"train_s": 1.0}}
"""
ENDS = '\n(folder / "result.json").write_text(json.dumps(result))\n'
MEETS = """
end = time.monotonic() + 30
while len(list(folder.parent.glob("*/where.json"))) < 2 and time.monotonic() < end:
    time.sleep(0.01)
result["columns"]["train_s"] = float(len(list(folder.parent.glob("*/where.json"))))
"""
"""The first two wait for each other."""
BREAKS = """
if here["gpu"] in os.environ["BROKEN"].split():
    result = {"status": "crashed", "message": "the device failed", "device_failed": True}
"""

LACKS = """
with (folder / "tries").open("a") as tries:
    tries.write("x")
if folder.name.split("-")[-3] == os.environ["LACKS"]:
    if len(list(folder.parent.glob("*/where.json"))) < int(os.environ["FREED_AFTER"]):
        result = {"status": "busy", "message": "others hold it"}
"""
"""A worker that other processes leave too little memory until so many cells have begun."""


class Place:
    """A runs.csv, and sessions on it that run cells on slots."""

    def __init__(self, folder):
        self.csv = folder / "runs.csv"
        made = setup("fake")
        seeds = made.grid.settings.model_copy(update={"seeds": 6})
        self.setup = replace(made, grid=made.grid.model_copy(update={"settings": seeds}))
        self.cells = self.setup.cells

    def slots(self, number, *, gpus=False):
        return slots_of(self.setup.conditions, number, gpus=gpus)

    def plan(self, slots, cells=None):
        return plan(cells or self.cells, read_rows(self.csv), slots[0].conditions.columns())

    def run(self, slots, code, cells=None):
        worker = (sys.executable, "-S", "-c", WORKER + code + ENDS)
        return self.setup.session(self.csv, slots, worker).run([self.plan(slots, cells)])

    def where(self):
        """Where each cell ran, by its id."""
        paths = cells_folder(self.csv).glob("*/where.json")
        return {path.parent.name.split("-")[-3]: json.loads(path.read_text()) for path in paths}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bench.report.render", SimpleNamespace(render=stub_report))
    monkeypatch.setenv("MINBERT_BENCH_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Place(tmp_path)


def test_cells_run_at_once_each_on_the_cores_of_its_slot(place, capsys):
    slots = place.slots(2)
    before = os.sched_getaffinity(0)
    assert place.run(slots, MEETS) == 0
    rows = read_rows(place.csv)
    assert sorted(row.cell_id for row in rows) == sorted(cell.cell_id for cell in place.cells)
    assert {row.status for row in rows} == {"ok"}
    assert {row.sharing for row in rows} == {"2 workers"}
    assert min(row.train_s or 0 for row in rows) >= 2, "two were there at once"
    cores = {tuple(where["cores"]) for where in place.where().values()}
    assert cores == {tuple(slot.cores) for slot in slots}
    assert os.sched_getaffinity(0) == before
    assert "6 cells: 6 ok" in capsys.readouterr().out
    assert place.run(slots, "") == 0
    assert len(read_rows(place.csv)) == 6, "nothing runs twice"


def test_what_needs_no_device_comes_before_any_cell_runs(place, monkeypatch):
    slots, calls, dispatcher = place.slots(2), [], mock.Mock()
    dispatcher.begin = lambda item: calls.append(item.key) or time.sleep(0.01)
    dispatcher.prepare = lambda item: calls.append(item.key)
    assert not LocalExecutor(place.csv, slots).run(place.plan(slots), dispatcher, Signals())
    assert len(calls) == 12
    assert calls[::2] == calls[1::2]
    folds, launched = [replace(c, folds=2, fold=i % 2) for i, c in enumerate(place.cells)], []
    monkeypatch.setattr(
        "bench.grid.cells.share",
        lambda _data, cell, *_: launched.append((cell.fold, len(place.where()))),
    )
    assert place.run(slots, MEETS, folds) == 0
    assert launched == [(0, 0), (1, 0)], "examples are tokenised first"


def test_each_gpu_has_its_worker_and_cells_that_are_compared_in_turn_stay_on_one(place):
    pairs = [[cell, replace(cell, engine=TRANSFORMERS)] for cell in place.cells]
    slots = place.slots(4, gpus=True)[1:]
    assert place.run(slots, MEETS, [cell for pair in pairs for cell in pair]) == 0
    where = place.where()
    gpus = [tuple(where[cell.cell_id]["gpu"] for cell in pair) for pair in pairs]
    assert all(one == other for one, other in gpus)
    rows = read_rows(place.csv)
    names = {(row.device, where[row.cell_id]["gpu"]) for row in rows}
    assert 1 < len(names) == len(names & {(f"cuda:{i}", f"GPU-{i}") for i in range(1, 4)})
    jobs = cells_folder(place.csv).glob("*/cell.json")
    assert {json.loads(path.read_text())["device"] for path in jobs} == {"cuda:0"}
    assert len({row.conditions_id for row in rows}) == 1


@pytest.mark.parametrize("freed_after", [6, 7])
def test_a_cell_without_memory_because_of_others_is_tried_again_after_the_other_cells(
    place, monkeypatch, capsys, freed_after
):
    monkeypatch.setattr(local, "AGAIN_S", 0.2)
    monkeypatch.setenv("LACKS", lacks := place.cells[0].cell_id)
    monkeypatch.setenv("FREED_AFTER", str(freed_after))
    slots, is_freed = place.slots(1, gpus=True), freed_after == 6
    assert place.run(slots, LACKS) == (0 if is_freed else 1)
    err = capsys.readouterr().err
    assert err.count("others hold it; it is tried again after the other cells") == 1
    rows = read_rows(place.csv)
    assert [row.cell_id for row in rows] == [
        cell.cell_id for cell in [*place.cells[1:], place.cells[0]]
    ]
    assert (rows[-1].status, rows[-1].attempt) == ("ok" if is_freed else "busy", 1)
    tries = [path.read_text() for path in cells_folder(place.csv).glob(f"*-{lacks}-*/tries")]
    assert tries == ["xx"]
    if not is_freed:
        assert "to go on: python -m bench.grid\n" in err
        monkeypatch.setenv("FREED_AFTER", "0")
        assert place.run(slots, LACKS) == 0
        assert (read_rows(place.csv)[-1].status, read_rows(place.csv)[-1].attempt) == ("ok", 2)


@pytest.mark.parametrize("why", ["CUDA error: unknown", None])
def test_a_gpu_that_fails_takes_its_slot_out_and_the_others_go_on(place, monkeypatch, capsys, why):
    monkeypatch.setenv("BROKEN", "GPU-1")
    monkeypatch.setattr(local, "why_unusable", {"GPU-1": why}.get)
    assert place.run(place.slots(2, gpus=True), MEETS + BREAKS) == 1
    rows = read_rows(place.csv)
    assert sorted(row.cell_id for row in rows) == sorted(cell.cell_id for cell in place.cells)
    crashed = [row.device for row in rows if row.status == "crashed"]
    assert set(crashed) == {"cuda:1"}
    errors = capsys.readouterr().err
    if why:
        assert len(crashed) == 1
        assert f"the device failed (cuda:1), and tried again: {why};" in errors
        assert "; the other devices go on" in errors
    else:  # only that process failed
        assert errors.count("the device failed; another process can use the GPU") == len(crashed)


def test_cells_that_another_grid_has_come_last(place):
    slots = place.slots(2)
    first = place.plan(slots)[0]
    name = str((first.cell.cell_id, first.conditions_id, first.repeat))
    code = (
        "import sys, time; from pathlib import Path; from bench.launch.locks import Locks\n"
        "from bench.launch.signals import Signals\n"
        "with Locks(Path(sys.argv[1]), Signals()) as locks, locks.holding(sys.argv[2]):\n"
        "    print(flush=True); time.sleep(60)"
    )
    argv = [sys.executable, "-c", code, str(cells_folder(place.csv) / CELL_LOCKS), name]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT) as other:
        other.stdout.readline()
        last = place.cells[-1].cell_id
        assert place.run(slots, f"if {last!r} in folder.name: os.kill({other.pid}, 15)") == 0
    rows = read_rows(place.csv)
    assert rows[-1].cell_id == first.cell.cell_id
    assert len(rows) == 6


def test_a_stop_ends_the_cells_of_all_slots(place):
    """By a signal that the second worker sends, once both hang."""
    code = f"""{MEETS}
(folder / "hangs").touch()
if len(list(folder.parent.glob("*/hangs"))) == 2:
    os.kill({os.getpid()}, 2)
time.sleep(60)
"""
    slots = place.slots(2)
    assert place.run(slots, code) == 130
    assert [row.status for row in read_rows(place.csv)] == ["interrupted"] * 2
    assert place.run(slots, "") == 0
    assert [row.status for row in read_rows(place.csv)[2:]] == ["ok"] * 6


def test_an_error_of_one_slot_stops_all_and_what_has_run_is_kept(place, monkeypatch, capsys):
    append, rows = Store.append, []

    def fail(store, row):
        rows.append(row)
        if len(rows) == 2:
            raise DiskFullError("the disk is full")
        append(store, row)

    monkeypatch.setattr(Store, "append", fail)
    assert place.run(place.slots(2), MEETS) == 1
    assert "stopped: the disk is full; finished cells are kept" in capsys.readouterr().err
    assert len(read_rows(place.csv)) == len(rows) - 1
