"""Cells run by the command bench.grid, as a user runs them, for the checks of the whole."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bench.common.errors import InputError
from bench.common.messages import last_error
from bench.doctor.check import Context, SkipError
from bench.doctor.memory import MIB
from bench.launch.locks import FOLDER as LOCKS
from bench.plan.rows import Row
from bench.results.store import Store
from minbert.assets.embedded import ASSETS, fetch
from minbert.errors import InputError as MinbertInputError

RUNS: Final = "runs.csv"
_POLL_S: Final = 0.02
"""Seconds between two calls of `on_poll` while a grid runs."""
_DISK_MIB: Final = 50
"""For rows, reports and progress of a grid's cells."""


def run_cells(
    context: Context,
    settings: Mapping[str, Any],
    cells: Sequence[Mapping[str, Any]],
    *,
    name: str = "cells",
    address_space: int | None = None,
    on_poll: Callable[[int], None] = lambda _pid: None,
) -> list[Row]:
    """Run a grid in a folder of its own, and return its rows in the order in which they ran.

    Args:
        settings, cells: the tables of a grid file.
        name: of the folder, within the context's.
        address_space: bytes that each of its processes may map; None: no limit.
        on_poll: called all the time with the process id of the grid.

    Raises:
        SkipError: if the embedded model and data are neither in the cache nor can be fetched.
        InputError: if the grid ends without a row.
    """
    try:
        for asset in ASSETS:
            fetch(asset)
    except MinbertInputError as error:
        raise SkipError(f"the embedded model and data are needed: {error}") from error
    free_mib = shutil.disk_usage(context.folder).free / MIB
    if free_mib < _DISK_MIB:
        raise SkipError(
            f"it needs {_DISK_MIB} MiB of disk, and {free_mib:,.0f} are free in {context.folder}: "
            "set TMPDIR to another folder"
        )
    folder = context.folder / name
    folder.mkdir()
    grid = folder / "grid.toml"
    grid.write_text(_as_toml(settings, cells), encoding="utf-8")
    argv = [sys.executable, "-m", "bench.grid", "--grid", str(grid), "--device", context.device]
    argv += ["--runs", str(folder / RUNS), "--reports", str(folder / "reports")]

    def limit() -> None:
        if address_space is not None:
            resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))

    env = {**os.environ, LOCKS: str(folder)}  # not to wait for a turn after another grid's cell
    stderr = folder / "stderr.txt"
    with stderr.open("wb") as errors:
        process = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, preexec_fn=limit
        )
        while process.poll() is None:
            on_poll(process.pid)
            time.sleep(_POLL_S)
    rows = Store(folder / RUNS).rows if (folder / RUNS).exists() else []
    if not rows:
        raise InputError(last_error(stderr.read_text(encoding="utf-8", errors="replace")))
    return list(rows)


def _as_toml(settings: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str:
    """A grid file; strings, numbers, booleans and lists are written alike in TOML and JSON."""
    tables = [("[settings]", settings), *(("[[cells]]", cell) for cell in cells)]
    lines = ['about = "a check of the doctor"']
    for heading, table in tables:
        lines += [heading, *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"
