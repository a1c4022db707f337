"""Train 18 settings with six seeds on four fifths of 2,000 examples, and replay races of them.

Seed s leaves out fold s mod 5 of the training examples, as round s + 1 of a race does, and all
examples that are not among the 2,000 are scored. Their mean over the seeds is taken as the truth. A
replayed race has five of the seeds in a random order, and of the scored examples as many for each
round as a fold has.

Example: python -m tests.experiments.races.replay
"""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from bench.results.predictions import kept_predictions
from bench.results.rowfile import read_rows
from bench.stats.racing import ROUNDS, Race
from tests.experiments.races import MARGIN
from tests.experiments.rates import write_examples

_DOCS: Final = Path(__file__).parents[3] / "docs"
RIGHT: Final = _DOCS / "replay.safetensors"
FIGURES: Final = _DOCS / "replay.json"
TASKS: Final = ("movies", "nyt")
SEEDS: Final = 6
SIZE: Final = 360  # examples of a round, as of 2,000 of which a tenth is set aside
GRID: Final = """
about = "18 settings for the replay of races"
[settings]
epochs = 3
[[cells]]
mode = ["full", "head"]
amp = ["on"]
[[cells]]
mode = ["lora", "dora"]
rank = [1, 8]
layers = ["attn-only", "attn", "all-lin-only", "all-lin"]
amp = ["on"]
"""
Bits = NDArray[np.uint8]
Floats = NDArray[np.float64]


def train(task: str, folder: Path) -> None:
    """Train all settings on a task with each seed, where they have no row yet."""
    write_examples(task, Path(), folder, dev=None)
    grid = folder / "replay.toml"
    grid.write_text(GRID, encoding="utf-8")
    with (folder / f"{task}-train.csv").open(newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    for seed in range(SEEDS):
        path = folder / f"{task}-{seed % ROUNDS}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            left = [row for n, row in enumerate(rows) if n % ROUNDS != seed % ROUNDS]
            csv.writer(file).writerows([names, *left])
        data = ["--data", str(path), "--validation", str(folder / f"{task}-dev.csv")]
        options = ["--task", task, "--seeds", str(SEEDS), "--select", f"seed={seed}"]
        places = ["--runs", str(folder / f"{task}.csv"), "--reports", str(folder / "reports")]
        command = [sys.executable, "-m", "bench.grid", "--grid", str(grid), "--jobs", "2"]
        subprocess.run([*command, *data, *options, *places], check=False)


def right_answers(task: str, folder: Path) -> dict[str, NDArray[np.bool_]]:
    """By setting, the cheapest first, whether each example is right with each seed [S, N]."""
    runs = folder / f"{task}.csv"
    outcomes, found = kept_predictions(runs), dict[str, dict[int, NDArray[np.bool_]]]()
    memory: dict[str, float] = {}
    for row in read_rows(runs):
        parts = outcomes([row]) if row.status == "ok" else None
        if parts and parts[""].labels is not None:
            name = " ".join(str(v) for v in (row.mode, row.rank, row.layers) if v)
            found.setdefault(name, {})[row.seed] = parts[""].predicted == parts[""].labels
            memory[name] = min(memory.get(name, np.inf), row.peak_anon_mib or np.inf)
    whole = {name: own for name, own in found.items() if len(own) == SEEDS}
    order = sorted(whole, key=memory.__getitem__)
    return {name: np.array([whole[name][seed] for seed in range(SEEDS)]) for name in order}


def replay(right: NDArray[np.bool_], number: int) -> dict[str, float]:
    """One race of settings by right answers [K, S, N]."""
    rng = np.random.default_rng(number)
    truth = right.mean(axis=(1, 2))
    lost = truth.max() - truth
    examples, race, trainings = rng.permutation(right.shape[2]), Race(len(right), MARGIN), 0
    for place, seed in enumerate(rng.permutation(SEEDS)[:ROUNDS]):
        own = examples[place * SIZE : (place + 1) * SIZE]
        live = race.live
        trainings += len(live)
        race.add([right[i, seed, own].astype(float) if i in live else None
                  for i in range(len(right))])  # fmt: skip
        if race.is_over:
            break
    is_wrong = race.shown is not None and lost[race.shown] > MARGIN
    return {
        "wrong": float(is_wrong or int(np.argmin(lost)) not in race.best),
        "decided": float(race.shown is not None),
        "trainings": trainings / (ROUNDS * len(right)),
        "regret": np.nan if race.shown is None else float(lost[race.shown]),
    }


def figures(right: dict[str, NDArray[np.bool_]], runs: int) -> dict[str, Any]:
    """What replayed races do, and how trainings vary."""
    every = np.array([*right.values()])
    means = every.mean(axis=2)
    within = means * (1 - means) / every.shape[2]
    own = np.sqrt(np.maximum(means.var(axis=1, ddof=1) - within.mean(axis=1), 0))
    pair = every.astype(float) - every[0]
    rounds = np.array([
        [p[s, SIZE * s : SIZE * (s + 1)].mean() for s in range(ROUNDS)] for p in pair[1:]
    ])  # fmt: skip
    once = np.array([pair[i, 0].var() / SIZE for i in range(1, len(pair))])
    races = [replay(every, number) for number in range(runs)]
    mean = {name: float(np.nanmean([race[name] for race in races])) for name in races[0]}
    return {
        "settings": {
            name: {"score": float(m.mean()), "by_seed": float(s)}
            for name, m, s in zip(right, means, own, strict=True)
        },
        "ratio": float(np.sum(rounds.var(axis=1, ddof=1)) / np.sum(once)),
        "races": runs, **{name: round(value, 5) for name, value in mean.items()},
    }  # fmt: skip


@click.command(help=__doc__)
@click.option("--folder", default="runs/replay", type=click.Path(path_type=Path))
@click.option("--races", "runs", default=1000, show_default=True)
@click.option("--figures", "only_figures", is_flag=True, help="Only replay what is committed.")
def main(folder: Path, runs: int, only_figures: bool) -> None:
    if not only_figures:
        folder.mkdir(parents=True, exist_ok=True)
        stored: dict[str, Bits] = {}
        for task in TASKS:
            train(task, folder)
            for name, right in right_answers(task, folder).items():
                stored[f"{task}/{len(stored):03d}/{name}/{right.shape[1]}"] = np.packbits(right, 1)
        save_file(stored, RIGHT)
    found: dict[str, dict[str, NDArray[np.bool_]]] = {}
    for key, bits in sorted(load_file(RIGHT).items()):
        task, _, name, count = key.split("/")
        found.setdefault(task, {})[name] = np.unpackbits(bits, 1, int(count)).astype(bool)
    result = {task: figures(right, runs) for task, right in found.items()}
    FIGURES.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
