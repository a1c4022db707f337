"""Default learning rates: what they lose against rates that are tuned for each setting and task."""

import csv
import random
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.plan.gridfile import Rates
from bench.results.outcomes import Outcome, outcomes_file
from bench.results.predictions import keep_outcomes, kept_predictions
from bench.results.rowfile import read_rows
from bench.results.scores import numbers
from bench.stats.intervals import mean_t
from minbert.data.tasks import load_data
from tests.experiments.pages import DOCS, with_tables

ROWS = DOCS / "rates.csv"
PAGE = DOCS / "rates.md"
TASKS = ("movies", "nyt", "sts", "amazon", "tweets")
FEW_TASKS, FEW_BY = TASKS[:2], ("max_train", "mode", "batch_size", "contrastive")
DEV = 2500
BASIS = {"full": 1e-4, "adapter": 1e-3, "base": 1e-4, "head": 1e-3}
"""The rates whose multiples by powers of √10 are measured."""


def _cells(modes, rank=None, layers=("all-lin-only",), more=""):
    adapters = "" if rank is None else f"rank = [{rank}]\nlayers = {list(layers)}\n"
    return f'[[cells]]\nmode = {list(modes)}\namp = ["on"]\n{adapters}{more}'


_FULL = _cells(["full"])
_LORA = {rank: _cells(["lora"], rank) for rank in (1, 8, 64)}
_BOTH = ("attn", "all-lin-only")
_USUAL = (FEW_TASKS, (0.0, 0.5, 1.0))

GRIDS = {
    "encoder": ("", _FULL + _cells(["lora", "dora"], 8, _BOTH), TASKS, (0.0, 0.5, 1.0, 1.5)),
    "head": ("", _cells(["head"]), TASKS, (1.0, 2.0, 3.0)),
    "defaults": ("", _cells(["lora"], 8, _BOTH), TASKS, (None,)),
    "rank1": ("", _LORA[1], *_USUAL),
    "rank64": ("", _LORA[64], *_USUAL),
    "rank1-alpha2": ("alpha = 2.0\n", _LORA[1], *_USUAL),
    "rank64-alpha128": ("alpha = 128.0\n", _LORA[64], *_USUAL),
    "rank64-rslora": ("", _LORA[64] + "settings.use_rslora = true\n", *_USUAL),
    "batch16": ("batch_size = 16\n", _FULL + _LORA[8], *_USUAL),
    "batch256": ("batch_size = 256\n", _FULL + _LORA[8], *_USUAL),
}
"""Settings that are measured together: values that they share, their cells, on which tasks and at
which rates, as exponents of √10; None: at the defaults."""


def write_examples(task, data, folder, dev=DEV):
    """Write 2,000 examples to train on and others to score; None: all others."""
    head, train, others = divided(load_data(task, data if task == "sts" else None), 2000)
    for part, rows in {"train": train, "dev": others[:dev]}.items():
        write_rows(folder / f"{task}-{part}.csv", [head, *rows])


def write_rows(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def divided(data, size):
    """A header, so many of the rows of train and dev, which are texts and a label, and the others,
    the same ones each time. What belongs together, such as equal texts, is in one part."""
    classes, rows = data.task.classes, defaultdict(list)
    for examples in (data.train, data.dev):
        for n, key in enumerate(examples.keys()):
            label = examples.labels[n]
            named = classes[int(label)] if classes else float(label)
            rows[key].append([*(column[n] for column in examples.columns), named])
    keys = sorted(rows)
    random.Random(0).shuffle(keys)  # noqa: S311
    some, others = [], []
    for key in keys:
        (some if len(some) < size else others).extend(rows[key])
    texts = ["text"] if len(some[0]) == 2 else ["a", "b"]
    return [*texts, "label"], some[:size], others


def run_grid(folder, name, task, exponent):
    """Train what has no row yet of a grid, at rates of a power of √10 times the basis."""
    shared, cells, _, _ = GRIDS[name]
    path = folder / f"{name}{'' if exponent is None else f'{exponent:+g}'}.toml"
    given = [] if exponent is None else BASIS.items()
    shown = "".join(f"{group} = {rate * 10 ** (exponent / 2):.3g}\n" for group, rate in given)
    settings = f'about = "rates"\n[settings]\nepochs = 3\nseeds = 1\n{shared}'
    path.write_text(f"{settings}[settings.learning_rates]\n{shown}{cells}", "utf-8")
    files = (folder / f"{task}-train.csv", folder / f"{task}-dev.csv")
    pair = ("--text", "a", "--text-pair", "b") if task == "sts" else ()
    words = (
        "--grid", path, "--task", f"r-{task}", "--data", files[0], "--validation", files[1], *pair,
        "--runs", folder / "rates.csv", "--reports", folder / "reports", "--jobs", "2",
    )  # fmt: skip
    subprocess.run([sys.executable, "-m", "bench.grid", *map(str, words)], check=False)


@dataclass(frozen=True, eq=False)
class Curve:
    """Scores of one setting on one task, in points, by the exponent of its rates."""

    task: str
    name: str
    exponents: np.ndarray
    scores: np.ndarray  # on all scored examples [N]
    halves: np.ndarray  # on each half of them [N, 2]
    default: np.ndarray | None = None
    """At the defaults, on all and on each half [3]; None where the curve has them."""

    def best(self, scores):
        """The best exponent by scores [N], on the parabola through the three around the largest."""
        middle = int(np.clip(np.argmax(scores), 1, len(scores) - 2))
        x, y = (of[middle - 1 : middle + 2] for of in (self.exponents, scores))
        curve = np.polynomial.Polynomial.fit(x, y, 2).convert()
        if curve.coef[-1] >= 0:
            return float(x[np.argmax(y)])
        return float(np.clip(curve.deriv().roots()[0], x[0], x[-1]))

    def at(self, exponent, scores):
        """Scores [N] between exponents, on the parabola through the three nearest."""
        nearest = np.sort(np.argsort(np.abs(self.exponents - exponent), kind="stable")[:3])
        x, y = self.exponents[nearest], scores[nearest]
        return float(np.polynomial.Polynomial.fit(x, y, 2)(exponent))

    @property
    def optimum(self):
        return self.best(self.scores)

    @property
    def at_edge(self):
        """Whether the best of the measured rates has a neighbour on one side alone."""
        return int(np.argmax(self.scores)) in (0, len(self.scores) - 1)

    def regret(self, exponent):
        """How many points rates lose on each half against those that the other half chooses."""
        losses = []
        for chooses, scores in ((0, 1), (1, 0)):
            tuned = self.best(self.halves[:, chooses])
            own = self.halves[:, scores]
            known = self.at(exponent, own) if self.default is None else self.default[1 + scores]
            losses.append(self.at(tuned, own) - float(known))
        return float(np.mean(losses))


def curves(runs):
    outcomes, points, defaults = kept_predictions(runs), defaultdict(list), {}
    for row in read_rows(runs):
        if row.status == "ok" and (parts := outcomes([row])):
            key = (row.task or "").removeprefix("r-"), label(row)
            labels, predicted = parts[""].labels, parts[""].predicted
            scores = []  # on all examples, and on those of even and odd number
            for part in (slice(None), slice(0, None, 2), slice(1, None, 2)):
                some = Outcome(predicted[part], None if labels is None else labels[part], "")
                scores.append(100 * numbers(row.dev_metric, some).mean())
            if row.mode in ("full", "head") or row.learning_rate_head == row.learning_rate:
                group = group_of(row.mode)
                rate = row.learning_rate_head if group == "head" else row.learning_rate
                points[key].append((round(2 * float(np.log10(rate / BASIS[group])), 1), scores))
            else:
                defaults[key] = scores
    every = []
    for key, own in points.items():
        if len(own) >= 3:
            pairs = zip(*sorted(own, key=lambda point: point[0]), strict=True)
            exponents, scores = map(np.array, pairs)
            every.append(Curve(*key, exponents, scores[:, 0], scores[:, 1:], defaults.get(key)))
    return every


def label(row):
    words = (
        row.mode, row.layers, row.rank and f"rank {row.rank}",
        row.alpha not in (None, 16.0) and f"alpha {row.alpha:g}",
        row.use_rslora == "on" and "rsLoRA",
        row.batch_size != 64 and f"batch {row.batch_size}",
    )  # fmt: skip
    return ", ".join(word for word in words if word)


MAIN_NAMES = ("full", "head", *(f"{mode}, {layers}, rank 8" for mode in ("lora", "dora")
                     for layers in _BOTH))  # fmt: skip
_RANK_8 = "lora, all-lin-only, rank 8"


def group_of(name):
    """The group of parameters by whose rate those of a setting are named."""
    mode = name.partition(",")[0]
    return mode if mode in ("full", "head") else "adapter"


def rate_of(name, exponent):
    return f"{BASIS[group_of(name)] * 10 ** (exponent / 2):.1e}".replace("e-0", "e-")


def default_of(name):
    group = group_of(name)
    return 2 * float(np.log10(getattr(Rates(), group) / BASIS[group]))


def regrets(every, exponent):
    """The regret in points of the exponent that a function has of a curve, by setting and task."""
    losses = defaultdict(dict)
    for curve in every:
        if (chosen := exponent(curve)) is not None:
            losses[curve.name][curve.task] = curve.regret(chosen)
    return dict(losses)


def chosen_elsewhere(every):
    """The regret on each task of the exponents that lose least on the other tasks."""

    def best(curve):
        same = [one for one in every if one.name == curve.name and one is not curve]
        tried = [at for at in curve.exponents if all(at in one.exponents for one in same)]
        if curve.name in MAIN_NAMES and same and tried:
            return min(tried, key=lambda at: sum(one.regret(at) for one in same))
        return None

    return regrets(every, best)


def at_shared_rates(every):
    """How many points ranks 1 and 64 lose on each task at the rates that are best for rank 8."""
    best = {curve.task: curve.optimum for curve in every if curve.name == _RANK_8}
    names = [_RANK_8.replace("rank 8", f"rank {rank}") for rank in (1, 64)]
    return regrets(every, lambda curve: best[curve.task] if curve.name in names else None)


def mean_regret(losses):
    """The mean over settings, and its interval by Student's t over tasks."""
    tasks = sorted({task for own in losses.values() for task in own})
    return mean_t([float(np.mean([own[t] for own in losses.values() if t in own])) for t in tasks])


def keep_rows(runs, to):
    keep_outcomes(runs, read_rows(runs))
    copy_rows(runs, to)


def copy_rows(runs, to):
    """Copy rows, where there are any, and the outcomes beside them."""
    for path, copy in ((runs, to), (outcomes_file(runs), outcomes_file(to))):
        if path.is_file():
            copy.write_bytes(path.read_bytes())


def page(text, every):
    def curve(name, task):
        return next((one for one in every if (one.name, one.task) == (name, task)), None)

    few = pd.read_csv(DOCS / "few-examples.csv")
    names = list(dict.fromkeys(one.name for one in every))
    defaults = {name: default_of(name) for name in names}
    main = {name: defaults[name] for name in MAIN_NAMES if name in defaults}
    return with_tables(
        text, __file__, curve=curve, tasks=TASKS, few=FEW_TASKS, main=main,
        few_examples=few.pivot_table("dev_score", [*FEW_BY], "task"),
        others=[name for name in names if name not in main], default_of=default_of,
        regrets=regrets(every, lambda one: defaults[one.name]), shared=at_shared_rates(every),
        all=mean_regret(regrets(every, lambda one: main.get(one.name))),
        blind=mean_regret(chosen_elsewhere(every)), rate_of=rate_of,
        all_of=lambda of: [v for own in of.values() for v in own.values()],
        mean=lambda values: float(np.mean([*values])),
        points=lambda value: f"{value:.2f}".replace("-", "−"),
    )  # fmt: skip
