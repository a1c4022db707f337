"""Results from anybody: no text in them names a place outside their folder, no link is followed,
and nothing in place of a file is waited for or fills memory."""

import csv
import json
import os
import resource
import shutil
import signal
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
import pytest

from bench.common.errors import DiskFullError, InputError
from bench.common.files import below
from bench.export.__main__ import command as export
from bench.export.cells import _kept_logits
from bench.launch.again import orphaned_outcome
from bench.plan.columns import BY_NAME, NAMES
from bench.plan.gridfile import load
from bench.plan.job import Job
from bench.recommend import main as recommend
from bench.report.__main__ import main as report
from bench.results.curves import CURVES
from bench.results.merge import SHARDS
from bench.results.merge import main as merge
from bench.results.origins import folder_of
from bench.results.predictions import keep_outcomes, kept_losses, read_folder
from bench.results.rebuild import main as rebuild
from bench.results.rescoring import read_results
from bench.results.row import kept_row, step_times
from bench.results.rowfile import encode, record
from bench.results.store import cells_folder, read_plan, read_rows
from bench.results.submission import SUMS, Submission
from bench.results.tracking import main as track
from bench.results.tracking import run_of
from bench.studies.ensemble import members
from bench.studies.updates import cells as updates
from bench.validate import main as validate
from bench.worker.weights import load_trained
from tests import hostile
from tests.bench.grids import GridRuns
from tests.bench.results.test_tracking import need_trackers
from tests.bench.synthetic_rows import synthetic_rows, write_rows

REFUSALS = (InputError, DiskFullError)


@pytest.fixture(scope="module")
def results(tmp_path_factory, tiny_checkpoint):
    """A small run with each kind of file that a run leaves."""
    place = GridRuns(tmp_path_factory.mktemp("run"), tiny_checkpoint, workers_here=True)
    place.finish("--select", "mode=full,head amp=off", "--save-weights")
    keep_outcomes(place.csv, place.rows())
    for file in (CURVES, SHARDS):
        file.path(place.csv).write_text("{}")
    return place.folder


@pytest.fixture
def copy(results, tmp_path):
    return shutil.copytree(results, tmp_path / "results")


def tree(folder: Path) -> dict[str, bytes]:
    """All that is in a folder, links as what they name."""
    every = {path: path.name.encode() for path in folder.rglob("*")}
    every |= {path: str(path.readlink()).encode() for path in every if path.is_symlink()}
    regular = (path for path in every if path.is_file() and not path.is_symlink())
    return {**{str(p): of for p, of in every.items()}, **{str(p): p.read_bytes() for p in regular}}


def call(command: click.Command, *words: object) -> object:
    return command.main([*map(str, words)], standalone_mode=False)


# Texts

HOME = "home"


def commands(folder: Path, out: Path):
    """Each command that writes something about results in a folder, into another."""
    runs = folder / "runs.csv"
    return {
        "report": partial(call, report, "--runs", runs, "--reports", out / "reports"),
        "recommend": partial(call, recommend, "--runs", runs),
        "rebuild": partial(call, rebuild, "--runs", runs),
        "merge": partial(call, merge, runs, "--to", out / "all.csv"),
        "validate": partial(
            call, validate, folder, "--peft", out / "peft", "--reports", out / "pages"
        ),
        "track": partial(call, track, "--runs", runs, "--to", f"tensorboard:{out / 'board'}"),
        "export": partial(call, export, "recommended", "--runs", runs, "--to", out / "model"),
    }


@pytest.fixture
def home(tmp_path):
    """A folder beside results, with what has to stay as it is, also behind links in the output."""
    home = tmp_path / HOME
    (home / "x").mkdir(parents=True)
    (home / "x" / "kept").write_text("mine")
    for name in ("board", "peft"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "link").symlink_to(home, target_is_directory=True)
    return home


def places(tmp_path: Path) -> list[str]:
    """Texts that lead out of a folder; the name of a link does where there is one."""
    up = f"../../{HOME}/x"
    return [up, f"../{HOME}/x", str(tmp_path / HOME / "x"), f"a/{up}", "..", ".", "", "a\0b",
            ".hidden", "-rf", "x" * 400]  # fmt: skip


def test_no_text_of_a_row_takes_a_command_out_of_its_folders(tmp_path, home):
    """Every text column, each with every such text: rows that are read go through each command."""
    need_trackers("tensorboard")
    folder, out = tmp_path / "results", tmp_path / "out"
    folder.mkdir()
    before, taken = tree(home), []
    usual = dict(
        zip(
            NAMES,
            next(csv.reader([encode(synthetic_rows(1, failures=False)[0]).decode()])),
            strict=True,
        )
    )
    runs = folder / "runs.csv"
    for name in (name for name in NAMES if BY_NAME[name].kind is str):
        for text in places(tmp_path):
            fields = usual | {name: text}
            runs.write_bytes(record(NAMES) + record(fields.values()))
            where = f"{runs}, line 2: {name}" if name == "task" else runs
            taken += hostile.answer(partial(read_rows, runs), InputError, where) or []
    assert {row.task for row in taken} == {usual["task"]}
    assert len({row.model for row in taken}) > 5, "some columns hold any text"
    distinct = {row.row_key: row for row in taken}
    write_rows(runs, [*distinct.values(), *synthetic_rows(2, failures=False, task="link")])
    for name, command in commands(folder, out).items():
        hostile.answer(command, REFUSALS, "")
        assert tree(home) == before, name
    assert {path.name for path in tmp_path.iterdir()} == {HOME, "results", "out"}


@pytest.mark.parametrize("task", ["../home/x", "/home/x", "..", ".a", "a/b", "a b", "", "x" * 61])
def test_a_task_is_a_name_wherever_it_is_brought(tmp_path, copy, task):
    (tmp_path / "grid.toml").write_text(f"[settings]\ntask = {json.dumps(task)}\n")
    with pytest.raises(InputError, match=r"grid\.toml: settings\.task: should be a name"):
        load(str(tmp_path / "grid.toml"))
    for name, key in (("cell.json", "cell"), ("row.json", None)):
        path = next(copy.rglob(name))
        values = json.loads(path.read_text())
        (values[key] if key else values)["task"] = task
        path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="as task"):
        Job.read(next(copy.rglob("cell.json")).parent)
    assert kept_row(next(copy.rglob("row.json")).parent) is None
    plan = cells_folder(copy / "runs.csv") / "plan.json"
    values = json.loads(plan.read_text())
    plan.write_text(json.dumps([{**values[0], "task": task}]))
    assert read_plan(copy / "runs.csv") == []


def test_a_name_below_a_folder_stays_there(tmp_path):
    (tmp_path / "link").symlink_to("/")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "loop").symlink_to("loop")
    assert below(tmp_path, "a", "b c-d.e+f") == tmp_path / "a" / "b c-d.e+f"
    for names in (*[(text,) for text in places(tmp_path)], ("link",), ("a", "loop"), ("link", "x"),
                  ("a", "..", "b"), ("a\n",), ("a\\b\t",)):  # fmt: skip
        with pytest.raises(InputError) as caught:
            below(tmp_path, *names)
        hostile.check_line(str(caught.value), tmp_path)


def test_the_data_of_the_user_gets_a_name_that_is_one(tmp_path):
    from bench.examples.own import _name_of
    from bench.plan.cell import TASK
    from bench.plan.dataset import DataSpec

    for name in ("a b.csv", "é.csv", "..x.csv", "movies.csv", "x" * 100 + ".csv", "-.csv", "a:b"):
        assert TASK.fullmatch(_name_of(None, DataSpec(path=str(tmp_path / name)))), name


# What stands in place of a file

KINDS = {
    "pipe": os.mkfifo, "device": None, "sparse": partial(hostile.sparse, size=2**40),
    "link": None, "folder's link": None,
}  # fmt: skip
FILES = (
    "runs.csv", "runs.outcomes.safetensors", "runs.data.json", "runs.fit.json",
    "runs.shards.json", "runs.exports.json", "plan.json", "cell.json", "row.json", "result.json",
    "steps.csv", "panel.csv", "epochs.csv", "machine.json", "phases.csv", SUMS,
    "predictions.safetensors", "weights.safetensors",
)  # fmt: skip


def readers(folder: Path):
    """Each reader of results in a folder."""
    runs = folder / "runs.csv"

    def of_rows(read):
        def every():
            for row in read_rows(runs):
                read(row, folder_of(runs, row))

        return every

    def outcomes():
        known = read_results([runs], None)
        assert known.planned is not None
        for row in known.rows:
            known.values_of([row])
            kept_losses([runs])(row)

    return {
        "results": outcomes,
        "job": of_rows(lambda _, cell: Job.read(cell)),
        "times": of_rows(lambda _, cell: step_times(cell)),
        "orphan": of_rows(lambda _, cell: orphaned_outcome(cell, Job.read(cell))),
        "tracked": of_rows(lambda row, _: run_of(runs, row)),
        "predictions": of_rows(lambda row, cell: read_folder(cell, row.dev_metric or "")),
        "logits": of_rows(lambda _, cell: _kept_logits(cell)),
        "weights": of_rows(lambda _, cell: load_trained(Job.read(cell), cell)),
        "curves": lambda: CURVES.read(runs),
        "validate": lambda: Submission.check(folder),
        "rebuild": lambda: call(rebuild, "--runs", runs),
        "merge": lambda: call(merge, runs, "--to", folder.parent / "merged" / "all.csv"),
        "ensemble": lambda: members.find([runs]),
        "updates": lambda: updates.find([runs]),
    }


@contextmanager
def limits(more_bytes: int, seconds: int):
    """Less memory than a file would fill, and less time than a wait would take."""

    def late(*_):
        pytest.fail("a reader waits")  # no error that a reader could catch

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more_bytes, hard))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def replace(path: Path, kind: str, home: Path) -> None:
    path.unlink()
    if kind == "link":
        path.symlink_to(home / "file")
    elif kind == "folder's link":
        path.symlink_to(home, target_is_directory=True)
    elif kind == "device":
        path.symlink_to("/dev/zero") if os.geteuid() else os.mknod(path, 0o20666, os.makedev(1, 5))
    else:
        KINDS[kind](path)


@pytest.mark.parametrize("kind", KINDS)
def test_no_reader_waits_or_fills_memory_or_follows_a_link(results, tmp_path, kind):
    """Each file by turns. Behind a link is what would be right there, and it is not even read, by
    its time of access; runs.csv alone may be a link."""
    home = tmp_path / "home"
    home.mkdir()
    for name in FILES:
        folder = shutil.copytree(results, tmp_path / "results")
        found = sorted(folder.rglob(name)) or [folder / name]
        found[0].touch()
        shutil.copy(found[0], home / "file")
        before = tree(home)
        replace(found[0], kind, home)
        for reader, read in readers(folder).items():
            os.utime(home / "file", (0, (home / "file").stat().st_mtime))
            with limits(2**30, 30):
                hostile.answer(read, (InputError, DiskFullError, ValueError), "")
            assert name == "runs.csv" or not (home / "file").stat().st_atime, (name, reader)
            assert tree(home) == before, (name, reader)
        for path in (tmp_path / "merged").rglob("*"):
            assert not path.is_symlink(), (name, path)
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "merged", ignore_errors=True)


@pytest.mark.parametrize("what", ["runs", "cell"])
def test_a_linked_folder_is_refused_by_every_reader(copy, tmp_path, what):
    runs = copy / "runs.csv"
    folder = cells_folder(runs) if what == "runs" else folder_of(runs, read_rows(runs)[0])
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (copy / "runs.csv.lock").unlink()
    before = tree(tmp_path)
    for reader, read in readers(copy).items():
        if reader == "curves":
            continue
        if reader == "validate":
            assert any(f"{folder}: is a link" in line for line in Submission.check(copy).problems)
            continue
        try:
            read()
        except InputError as error:
            hostile.check_line(str(error), f"{folder}: is a link")
        else:
            pytest.fail(f"{reader} follows it")
    shutil.rmtree(tmp_path / "merged", ignore_errors=True)
    (copy / "runs.csv.lock").unlink(missing_ok=True)
    assert tree(tmp_path) == before
