"""How often the rule of bench.recommend is right, on data of known truth."""

from dataclasses import replace
from functools import cache

import numpy as np

from bench.analysis.recommendation import Candidates, recommend
from bench.grid.inputs import shown_size
from bench.stats.best import compare_all, excluded_rate
from bench.stats.intervals import POWER_Z
from tests.experiments.decisions.worlds import MARGIN, TRAININGS, Resampled, beyond, worlds
from tests.experiments.pages import DOCS, read_json, with_tables

FIGURES = DOCS / "decisions.json"
PAGE = DOCS / "deciding.md"


def decide(world, rng):
    truth, samples, loss = world.draw(rng)
    compared = compare_all(samples)
    known = Candidates(world.group, world.group.settings, tuple(samples), compared, MARGIN)
    decision, at_loss = recommend(known), recommend(replace(known, margin=loss))
    regret = truth.max() - truth
    tuned = [i for i, setting in enumerate(known.settings) if setting.mode != "head"]
    sizes = ((compared.quantiles + POWER_Z) * compared.error)[np.ix_(tuned, tuned)]
    outcome = {
        "decided": float(decision.decided),
        "wrong": float(any(regret[i] >= loss - 1e-9 for i in at_loss.shown)),
        "detectable": float(np.median(sizes[~np.eye(len(tuned), dtype=bool)]) <= MARGIN),
    }
    pick, best = decision.pick, decision.reference
    if decision.decided and pick is not None and best is not None:
        outcome["regret"] = regret[pick]
        if world.quotes and decision.cross_fitted_score is not None:
            outcome["quoted"] = decision.cross_fitted_score - truth[pick]
            outcome["plain"] = known.scores[pick] - truth[pick]
            outcome["best"] = known.scores[best] - truth[best]
    seeds = max(len(sample.scores) for sample in samples)
    size = shown_size(known.examples or 1, seeds, len(samples))
    near = np.abs((truth[:, None] - truth) / size - 1) < 0.1
    near &= compared.seeds == seeds
    if known.examples and near.any():
        outcome["power"] = float((compared.lower[near] > 0).mean())
    return outcome


def measure(world, runs):
    """The figures of one scenario over a number of data sets, the same ones each time."""
    outcomes = [decide(world, np.random.default_rng(n)) for n in range(runs)]

    def values(name, among=outcomes):
        return [float(outcome[name]) for outcome in among if name in outcome]

    def mean(numbers):
        return round(float(np.mean(numbers)), 5) if numbers else None

    regret = values("regret") or [0.0]
    detectable = [outcome for outcome in outcomes if outcome["detectable"]]
    return {
        "name": world.name,
        "trainings": 3 if isinstance(world, Resampled) else min(world.seeds),
        "decided": mean(values("decided")), "wrong": mean(values("wrong")),
        "regret_95": round(float(np.quantile(regret, 0.95)), 4),
        "regret_most": round(max(regret), 4), "detectable": len(detectable),
        "decided_if_detectable": mean(values("decided", detectable)),
        **{name: mean(values(name)) for name in ("quoted", "plain", "best", "power")},
    }  # fmt: skip


@cache
def every_world():
    return (*worlds(), *beyond())


def measure_number(number, runs):
    """The figures of a scenario by its number, as not all can be sent to another process."""
    return measure(every_world()[number], runs)


def calls(runs):
    return [(measure_number, number, runs) for number in range(len(every_world()))]


def parts(scenarios):
    promised = len(worlds())
    return {"scenarios": scenarios[:promised], "beyond": scenarios[promised:]}


def variances(known):
    """The variances of `bench.grid.inputs`: over examples and between seeds, times the number
    of examples, of a difference; medians over pairs of settings with three seeds."""
    compared = known.comparison
    pairs = np.triu(compared.seeds == 3, 1)
    each = (compared.of_examples, compared.of_seed)
    return [float(np.median(of[pairs])) * known.examples for of in each]


def page(text, figures):
    rates = {}
    for one in figures["beyond"]:
        rates.setdefault(one["name"], {})[one["trainings"]] = one["wrong"]
    return with_tables(
        text, __file__, scenarios=figures["scenarios"], beyond=rates,
        trainings=TRAININGS, excluded_rate=excluded_rate,
    )  # fmt: skip


def read_figures():
    return read_json(FIGURES)
