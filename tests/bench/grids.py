"""Running `python -m bench.grid` as its users do, on a tiny encoder and real sentences."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from importlib import import_module
from io import StringIO
from pathlib import Path
from unittest import mock

import psutil

from bench.common.command import run_command
from bench.grid import cells, session
from bench.grid.__main__ import command
from bench.launch.runner import WorkerEnd, utc
from bench.plan.rows import Row
from bench.results.protocol import LAUNCHED_AT, RESULT, STDERR, STDOUT, WEIGHTS, parse_result
from bench.results.store import read_rows

FORECAST = "bench.grid.cells.forecast_plan"
REFERENCES = "bench.grid.session.find_references"
ROOT = Path(__file__).parents[2]
Ended = subprocess.CompletedProcess[str]
_ENDS = [datetime(2000, 1, 1, tzinfo=UTC)]
"""Ends of cells in this process, in different seconds, as workers of their own have."""
QUICK = ("--max-train", "192", "--max-dev", "32", "--max-steps", "2", "--device", "cpu")


class GridRuns:
    """A place with a runs.csv, and the command line that works on it; with `workers_here`, the
    workers of `run` are no processes of their own, which take seconds to load torch."""

    def __init__(self, folder: Path, model: Path, *, workers_here: bool = False) -> None:
        self.workers_here = workers_here
        self.placed = True  # its commands name the places of results
        self.folder, self.model = folder, model
        self.csv, self.reports = folder / "runs.csv", folder / "reports"
        self.locks = folder.with_name(f"{folder.name}-locks")

    def argv(self, *extra: str, grid="smoke", quick: Sequence[str] = QUICK, file="") -> list[str]:
        """The command line; a grid file of the folder is run as it is, on the CPU."""
        if file:
            grid, quick = str(self.folder / file), ("--device", "cpu")
        places = ("--runs", str(self.csv), "--reports", str(self.reports)) if self.placed else ()
        command = (sys.executable, "-m", "bench.grid", "--grid", grid)
        return [*command, "--model", str(self.model), *quick, *places, *extra]

    @property
    def environment(self) -> dict[str, str]:
        """Turns on the device are taken among this place's grids alone."""
        return {**os.environ, "MINBERT_BENCH_LOCKS": str(self.locks)}

    def run(self, *extra: str, forecast=None, references=False, **options) -> Ended:
        """Run to the end in this process; by default dry runs and shards have a forecast."""
        argv = self.argv(*extra, **options)
        if forecast is None:
            forecast = not {"--dry-run", "--shard"}.isdisjoint(extra)
        out, err = StringIO(), StringIO()
        with (
            mock.patch.dict(os.environ, self.environment),
            mock.patch.object(sys, "argv", argv[2:]),
            without_extras(forecast=forecast, references=references),
            workers_here() if self.workers_here else nullcontext(),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                run_command(command)
            except SystemExit as end:
                code = end.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())

    def finish(self, *extra: str, code=0, **options) -> Ended:
        done = self.run(*extra, **options)
        assert done.returncode == code, done.stderr
        return done

    def run_apart(self, *extra: str, **options) -> Ended:
        """Run to the end in a process of its own, with all that the command does."""
        argv = self.argv(*extra, **options)
        return subprocess.run(
            argv, env=self.environment, capture_output=True, text=True, check=False, timeout=240
        )

    def rows(self) -> list[Row]:
        return read_rows(self.csv)

    def statuses(self) -> list[str]:
        return [str(row["status"]) for row in self.rows()]


@contextmanager
def without_extras(*, forecast: bool = False, references: bool = False) -> Iterator[None]:
    """The command without what takes seconds and most tests don't need, unless it is asked for."""
    with (
        mock.patch("bench.report.drawing.lay_out"),
        mock.patch("matplotlib.figure.Figure.savefig", lambda _, file, **__: file.write("<svg >")),
        mock.patch(FORECAST, cells.forecast_plan if forecast else lambda *_: None),
        mock.patch(REFERENCES, session.find_references if references else lambda *_, **__: []),
    ):
        yield


@contextmanager
def workers_here() -> Iterator[None]:
    with (
        mock.patch("bench.launch.attempt.run_worker", work),
        mock.patch("bench.launch.again.run_worker", work),
        mock.patch("bench.forecast.client.ask", answers),
        mock.patch("bench.engines.check.ask", answers),
    ):
        yield


@contextmanager
def all_here() -> Iterator[None]:
    """Also what else a grid or an export starts is in this process; ONNX, which takes long, not."""
    from tests.bench.export.small import answer_here

    missing = lambda form: form.name == "onnx" and "left out"  # noqa: E731
    with (
        workers_here(),
        mock.patch.multiple(
            "bench.export.exporting", run_fresh=answer_here, missing_library=missing
        ),
        mock.patch("bench.export.check.run_fresh", answer_here),
        mock.patch("bench.references.client.ask", answers),
    ):
        yield


def answers(module: str, request: object, **_: object) -> Iterator[object]:
    """As `bench.common.child.ask`, in this process."""
    return import_module(module).answers_to(json.loads(json.dumps(request)))


def work(folder: Path, _argv: Sequence[str], *, env: dict[str, str], **_: object) -> WorkerEnd:
    """As `bench.launch.runner.run_worker`, in this process, with no time limit and few repeats."""
    from bench.worker.__main__ import main
    from bench.worker.probes import products, replay

    begun, started = time.monotonic(), datetime.now(UTC)
    for name in (RESULT, WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    (folder / STDOUT).touch()
    (folder / STDERR).touch()
    with (
        mock.patch.dict(os.environ, {**env, LAUNCHED_AT: str(begun)}),
        mock.patch.multiple(replay, WARMUP_PASSES=2, TIMED_PASSES=2, MOST_PASSES=2),
        mock.patch.multiple(products, _MIN_REPEATS=1, _MIN_SECONDS=0.0),
    ):
        main(folder)
    result = parse_result((folder / RESULT).read_text(encoding="utf-8"))
    wall_s = time.monotonic() - begun
    _ENDS.append(max(started + timedelta(seconds=wall_s), _ENDS[-1] + timedelta(seconds=1)))
    return WorkerEnd(
        status=result["status"], message=result["message"], wall_s=wall_s, result=result,
        started_at=utc(started), finished_at=utc(_ENDS[-1]),
        peak_rss_mib=psutil.Process().memory_info().rss / 2**20,
    )  # fmt: skip


def workers_of(folder: Path) -> list[int]:
    """Processes whose command line names a cell folder below `folder`."""
    lines = [(p.pid, " ".join(p.info["cmdline"] or ())) for p in psutil.process_iter(["cmdline"])]
    return [pid for pid, line in lines if " bench.worker " in line and str(folder) in line]


if __name__ == "__main__":
    with without_extras(forecast="--shard" in sys.argv):
        run_command(command)
