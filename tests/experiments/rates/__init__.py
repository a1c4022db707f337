"""Default learning rates: what they lose against rates that are tuned for each setting and task.

`python -m tests.experiments.rates --help`
"""

import csv
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.plan.gridfile import Rates
from bench.plan.rows import Row
from bench.results.outcomes import Outcome, outcomes_file
from bench.results.predictions import keep_outcomes, kept_predictions
from bench.results.rowfile import read_rows
from bench.results.scores import numbers
from bench.stats.intervals import Interval, mean_t
from minbert.data.tasks import Data, TaskData, load_data
from tests.experiments.pages import with_tables

_DOCS: Final = Path(__file__).parents[3] / "docs"
ROWS: Final = _DOCS / "rates.csv"
PAGE: Final = _DOCS / "rates.md"
TASKS: Final = ("movies", "nyt", "sts", "amazon", "tweets")
FEW_TASKS: Final = TASKS[:2]
TRAIN: Final = 2000
DEV: Final = 2500
BASIS: Final = {"full": 1e-4, "adapter": 1e-3, "base": 1e-4, "head": 1e-3}
"""The rates whose multiples by powers of √10 are measured."""
_LORA: Final = 'mode = ["lora"]\nlayers = ["all-lin-only"]\n'
_FULL: Final = '[[cells]]\nmode = ["full"]\namp = ["on"]\n'
Floats = NDArray[np.float64]


def _lora(rank: int, more: str = "") -> str:
    return f'[[cells]]\n{_LORA}rank = [{rank}]\namp = ["on"]\n{more}'


_HEAD: Final = '[[cells]]\nmode = ["head"]\namp = ["on"]\n'
_ADAPTERS: Final = """[[cells]]
mode = ["lora", "dora"]
rank = [8]
layers = ["attn", "all-lin-only"]
amp = ["on"]
"""


@dataclass(frozen=True)
class Some:
    """Settings that are measured together: their cells, the values that these share, on which tasks
    and at which rates, as exponents of √10; None: at the defaults."""

    cells: str
    shared: str = ""
    tasks: Sequence[str] = FEW_TASKS
    exponents: Sequence[float | None] = (0.0, 0.5, 1.0)


GRIDS: Final = {
    "encoder": Some(_FULL + _ADAPTERS, tasks=TASKS, exponents=(0.0, 0.5, 1.0, 1.5)),
    "head": Some(_HEAD, tasks=TASKS, exponents=(1.0, 2.0, 3.0)),
    "defaults": Some(_lora(8).replace('["all', '["attn", "all'), tasks=TASKS, exponents=(None,)),
    "rank1": Some(_lora(1)),
    "rank64": Some(_lora(64)),
    "rank1-alpha2": Some(_lora(1), "alpha = 2.0\n"),
    "rank64-alpha128": Some(_lora(64), "alpha = 128.0\n"),
    "rank64-rslora": Some(_lora(64, "settings.use_rslora = true\n")),
    "batch16": Some(_FULL + _lora(8), "batch_size = 16\n"),
    "batch256": Some(_FULL + _lora(8), "batch_size = 256\n"),
}


def write_examples(task: str, data: Path, folder: Path, dev: int | None = DEV) -> None:
    """Write 2,000 training examples of a task, and so many others to score (None: all), as CSV
    files. Equal texts stay together."""
    rows = grouped_rows(load_data(task, data if task == "sts" else None))
    keys = sorted(rows)
    random.Random(0).shuffle(keys)  # noqa: S311
    parts: dict[str, list[list[object]]] = {"train": [], "dev": []}
    for key in keys:
        parts["train" if len(parts["train"]) < TRAIN else "dev"] += rows[key]
    names = ["text"] if len(parts["train"][0]) == 2 else ["a", "b"]
    for part, most in {"train": TRAIN, "dev": dev}.items():
        with (folder / f"{task}-{part}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([[*names, "label"], *parts[part][:most]])


def grouped_rows(data: Data) -> dict[str, list[list[object]]]:
    """The rows of train and dev, texts and a label each, by the key of what belongs together."""
    assert isinstance(data, TaskData)
    classes, rows = data.task.classes, defaultdict[str, list[list[object]]](list)
    for examples in (data.train, data.dev):
        for n, key in enumerate(examples.keys()):
            label = examples.labels[n]
            named = classes[int(label)] if classes else float(label)
            rows[key].append([*(column[n] for column in examples.columns), named])
    return rows


def write_grid(path: Path, some: Some, exponent: float | None) -> None:
    """Write the grid of some settings at rates that are a power of √10 times the basis."""
    rates = "".join(f"{name} = {rate:.3g}\n" for name, rate in _rates(exponent).items())
    settings = f'about = "rates"\n[settings]\nepochs = 3\nseeds = 1\n{some.shared}'
    path.write_text(f"{settings}[settings.learning_rates]\n{rates}{some.cells}", encoding="utf-8")


def _rates(exponent: float | None) -> dict[str, float]:
    if exponent is None:
        return Rates().model_dump()
    return {name: rate * 10 ** (exponent / 2) for name, rate in BASIS.items()}


def run_grid(folder: Path, name: str, task: str, exponent: float | None) -> None:
    """Train the settings of a grid that have no row yet."""
    grid = folder / (name + ("" if exponent is None else f"{exponent:+g}") + ".toml")
    write_grid(grid, GRIDS[name], exponent)
    data = ["--data", str(folder / f"{task}-train.csv")]
    data += ["--validation", str(folder / f"{task}-dev.csv")]
    pair = ["--text", "a", "--text-pair", "b"] if task == "sts" else []
    places = ["--runs", str(folder / "rates.csv"), "--reports", str(folder / "reports")]
    command = [sys.executable, "-m", "bench.grid", "--grid", str(grid), "--task", f"r-{task}"]
    subprocess.run([*command, *data, *pair, *places, "--jobs", "2"], check=False)


@dataclass(frozen=True, eq=False)
class Curve:
    """Scores of one setting on one task, in points, by the exponent of its rates.

    Attributes:
        scores: on all scored examples [N].
        halves: on each half of them [N, 2].
        default: at the defaults, on all and on each half [3]; None where the head's rate is the
            same multiple there, so that the curve has it.
    """

    task: str
    name: str
    exponents: Floats
    scores: Floats
    halves: Floats
    default: Floats | None = None

    def best(self, scores: Floats) -> float:
        """The exponent with the best of some scores [N] on the parabola through the three of them
        around the largest; within these three."""
        at = self._around(scores)
        x, y = self.exponents[at], scores[at]
        curve = np.polynomial.Polynomial.fit(x, y, 2).convert()
        if curve.coef[-1] >= 0:
            return float(x[np.argmax(y)])
        return float(np.clip(curve.deriv().roots()[0], x[0], x[-1]))

    def at(self, exponent: float, scores: Floats) -> float:
        """Scores [N] between exponents, on the parabola through the three nearest."""
        nearest = np.sort(np.argsort(np.abs(self.exponents - exponent), kind="stable")[:3])
        x, y = self.exponents[nearest], scores[nearest]
        return float(np.polynomial.Polynomial.fit(x, y, 2)(exponent))

    def _around(self, scores: Floats) -> slice:
        middle = int(np.clip(np.argmax(scores), 1, len(scores) - 2))
        return slice(middle - 1, middle + 2)

    @property
    def optimum(self) -> float:
        return self.best(self.scores)

    @property
    def at_edge(self) -> bool:
        """Whether the best of the measured rates has a neighbour on one side alone."""
        return int(np.argmax(self.scores)) in (0, len(self.scores) - 1)

    def regret(self, exponent: float) -> float:
        """How many points rates lose against those that one half of the examples chooses, on the
        other half; the mean of both directions."""
        losses = []
        for chooses, scores in ((0, 1), (1, 0)):
            tuned = self.best(self.halves[:, chooses])
            own = self.halves[:, scores]
            known = self.at(exponent, own) if self.default is None else self.default[1 + scores]
            losses.append(self.at(tuned, own) - float(known))
        return float(np.mean(losses))


def curves(runs: Path) -> list[Curve]:
    """The curves of a CSV, those of at least three rates."""
    outcomes = kept_predictions(runs)
    found = defaultdict[tuple[str, str], list[tuple[float, Floats]]](list)
    defaults: dict[tuple[str, str], Floats] = {}
    for row in read_rows(runs):
        if row.status == "ok" and (parts := outcomes([row])):
            key = (row.task or "").removeprefix("r-"), label(row)
            scores, exponent = 100 * _halves(row, parts[""]), exponent_of(row)
            if row.mode in ("full", "head") or row.learning_rate_head == row.learning_rate:
                found[key].append((exponent, scores))
            else:
                defaults[key] = scores
    every = []
    for (task, name), points in found.items():
        points.sort(key=lambda point: point[0])
        if len(points) >= 3:
            scores = np.array([one for _, one in points])
            exponents = np.array([at for at, _ in points])
            own = defaults.get((task, name))
            every.append(Curve(task, name, exponents, scores[:, 0], scores[:, 1:], own))
    return every


def _halves(row: Row, outcome: Outcome) -> Floats:
    """The score on all examples, and on those of even and odd number [3]."""
    labels = outcome.labels
    parts = [slice(None), slice(0, None, 2), slice(1, None, 2)]
    some = [Outcome(outcome.predicted[p], None if labels is None else labels[p], "") for p in parts]
    return np.array([numbers(row.dev_metric or "", one).mean() for one in some])


def exponent_of(row: Row) -> float:
    """The power of √10 that a row's rates are times the basis."""
    name = group_of(row.mode or "")
    rate = row.learning_rate_head if name == "head" else row.learning_rate
    return round(2 * float(np.log10((rate or 0.0) / BASIS[name])), 1)


def label(row: Row) -> str:
    words = [row.mode, row.layers, f"rank {row.rank}" if row.rank else None]
    words += [f"alpha {row.alpha:g}" if row.alpha not in (None, 16.0) else None]
    words += ["rsLoRA" if row.use_rslora == "on" else None]
    words += [f"batch {row.batch_size}" if row.batch_size != 64 else None]
    return ", ".join(word for word in words if word)


MAIN_NAMES: Final = ("full", "head", *(f"{mode}, {layers}, rank 8" for mode in ("lora", "dora")
                     for layers in ("attn", "all-lin-only")))  # fmt: skip


_RANK_8: Final = "lora, all-lin-only, rank 8"


def group_of(name: str) -> str:
    """The group of parameters by whose rate those of a setting are named."""
    mode = name.partition(",")[0]
    return mode if mode in ("full", "head") else "adapter"


def rate_of(name: str, exponent: float) -> str:
    return f"{BASIS[group_of(name)] * 10 ** (exponent / 2):.1e}".replace("e-0", "e-")


def default_of(name: str) -> float:
    """The exponent of the default rates of a setting."""
    group = group_of(name)
    return 2 * float(np.log10(getattr(Rates(), group) / BASIS[group]))


def regrets(every: Sequence[Curve], exponents: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The regret in points of given exponents, by setting and task."""
    found = defaultdict[str, dict[str, float]](dict)
    for curve in every:
        if curve.name in exponents:
            found[curve.name][curve.task] = curve.regret(exponents[curve.name])
    return dict(found)


def chosen_elsewhere(every: Sequence[Curve]) -> dict[str, dict[str, float]]:
    """The regret on each task of the exponents that lose least on the other tasks."""
    found = defaultdict[str, dict[str, float]](dict)
    for name in MAIN_NAMES:
        own = [curve for curve in every if curve.name == name]
        for curve in own:
            others = [one for one in own if one is not curve]
            tried = [at for at in curve.exponents if all(at in one.exponents for one in others)]
            if others and tried:
                losses = [sum(one.regret(at) for one in others) for at in tried]
                found[name][curve.task] = curve.regret(tried[int(np.argmin(losses))])
    return dict(found)


def at_shared_rates(every: Sequence[Curve]) -> dict[str, dict[str, float]]:
    """How many points ranks 1 and 64 lose on each task at the rates that are best for rank 8."""
    best = {curve.task: curve.optimum for curve in every if curve.name == _RANK_8}
    names = [_RANK_8.replace("rank 8", f"rank {rank}") for rank in (1, 64)]
    found = defaultdict[str, dict[str, float]](dict)
    for curve in every:
        if curve.name in names:
            found[curve.name][curve.task] = curve.regret(best[curve.task])
    return dict(found)


def mean_regret(found: Mapping[str, Mapping[str, float]]) -> Interval:
    """The mean over settings, and its interval by Student's t over tasks."""
    tasks = sorted({task for own in found.values() for task in own})
    return mean_t([float(np.mean([own[t] for own in found.values() if t in own])) for t in tasks])


def keep(folder: Path) -> None:
    """Keep rows and outcomes beside the page."""
    ROWS.write_bytes((folder / "rates.csv").read_bytes())
    rows = read_rows(folder / "rates.csv")
    keep_outcomes(folder / "rates.csv", rows)
    outcomes = outcomes_file(folder / "rates.csv")
    ROWS.with_name(outcomes.name).write_bytes(outcomes.read_bytes())


def page(text: str, every: Sequence[Curve]) -> str:
    def curve(name: str, task: str) -> Curve | None:
        return next((one for one in every if (one.name, one.task) == (name, task)), None)

    names = list(dict.fromkeys(one.name for one in every))
    defaults = {name: default_of(name) for name in names}
    main = {name: defaults[name] for name in MAIN_NAMES if name in defaults}
    return with_tables(
        text, Path(__file__).parent, curve=curve, tasks=TASKS, few=FEW_TASKS, main=main,
        others=[name for name in names if name not in main], default_of=default_of,
        regrets=regrets(every, defaults), shared=at_shared_rates(every),
        all=mean_regret(regrets(every, main)), blind=mean_regret(chosen_elsewhere(every)),
        rate_of=rate_of, all_of=lambda of: [v for own in of.values() for v in own.values()],
        mean=lambda values: float(np.mean([*values])),
        points=lambda value: f"{value:.2f}".replace("-", "−"),
    )  # fmt: skip
