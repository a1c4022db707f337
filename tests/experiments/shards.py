"""Kill shards of a grid, and merges of their results, at random moments, and count what is lost."""

import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import click

from bench.plan.planning import plan
from bench.plan.shards import Shard, divide
from bench.results.merge import SHARDS, keep_shard
from bench.results.merge import main as merge
from bench.results.origins import folder_of
from bench.results.row import kept_row
from bench.results.rowfile import encode
from bench.results.store import read_rows
from tests.experiments.faults.parent import stub_report
from tests.experiments.faults.setups import ROOT, setup
from tests.experiments.faults.worker import NOTES, PLACE, RUN

COUNT = 3


class Case:
    """A grid in three shards, each with a folder of its own, whose results are merged as they come.
    A kill comes within the seconds that a shard or a merge usually takes; there are `most`."""

    def __init__(self, folder, noise, most=0, usual_s=None):
        self.folder, self.noise, self.most, self.usual_s = folder, noise, most, usual_s or {}
        self.kills, self.wrong = Counter(), []
        self.made = setup("fake", seeds=6)
        self.to = self.folder / "all" / "runs.csv"
        self.files = [self.folder / str(index) / "runs.csv" for index in range(COUNT)]

    def run(self):
        left = list(range(COUNT))
        while left:
            index = self.noise.choice(left)
            if self._ends("shard", partial(self._shard, index)):
                left.remove(index)
            self._merge()
        while not self._merge():
            pass
        rows = read_rows(self.to)
        if Counter(map(content, rows)) != Counter(self._contents()):
            self.wrong.append("merged rows are not those of the shards")
        ok = Counter(row.cell_id for row in rows if row.is_ok)
        if ok != Counter(cell.cell_id for cell in self.made.cells):
            self.wrong.append(f"cells that ended ok: {ok}")
        if [of.missing for of in SHARDS.read(self.to).values()] != [[]]:
            self.wrong.append("shards are missing")
        return self

    def _ends(self, what, action):
        """Whether an action in a process of its own ended before it was killed."""
        process = get_context("fork").Process(target=self._do, args=(action,))
        process.start()
        if self.kills.total() < self.most:
            time.sleep(self.noise.uniform(0, self.usual_s[what]))
            process.kill()
        begun = time.monotonic()
        process.join()
        if not self.most:
            self.usual_s[what] = max(self.usual_s.get(what, 0.0), time.monotonic() - begun)
        if process.exitcode < 0:
            self.kills[what] += 1
        elif process.exitcode:
            self.wrong.append(f"a {what} ended with {process.exitcode}")
        return process.exitcode >= 0

    def _do(self, action):
        with (self.folder / "output.txt").open("a") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        sys.exit(action())

    def _shard(self, index):
        """What `bench.grid --shard` does once its plan is made."""
        path, made, cells = self.files[index], self.made, self.made.cells
        notes = path.parent / "notes"
        notes.mkdir(parents=True, exist_ok=True)
        values = {PLACE: path.parent, NOTES: notes, RUN: 1, "PYTHONPATH": ROOT}
        os.environ |= {name: str(value) for name, value in values.items()}
        sys.modules["bench.report.render"] = SimpleNamespace(render=stub_report)
        division = divide(cells, [1] * len(cells), COUNT, [True] * len(cells))
        keep_shard(path, division.plan, Shard(index, COUNT))
        planned = plan(division.parts[index], read_rows(path), made.conditions.columns())
        return made.session(path, [made.target(f"shards {path}")]).run([planned])

    def _merge(self):
        files = [str(path) for path in self.files if path.exists()]
        if not files:
            return False
        self.noise.shuffle(files)
        words = [*files, "--to", str(self.to)]
        ended = self._ends("merge", partial(merge, words, standalone_mode=False))
        rows = read_rows(self.to)
        if any(kept_row(folder_of(self.to, row)) is None for row in rows):
            self.wrong.append("a merged row has no folder")
        if not {*map(content, rows)} <= {*self._contents()}:
            self.wrong.append("a merged row is of no shard")
        return ended

    def _contents(self):
        return [content(row) for path in self.files for row in read_rows(path)]


def content(row):
    return encode(replace(row, attempt=1))


def strike(kills, seed, folder):
    """Cases with so many kills in all; how many of each kind, and what was wrong."""
    import_module("bench.report.recommendation")  # before the first fork
    counts, wrong, noise = Counter(), [], random.Random(seed)  # noqa: S311
    undisturbed = Case(Path(tempfile.mkdtemp(dir=folder)), noise).run()
    while counts.total() < kills:
        place = Path(tempfile.mkdtemp(dir=folder))
        most = min(16, kills - counts.total())
        case = Case(place, noise, most, undisturbed.usual_s).run()
        counts += case.kills
        wrong += [f"{place}: {line}" for line in case.wrong]
        if not case.wrong:
            shutil.rmtree(place)
    return counts, wrong


@click.command(help=__doc__)
@click.option("--n", "kills", default=200, show_default=True, help="Kills.")
def main(kills):
    folder = Path(tempfile.mkdtemp(prefix="minbert-shards-"))
    begun = time.monotonic()
    counts, wrong = strike(kills, 0, folder)
    seconds = round(time.monotonic() - begun)
    click.echo(json.dumps({"kills": counts, "seconds": seconds, "wrong": wrong}))
    if wrong:
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
