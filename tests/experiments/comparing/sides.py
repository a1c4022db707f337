"""Changes injected into checkouts of this code, and whether a comparison of runs finds them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from bench.analysis.comparison import Limits, compare
from bench.machine.version import code_version
from bench.plan.rows import current_rows
from bench.results.outcomes import no_values
from bench.results.rowfile import read_rows
from tests.experiments.pages import ROOT, read_json, write_json

_HERE = Path(__file__).parent
_TRIALS = ("mode=full", "mode=lora", "mode=dora", "mode=head")
"""Selections of one cell of slow.toml each, taken in turn."""
_PATCH = """\
import sys

from tests.experiments.comparing import patches
from tests.experiments.doctor.site.sitecustomize import Patching

sys.meta_path.insert(0, Patching(patches.{}))
"""


def make_side(folder, patch=""):
    """Make a folder a checkout of this code, changed by a patch of `patches.py`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("adapters", "bench", "minbert", "tests", "pyproject.toml"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    if patch:
        (folder / "sitecustomize.py").write_text(_PATCH.format(patch))
    return folder


def run(side, *command):
    paths = [str(side.resolve()), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    argv = [sys.executable, "-m", *map(str, command)]
    done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{command[0]} ended with {done.returncode}")
    return done.stdout


def run_grid(side, grid, runs, *options):
    places = ("--runs", runs, "--reports", runs.with_suffix(""))
    run(side, "bench.grid", "--grid", grid, "--device", "cpu", *places, *options)


def find_work(folder):
    """Of each cell with 5% more work: its ratio of GFLOP, and the counts that are a regression."""
    rows = []
    for name, patch in (("base", ""), ("more-work", "more_work")):
        csv = folder / f"{name}.csv"
        run_grid(make_side(folder / "sides" / name, patch), _HERE / "work.toml", csv)
        rows.append({row.cell_id: row for row in current_rows(read_rows(csv)).values()})
    for cell_id, base in rows[0].items():
        new = rows[1][cell_id]
        comparison = compare([base], [new], Limits(), values_of=(no_values, no_values))
        [pair] = comparison.pairs
        measures = [one.measure for _, one in comparison.regressions]
        worse = {measure.column for measure in measures if measure.kind == "count"}
        ratio = (new.step_gflop or 0) / (base.step_gflop or 1)
        yield {"setting": pair.label, "gflop": round(ratio, 4), "found": sorted(worse)}


def find_slow(folder, number):
    """One trial: a cell whose steps take 10% longer in NEW, measured by bench.compare --run. It is
    kept in the folder for this version of the code, and returned if it is there."""
    kept = folder / f"{number}-{code_version()}.json"
    if kept.exists():
        return read_json(kept)
    base = make_side(folder / "sides" / "base")
    new = make_side(folder / "sides" / "slower-step", "slower_step")
    begun, runs = time.monotonic(), folder / str(number)
    answer = run(
        base, "bench.compare", "--run", base, new, "--grid", _HERE / "slow.toml",
        "--select", _TRIALS[number % len(_TRIALS)], "--rounds", "24", "--json",
        "--runs", runs, "--reports", runs, "--", "--init", "random", "--device", "cpu",
    )  # fmt: skip
    [setting] = json.loads(answer)["settings"]
    [measure] = [one for one in setting["measures"] if one["kind"] == "time"]
    trial = {
        "setting": setting["setting"], "rounds": measure["runs"][0],
        "found": measure["verdict"] == "regression" and measure["gates"],
        **{name: measure[name] for name in ("change", "low", "high")},
        "seconds": round(time.monotonic() - begun),
    }  # fmt: skip
    write_json(kept, trial)
    return trial
