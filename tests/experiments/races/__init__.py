"""Races of known truth: how often they are wrong, how often decided, and what they save."""

import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from bench.stats.best import ROUNDS, Race
from tests.experiments.pages import DOCS, read_json, with_tables

MARGIN = 0.02
BEST = 0.62
FIGURES = DOCS / "races.json"
REPLAY = DOCS / "replay.json"
PAGE = DOCS / "racing.md"
_OWN = np.float32(0.27)
"""The std of the part of a setting on an example, in one training; that of its difficulty is 1. Two
settings then differ on as many examples as those of the replay do."""


@dataclass(frozen=True)
class World:
    """Settings, the cheapest first, that are right on an example where a sum of normal parts is
    positive. What all rounds of a setting share, training on all examples has not."""

    name: str
    losses: tuple = ()  # how much worse than the best each is; none: drawn up to the margin
    settings: int = 18
    bad: tuple = ()  # settings, drawn anew in each race, that lose so much more
    examples: int = 360  # of a round
    by_seed: tuple = (0.006,)  # stds between trainings beside the examples' part; the last repeats
    shared: float = 0.0  # std of what all rounds of a setting have in common
    collapse: tuple = (0.0, 0.0)  # how much lower the cheapest scores in which rate of trainings
    promised: bool = True  # whether the promise of 5% covers it

    @cached_property
    def count(self):
        return len(self.losses) or self.settings

    def truth(self, rng):
        losses = np.array(self.losses or rng.uniform(0, MARGIN, self.count), dtype=float)
        if self.bad:
            losses[rng.permutation(self.count)[: len(self.bad)]] += self.bad
        return np.asarray(BEST - losses)

    def rounds(self, truth, rng):
        """Whether each setting is right on each example of each round [K, N]."""
        by_seed = np.resize(self.by_seed, self.count)
        by_seed[len(self.by_seed) :] = self.by_seed[-1]
        loss, rate = self.collapse
        usual = truth + self.shared * rng.normal(size=self.count)
        usual[0] += loss * rate
        made = []
        for _ in range(ROUNDS):
            score = usual.copy()
            score[0] -= loss * (rng.random() < rate)
            density = np.exp(-(ndtri(score) ** 2) / 2) / np.sqrt(2 * np.pi)
            ratio = (by_seed / density) ** 2
            variance = 1 + _OWN**2
            of_seed = np.sqrt(variance * ratio / (1 - ratio))
            latent = (ndtri(score) * np.sqrt(variance + of_seed**2))[:, None]
            latent = latent + rng.standard_normal(self.examples, dtype=np.float32)
            latent += _OWN * rng.standard_normal((self.count, self.examples), dtype=np.float32)
            latent += (of_seed * rng.normal(size=self.count))[:, None]
            made.append((latent > 0).astype(float))
        return made


def raced(rounds):
    """The race of settings with some numbers in each round, and how many trainings it takes."""
    race, trainings = Race(len(rounds[0]), MARGIN), 0
    for values in rounds:
        live = race.live
        trainings += len(live)
        race.add([own if i in live else None for i, own in enumerate(values)])
        if race.is_over:
            break
    return race, trainings


def run(world, number):
    rng = np.random.default_rng(number)
    truth = world.truth(rng)
    rounds = world.rounds(truth, rng)
    race, trainings = raced(rounds)
    lost = truth.max() - truth
    is_wrong = race.shown is not None and lost[race.shown] >= MARGIN - 1e-9
    is_dropped = not race.best & {*np.flatnonzero(lost < 1e-9)}
    means = np.array([values.mean(axis=1) for values in rounds])
    return {
        "wrong": float(is_wrong or is_dropped), "dropped": float(is_dropped),
        "decided": float(race.shown is not None),
        "regret": np.nan if race.shown is None else lost[race.shown],
        "trainings": trainings / (ROUNDS * world.count),
        "halving": lost[_halved(means, trainings)],
        "all_linear": lost[world.count // 2],
    }  # fmt: skip


def _halved(means, trainings):
    """The pick of successive halving by scores [R, K], with as many trainings."""
    left, spent, rounds = np.arange(means.shape[1]), 0, 0
    while rounds < len(means) and (spent + len(left) <= trainings or not rounds):
        spent, rounds = spent + len(left), rounds + 1
        order = np.argsort(-means[:rounds, left].mean(axis=0), kind="stable")
        left = left[order[: max(1, -(-len(left) // 2))]]
    return int(left[0])


def worlds():
    tables = tomllib.loads(Path(__file__).with_name("worlds.toml").read_text("utf-8"))["worlds"]
    return [World(**table) for table in tables]


def measure(world, runs):
    races = [run(world, i) for i in range(runs)]
    values = {name: np.array([race[name] for race in races], dtype=float) for name in races[0]}
    regret = values["regret"][np.isfinite(values["regret"])]
    return {
        "name": world.name, "promised": world.promised,
        **{name: round(float(values[name].mean()), 5)
           for name in ("wrong", "dropped", "decided", "halving", "all_linear")},
        "trainings": round(float(np.median(values["trainings"])), 4),
        "regret": round(float(regret.mean()), 5) if len(regret) else None,
    }  # fmt: skip


def calls(runs):
    return [(measure, world, runs) for world in worlds()]


def parts(scenarios):
    return {"scenarios": scenarios}


def page(text, figures):
    return with_tables(text, __file__, **figures)


def read_figures():
    every = {"replay": None, "real": None}
    for path in filter(Path.is_file, (FIGURES, REPLAY)):
        every |= read_json(path)
    return every
