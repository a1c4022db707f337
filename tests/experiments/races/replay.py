"""Train 18 settings with six seeds in the rounds of a race, and replay races of them; on `movies`
race all 34 settings of the grid `full` under AMP, and train the rounds that they were spared.

Seed s leaves out fold s mod 5, as round s + 1 of a race does. What is committed is not trained
again: docs/replay.safetensors has right answers, and docs/race.csv the rows of the race."""

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import click
import numpy as np
from safetensors.numpy import load_file, save_file

from bench.analysis.groups import groups
from bench.analysis.racing import replay as replayed
from bench.plan.cell import ON
from bench.plan.job import Job
from bench.results.origins import folder_of
from bench.results.predictions import values_from
from bench.results.protocol import WEIGHTS
from bench.results.rescoring import read_results
from bench.results.rowfile import read_rows
from bench.stats.best import ROUNDS, Race
from tests.experiments.pages import DOCS, rewrite, write_json
from tests.experiments.races import MARGIN, PAGE, REPLAY, page, raced, read_figures
from tests.experiments.rates import copy_rows, keep_rows, write_examples

RIGHT = DOCS / "replay.safetensors"
ROWS = DOCS / "race.csv"
TASKS = ("movies", "nyt")
RACED = "movies"
SEEDS = 6
SETTINGS = 18
IN_RACE = 34  # settings of the real race
SIZE = 360  # examples of a round, as of 2,000 of which a tenth is set aside


def every_round(*seeds, unless=()):
    """bench.grid, whose race trains all settings but some in the rounds of some seeds. Steps are
    timed in the first round alone, which orders the settings."""
    from bench.common.command import run_command
    from bench.grid import plans
    from bench.grid.__main__ import command
    from bench.plan.models import Model

    def rounds(cells, plan_now, _replay):
        wanted = [cell for cell in cells if _name(cell) not in unless]
        for seed in seeds:
            fold = seed % ROUNDS
            yield plan_now([replace(cell, race=ON, seed=seed, fold=fold) for cell in wanted])

    def job(model, cell, data, **others):
        return job_of(model, cell, data, measure=cell.seed == 0, **others)

    job_of = Model.job
    plans.race_rounds = rounds
    Model.job = job
    run_command(command)


def train(task, folder):
    """Train what has no right answers yet, by seed, and score it on the unused examples."""
    write_examples(task, Path(), folder, dev=None)
    if task == RACED and not (folder / f"{task}.csv").exists():
        copy_rows(ROWS, folder / f"{task}.csv")
    for seed in range(SEEDS):
        runs = folder / (f"{task}.csv" if seed < ROUNDS else f"{task}-sixth.csv")
        done = [name for name, own in stored_answers().get(task, {}).items() if seed in own]
        if len(done) < SETTINGS:
            grid = ("--grid", str(Path(__file__).with_suffix(".toml")), "--save-weights")
            _grid(_every(seed, *done), task, folder, runs, *grid)
            score_unused(task, runs)
            if task == RACED and seed < ROUNDS:
                keep_rows(runs, ROWS)


def race(folder):
    """Race the grid `full` under AMP, and train the rounds that it spared."""
    runs = folder / f"{RACED}.csv"
    for start in (["-m", "bench.grid"], *map(_every, range(ROUNDS))):
        _grid(start, RACED, folder, runs, "--grid", "full", "--select", "amp=on")
        keep_rows(runs, ROWS)


def _every(seed, *unless):
    call = f"every_round({seed}, unless={unless})"
    return ["-c", f"from tests.experiments.races.replay import every_round; {call}"]


def _name(setting):
    return " ".join(str(v) for v in (setting.mode, setting.rank, setting.layers) if v)


def _grid(start, task, folder, runs, *options):
    data = ["--data", f"{folder / task}-train.csv", "--validation", f"{folder / task}-dev.csv"]
    places = ["--runs", str(runs), "--reports", str(folder / "reports")]
    rest = ["--task", f"replay-{task}", "--race", "--jobs", "2", *data, *places]
    subprocess.run([sys.executable, *start, *options, *rest], check=False)


def score_unused(task, runs):
    """Score the kept weights of a race's cells on the dev examples; add which answers are right, a
    bit each, to the committed ones, and delete the weights."""
    import torch

    from bench.examples.tokens import tokenizer_of
    from bench.worker.weights import load_trained
    from minbert.data.tasks import load_task
    from minbert.training.evaluation import predict

    load = cache(load_task)
    for row in read_rows(runs):
        cell = folder_of(runs, row)
        if row.status == "ok" and row.race == ON and (cell / WEIGHTS).is_file():
            job = Job.read(cell)
            dev = load(row.task, Path(job.data)).dev
            tokenizer = tokenizer_of(job.cell.engine, Path(job.tokenizer))
            texts = [tokenizer.encode(dev.text_a, dev.text_b, job.cell.max_length)]
            usual = {"batch_size": 64, "amp": job.cell.amp, "device": torch.device("cpu")}
            right = predict(load_trained(job, cell), texts, **usual).argmax(axis=1) == dev.labels
            key = f"{task}/{_name(row)}/{row.seed}/{len(right)}/{row.peak_anon_mib:.0f}"
            bits = load_file(RIGHT) if RIGHT.is_file() else {}
            save_file(bits | {key: np.packbits(right)}, RIGHT)
            (cell / WEIGHTS).unlink()
            click.echo(f"{row.name}: {right.mean():.4f}")


def stored_answers():
    """Whether each unused example is right, by task, setting and seed; the cheapest first."""
    every, memory = {}, {}
    for key, bits in (load_file(RIGHT) if RIGHT.is_file() else {}).items():
        task, name, seed, count, mib = key.split("/")
        own = every.setdefault(task, {}).setdefault(name, {})
        own[int(seed)] = np.unpackbits(bits, count=int(count)).astype(bool)
        memory[task, name] = min(memory.get((task, name), np.inf), float(mib))
    cheapest = sorted(memory, key=memory.get)
    return {
        task: {name: own[name] for of, name in cheapest if of == task}
        for task, own in every.items()
    }


def right_answers():
    """Right answers [S, N] by task and setting, where every training of the task is there."""
    return {
        task: {name: np.array([seeds[n] for n in range(SEEDS)]) for name, seeds in own.items()}
        for task, own in stored_answers().items()
        if len(own) == SETTINGS and all(len(seeds) == SEEDS for seeds in own.values())
    }


def replay(right, number):
    rng = np.random.default_rng(number)
    lost = right.mean(axis=(1, 2)).max() - right.mean(axis=(1, 2))
    parts = rng.permutation(right.shape[2])[: SIZE * ROUNDS].reshape(ROUNDS, SIZE)
    seeds = rng.permutation(SEEDS)[:ROUNDS]
    each = zip(seeds, parts, strict=True)
    race, trainings = raced([right[:, seed, own].astype(float) for seed, own in each])
    is_wrong = race.shown is not None and lost[race.shown] > MARGIN
    return {
        "wrong": float(is_wrong or int(np.argmin(lost)) not in race.best),
        "decided": float(race.shown is not None),
        "trainings": trainings / (ROUNDS * len(right)),
        "regret": np.nan if race.shown is None else float(lost[race.shown]),
    }


def figures(right, runs):
    """What replayed races do, and how trainings vary, as docs/racing.md explains."""
    every = np.array([*right.values()])
    means = every.mean(axis=2)
    flips = every.var(axis=1, ddof=1).mean(axis=1) / every.shape[2]
    own = np.sqrt(np.maximum(means.var(axis=1, ddof=1) - flips, 0))
    pair = every.astype(float) - every[0]
    rounds = np.array([
        [p[s, SIZE * s : SIZE * (s + 1)].mean() for s in range(ROUNDS)] for p in pair[1:]
    ])  # fmt: skip
    once = np.array([pair[i, 0].var() / SIZE for i in range(1, len(pair))])
    of_pairs = means[1:] - means[0]
    last = of_pairs[:, [0, ROUNDS]]  # two seeds that leave out the same fold
    shares = [(every[i] != every[j]).mean(axis=1) for i in range(len(every)) for j in range(i)]
    races = [replay(every, number) for number in range(runs)]
    mean = {name: float(np.nanmean([race[name] for race in races])) for name in races[0]}
    return {
        "settings": {
            name: {"score": float(m.mean()), "by_seed": float(s)}
            for name, m, s in zip(right, means, own, strict=True)
        },
        "ratio": float(np.sum(rounds.var(axis=1, ddof=1)) / np.sum(once)),
        "same_fold": float(np.sqrt(last.var(axis=1, ddof=1).mean())),
        "other_folds": float(np.sqrt(of_pairs[:, :ROUNDS].var(axis=1, ddof=1).mean())),
        "disagree": float(np.median(shares)),
        "races": runs, **{name: round(value, 5) for name, value in mean.items()},
    }  # fmt: skip


def race_figures():
    """Of the race of the kept rows, and of one of all their rounds that judges once, in the end:
    trainings, their hours, and both answers. None before every round is there."""
    if not ROWS.is_file():
        return None
    results = read_results([ROWS], None)
    group = groups(results.rows, results.planned, values_from(results.predictions_of))[0]
    raced = replayed(group, "memory")
    settings, race = raced.settings, raced.race
    if len(settings) < IN_RACE or any(len(one.values) != ROUNDS for one in settings):
        return None
    whole, gain = Race(len(settings), race.margin), group.scoring.gain(1.0)
    rounds = [[gain * one.values[number] for one in settings] for number in range(ROUNDS)]
    whole.rounds += rounds[:-1]
    whole.add(rounds[-1])
    name, rows = [one.label for one in settings], [row for one in settings for row in one.rows]
    ran = [row for i, one in enumerate(settings) for row in one.rows
           if row.seed < race.left.get(i, len(race.rounds))]  # fmt: skip

    def answer(race):
        pick = None if race.shown is None else name[race.shown]
        return {"pick": pick, "may_be_best": [name[i] for i in sorted(race.best)],
                "may_be_picked": [name[i] for i in sorted(race.picks)]}  # fmt: skip

    return {
        "settings": len(name), "rounds": len(race.rounds),
        "trainings": [len(ran), len(rows)],
        "hours": [round(sum(row.train_s or 0 for row in some) / 3600, 2) for some in (ran, rows)],
        "race": answer(race), "all rounds": answer(whole),
    }  # fmt: skip


@click.command(help=__doc__)
@click.option("--folder", default="runs/replay", type=click.Path(path_type=Path))
@click.option("--races", default=1000, show_default=True, help="Replayed races of a task.")
@click.option("--figures", "only_figures", is_flag=True, help="Only replay what is committed.")
def main(folder, races, only_figures):
    if not only_figures:
        folder.mkdir(parents=True, exist_ok=True)
        for task in TASKS:
            train(task, folder)
        race(folder)
    replays = {task: figures(own, races) for task, own in right_answers().items()}
    write_json(REPLAY, {"replay": replays, "real": race_figures()})
    rewrite(PAGE, page, read_figures())


if __name__ == "__main__":
    main()
