"""Checkouts of this code that are measured, one of them with a change."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[3]
_LINKED: Final = ("adapters", "bench", "minbert", "tests", "pyproject.toml")
_PATCH: Final = """\
import sys

from tests.experiments.comparing import patches
from tests.experiments.doctor.site.sitecustomize import Patching

sys.meta_path.insert(0, Patching(patches.{name}))
"""


def make_side(folder: Path, patch: Any = None) -> Path:
    """Make a folder a checkout of this code, changed by a patch of `patches.py`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _LINKED:
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    if patch is not None:
        (folder / "sitecustomize.py").write_text(_PATCH.format(name=patch.__name__))
    return folder


def run(side: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """Run a module of a checkout; its standard error goes to this process's.

    Raises:
        RuntimeError: if it ends with another exit code than 0 or 1.
    """
    paths = [str(side.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}")
    return done


def run_grid(side: Path, grid: Path, runs: Path, options: Sequence[str] = ()) -> None:
    """Run a grid in a checkout, unless its cells have results."""
    places = ["--runs", str(runs), "--reports", str(runs.with_suffix(""))]
    run(side, "bench.grid", "--grid", str(grid), "--device", "cpu", *places, *options)
