"""Measure how often bench.compare reports a change that is not there, and one that is.

Run the parts `python -m tests.experiments.comparing PART` one by one on an idle machine, then write
the page. A part that is stopped goes on with the same command.

\b
  collect 12 repeats of 4 settings: about 7 minutes
  aa      A/A: splits of these repeats, and simulated rows: 8 minutes
  power   how often a slower step is found, simulated: 10 minutes
  history changes found in histories, simulated: 1 minute
  times   what intervals of times cover: some seconds
  work    20 settings with 5% more work: about 5 minutes
  slow    20 trials of a step that is 10% slower: about 40 minutes
  page    docs/comparing.json, docs/repeats.csv and the tables

Without new repeats the committed ones count, and the page keeps figures of parts that did not run.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from math import log, sqrt
from pathlib import Path
from statistics import median

import click
from rich.progress import track

from bench.analysis.comparison import Limits, compare
from bench.compare.alternating import look_rounds
from bench.machine.version import code_version
from bench.plan.rows import current_rows
from bench.results.outcomes import no_values
from bench.results.rowfile import read_rows
from bench.stats.comparing import nominal_level
from bench.stats.intervals import quantile, wilson
from tests.experiments.comparing import simulations
from tests.experiments.pages import DOCS, ROOT, read_json, rewrite, with_tables, write_json

PAGES = (DOCS / "comparing.md", DOCS / "measuring.md")
FIGURES = DOCS / "comparing.json"
REPEATS = DOCS / "repeats.csv"
GRID = DOCS / "repeats.toml"
PARTS = ("aa", "power", "needed", "history", "repeats", "within", "work", "slow")
_NUMBERS = {"collect": 12, "aa": 200, "power": 200, "history": 300, "times": 1000, "slow": 20}
_HERE = Path(__file__).parent
_TRIALS = ("mode=full", "mode=lora", "mode=dora", "mode=head")  # of one cell of slow.toml each
_PATCH = """\
import sys

from tests.experiments.comparing import patches
from tests.experiments.doctor.site.sitecustomize import Patching

sys.meta_path.insert(0, Patching(patches.{}))
"""
_OUT = ROOT / "runs" / "comparing"
_MEASURED = _OUT / "repeats.csv"


@click.command(help=__doc__)
@click.argument("part", type=click.Choice([*_NUMBERS, "work", "page"]))
@click.option("--only-page", is_flag=True, help="Of page: only from the committed figures.")
def main(part, only_page):
    number = _NUMBERS.get(part)
    repeats = read_rows(_MEASURED if _MEASURED.exists() else REPEATS)
    if part == "collect":
        run_grid(ROOT, GRID, _MEASURED, "--repeats", number)
    elif part == "aa":
        worlds = [simulations.Repeats(repeats), *simulations.SCENARIOS]
        _keep(part, (simulations.measure(world, number) for world in track(worlds)))
    elif part == "power":
        _keep(part, simulations.power(number))
        _keep("needed", simulations.needed(number // 2))
    elif part == "history":
        _keep(part, simulations.histories(number))
    elif part == "times":
        _keep("repeats", simulations.of_repeats(repeats))
        _keep("within", simulations.within_a_process(number))
    elif part == "work":
        _keep(part, find_work(_OUT / part))
    elif part == "slow":
        _keep(part, (find_slow(_OUT / part, trial) for trial in range(number)))
    else:
        if not only_page:
            files = {name: _OUT / f"{name}.json" for name in PARTS}
            new = {name: read_json(file) for name, file in files.items() if file.exists()}
            write_json(FIGURES, read_json(FIGURES) | new)
            if _MEASURED.exists():
                shutil.copyfile(_MEASURED, REPEATS)
        for path in PAGES:
            rewrite(path, page, read_json(FIGURES))


def _keep(part, outcomes):
    kept = []
    for outcome in outcomes:
        click.echo(json.dumps(outcome))
        kept.append(outcome)
    _OUT.mkdir(parents=True, exist_ok=True)
    write_json(_OUT / f"{part}.json", kept)


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


def page(text, figures):
    stds = []  # of a process's log time, from the interval of a trial: one of three comparisons
    for one in figures["slow"]:
        if "low" in one:
            level = nominal_level(0.05 / 3, len(look_rounds(24)))
            half = log(one["high"] / one["low"]) / 2
            rounds = one["rounds"]
            stds.append(float(half * sqrt(rounds / 2) / quantile(level, rounds - 1)))
    decided = [one["decided"] / one["draws"] for one in figures.get("needed", ())]
    return with_tables(
        text, __file__, **figures, stds=stds, decided=decided, wilson=wilson,
        median=lambda values: median(list(values)),
    )  # fmt: skip


if __name__ == "__main__":
    main()
