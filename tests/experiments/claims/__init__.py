"""How often the verdicts on docs/claims.toml are wrong, and how often a true claim is supported, on
data of known truth: `python -m tests.experiments.claims --help`"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.analysis.claims import Estimate, Verdict, judge, over_tasks
from bench.analysis.scorepairs import ScorePair
from bench.grid.inputs import OF_EXAMPLES, OF_SEEDS
from bench.plan.claimsfile import SCORE, load
from bench.plan.metrics import metric_of
from bench.report.claims import levels, measured, reason
from bench.stats.comparing import mean_of_settings, sample_means
from tests.experiments.pages import DOCS, with_tables

CLAIMS = DOCS / "claims.toml"
FIGURES = DOCS / "claims.json"
PAGES = (DOCS / "paper.md", DOCS / "claims.md")

FOLDS = 5
ACCURACY = metric_of("accuracy")
EXAMPLES = {
    "movies": 1516, "amazon": 542, "nyt": 754, "tweets": 601,  # of a fold of a race
    "claims-movies": 7512, "sst": 1101, "sts": 863,
}  # fmt: skip
_MOST = 2000  # examples that are drawn; of a task with more, each is as variable as several
_SCATTER = 0.07  # std of a process's time or memory


@dataclass(frozen=True)
class World:
    name: str
    difference: float | None = None  # of scores, in points; None: it is the margin
    ratio: float = 1.0  # of costs to their margin
    first: float | None = None  # the difference of the first claim, where it is another one
    by_seed: tuple = (0.002, 0.002)
    """Std between seeds beside what examples contribute, of a claim's first task and of others."""
    collapse: tuple = (0.0, 0.0)
    """How much less NEW scores in which rate of trainings on the first task."""
    promised: bool = True  # whether the promise of 5% covers it


UNSTABLE = (0.025, 0.002)
WORLDS = (
    World("all at the margin, stable tasks"),
    World("all at the margin, one task varies by 2.5 points", by_seed=UNSTABLE),
    World("all at the margin, one task varies by 1 point", by_seed=(0.01, 0.002)),
    World("all at the margin, all tasks vary by 2.5 points", by_seed=(0.025, 0.025)),
    World("rank-1 at the margin, the others true", 0, 0.8, -1),
    World("rank-1 at the margin, the others true, one task varies by 2.5 points", 0, 0.8, -1,
          by_seed=UNSTABLE),
    World("all at the margin, one task loses 10 points in 20% of trainings",
          collapse=(0.1, 0.2), promised=False),
    World("no difference, stable tasks", 0, 0.8),
    World("no difference, one task varies by 2.5 points", 0, 0.8, by_seed=UNSTABLE),
    World("no difference, all tasks vary by 2.5 points", 0, 0.8, by_seed=(0.025, 0.025)),
    World("0.5 points worse, stable tasks", -0.5, 0.9),
    World("0.5 points worse, one task varies by 2.5 points", -0.5, 0.9, by_seed=UNSTABLE),
    World("3 points worse, stable tasks", -3, 1.25),
    World("3 points worse, one task varies by 2.5 points", -3, 1.25, by_seed=UNSTABLE),
)  # fmt: skip


def drawn(world, claim, truth, rng):
    """An estimate as the rows of a claim would give it."""
    if claim.column != SCORE:
        logs = math.log(truth * claim.limit) + math.sqrt(2) * _SCATTER * rng.normal(size=8)
        one = sample_means(logs, np.zeros(8, dtype=np.int64), 1, 0.0)
        mean = mean_of_settings(one, np.zeros(1, dtype=np.int64))
        value, error, freedom = (float(of[0]) for of in (mean.value, mean.error, mean.freedom))
        return Estimate(value, error, freedom, math.log(claim.limit))
    center, is_race, pairs = truth / 100, "race" in claim.rows, []
    for place, task in enumerate(claim.tasks):
        loss, rate = world.collapse if place == 0 else (0.0, 0.0)
        std, size = world.by_seed[min(place, 1)], EXAMPLES[task]
        shape = (FOLDS, claim.pairs // FOLDS) if is_race else (claim.pairs, 1)
        collapses = rng.random(shape) < rate
        trainings = loss * (rate - collapses) + std * rng.normal(size=shape)
        if is_race:
            seeds = trainings + math.sqrt(OF_SEEDS / size) * rng.normal(size=shape)
            folds = center + seeds.mean(axis=1)
            folds = folds + math.sqrt(OF_EXAMPLES / size) * rng.normal(size=FOLDS)
            differences, values = dict(enumerate(folds.tolist())), {}
        else:
            count = min(size, _MOST)
            scale = count / size
            every = trainings + center
            every = every + math.sqrt(OF_EXAMPLES * scale) * rng.normal(size=count)
            every = every + math.sqrt(OF_SEEDS * scale) * rng.normal(size=(claim.pairs, count))
            values = dict(enumerate(every))
            differences = {seed: float(own.mean()) for seed, own in values.items()}
        number = len(differences), len(differences)
        pairs.append((task, ScorePair(
            0.0, ACCURACY, 0.6, 0.6, number, differences=differences, values=values
        )))  # fmt: skip
    return over_tasks(claim, pairs)


def measure(world, runs):
    """The rates of verdicts over a number of draws, the same ones each time."""
    claims = [claim for claim in load(CLAIMS) if claim.primary]
    truths, gaps = [], []
    for claim in claims:
        truth = claim.limit if world.difference is None else world.difference
        if not truths and world.first is not None:
            truth = world.first
        is_score = claim.column == SCORE
        truths.append(truth if is_score else world.ratio)
        gaps.append(truth - claim.limit if is_score else 1 - world.ratio)
    wrong, counts = 0, {verdict: np.zeros(len(claims)) for verdict in Verdict}
    for number in range(runs):
        rng = np.random.default_rng(number)
        estimates = [drawn(world, c, t, rng) for c, t in zip(claims, truths, strict=True)]
        judged = judge(claims, estimates)
        for i, one in enumerate(judged):
            counts[one.verdict][i] += 1
        wrong += any(
            (one.verdict is Verdict.SUPPORTED and gap <= 0)
            or (one.verdict is Verdict.REFUTED and gap >= 0)
            for one, gap in zip(judged, gaps, strict=True)
        )
    ids = [claim.id for claim in claims]
    rates = {
        str(verdict): dict(zip(ids, (counts[verdict] / runs).round(4).tolist(), strict=True))
        for verdict in Verdict if verdict is not Verdict.UNDECIDED
    }  # fmt: skip
    return {
        "name": world.name, "runs": runs, "promised": world.promised,
        "wrong": round(wrong / runs, 5), **rates,
    }  # fmt: skip


def page(text, figures, judged):
    rows = [(one, measured(one), reason(one)) for one in judged]
    ranks = pd.read_csv(DOCS / "claims-ranks.csv")
    ranks = ranks.pivot_table(["train_score", "dev_score"], "rank", "task").round(3)  # over seeds
    return with_tables(
        text, __file__, figures=figures, rows=rows, levels=levels(judged), ranks=ranks
    )
