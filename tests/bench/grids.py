"""Running `python -m bench.grid` as its users do, on a tiny encoder and real sentences."""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

from bench.common.command import run_command
from bench.grid.__main__ import command
from bench.plan.rows import Row
from bench.results.store import read_rows

FORECAST = "bench.grid.cells.forecast_plan"
REFERENCES = "bench.grid.session.find_references"
QUICK = ("--max-train", "192", "--max-dev", "32", "--max-steps", "2", "--device", "cpu")


class GridRuns:
    """A place with a runs.csv, and the command line that works on it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.model = model
        self.csv = folder / "runs.csv"
        self.reports = folder / "reports"
        self.locks = folder.with_name(f"{folder.name}-locks")

    def argv(self, *extra: str, grid: str = "smoke", quick: Sequence[str] = QUICK) -> list[str]:
        """The command line."""
        places = ("--runs", str(self.csv), "--reports", str(self.reports))
        command = (sys.executable, "-m", "bench.grid", "--grid", grid)
        return [*command, "--model", str(self.model), *quick, *places, *extra]

    @property
    def environment(self) -> dict[str, str]:
        """Turns on the device are taken among this place's grids alone."""
        return {**os.environ, "MINBERT_BENCH_LOCKS": str(self.locks)}

    def run(
        self, *extra: str, forecast: bool = False, references: bool = False, **options: object
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end, as `run_apart` does but in this process, which has imported it all.

        The workers and whatever else the command starts are processes as ever.

        Args:
            forecast: whether memory and time are predicted, which takes two seconds; a dry run
                predicts them always.
            references: whether scores get reference points, which takes some seconds.
        """
        predicts = forecast or "--dry-run" in extra
        argv = self.argv(*extra, **options)
        out, err = StringIO(), StringIO()
        with (
            mock.patch.dict(os.environ, self.environment),
            mock.patch.object(sys, "argv", argv[2:]),
            nullcontext() if predicts else mock.patch(FORECAST, return_value=None),
            nullcontext() if references else mock.patch(REFERENCES, return_value=[]),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                run_command(command)
            except SystemExit as end:
                code = end.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())

    def run_apart(self, *extra: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run to the end in a process of its own."""
        return subprocess.run(
            self.argv(*extra, **options),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )

    def start(self, *extra: str, **options: object) -> subprocess.Popen[str]:
        """Start, in a process group of its own."""
        return subprocess.Popen(
            self.argv(*extra, **options),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def rows(self) -> list[Row]:
        """What runs.csv holds."""
        return read_rows(self.csv)

    def statuses(self) -> list[str]:
        """Statuses in the order of the rows."""
        return [str(row["status"]) for row in self.rows()]


def workers_of(folder: Path) -> list[int]:
    """Processes whose command line names a cell folder below `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"bench.worker" in words and any(str(folder).encode() in word for word in words):
                found.append(int(entry.name))
    return found
