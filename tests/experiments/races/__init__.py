"""Races of known truth: how often their answer is wrong, how often there is one, and what it saves.

Race and compare_rounds, the code under test, decide.
`python -m tests.experiments.races --help`
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from bench.stats.racing import ROUNDS, Race
from tests.experiments.pages import with_tables

Floats = NDArray[np.float64]
Figures = dict[str, Any]
MARGIN: Final = 0.02
BEST: Final = 0.62
_DOCS: Final = Path(__file__).parents[3] / "docs"
FIGURES: Final = _DOCS / "races.json"
REPLAY: Final = _DOCS / "replay.json"
PAGE: Final = _DOCS / "racing.md"
_OWN: Final = np.float32(0.27)
"""The std of the part of a setting on an example, in one training; that of its difficulty is 1. Two
settings then differ on as many examples as those of the replay do."""


@dataclass(frozen=True)
class World:
    """Settings, the cheapest first, that are right on an example where a sum of normal parts is
    positive.

    Attributes:
        losses: how much worse than the best each is; `uniform` is drawn up to the margin.
        bad: settings, drawn anew in each race, that lose so much more.
        examples: of a round.
        by_seed: std of a setting's scores between trainings beside the examples' part; the last
            repeats.
        shared: std of what all rounds of a setting have in common, and training on all examples
            has not.
        collapse: how much lower the cheapest scores in which rate of trainings.
        promised: whether the promise of 5% covers it.
    """

    name: str
    losses: Sequence[float] = ()
    settings: int = 18
    bad: Sequence[float] = ()
    examples: int = 360
    by_seed: Sequence[float] = (0.006,)
    shared: float = 0.0
    collapse: Sequence[float] = (0.0, 0.0)
    promised: bool = True

    @cached_property
    def count(self) -> int:
        return len(self.losses) or self.settings

    def truth(self, rng: np.random.Generator) -> Floats:
        losses = np.array(self.losses or rng.uniform(0, MARGIN, self.count), dtype=float)
        if self.bad:
            losses[rng.permutation(self.count)[: len(self.bad)]] += self.bad
        return np.asarray(BEST - losses)

    def rounds(self, truth: Floats, rng: np.random.Generator) -> list[Floats]:
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
            parts = 1 + _OWN**2
            of_seed = np.sqrt(parts * ratio / (1 - ratio))
            latent = (ndtri(score) * np.sqrt(parts + of_seed**2))[:, None]
            latent = latent + rng.standard_normal(self.examples, dtype=np.float32)
            latent += _OWN * rng.standard_normal((self.count, self.examples), dtype=np.float32)
            latent += (of_seed * rng.normal(size=self.count))[:, None]
            made.append((latent > 0).astype(float))
        return made


def run(world: World, number: int) -> Figures:
    """What becomes of one race, and of other ways to choose with as many trainings."""
    rng = np.random.default_rng(number)
    truth = world.truth(rng)
    rounds = world.rounds(truth, rng)
    race, trainings = Race(world.count, MARGIN), 0
    for values in rounds:
        live = race.live
        trainings += len(live)
        race.add([own if i in live else None for i, own in enumerate(values)])
        if race.is_over:
            break
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


def _halved(means: Floats, trainings: int) -> int:
    """The pick of successive halving: of [R, K] scores the best over as many trainings, where half
    of the settings go in each round."""
    left, spent, rounds = np.arange(means.shape[1]), 0, 0
    while rounds < len(means) and (spent + len(left) <= trainings or not rounds):
        spent, rounds = spent + len(left), rounds + 1
        order = np.argsort(-means[:rounds, left].mean(axis=0), kind="stable")
        left = left[order[: max(1, -(-len(left) // 2))]]
    return int(left[0])


def worlds() -> list[World]:
    """The scenarios of worlds.toml."""
    names = {field.name for field in fields(World)}
    tables = tomllib.loads(Path(__file__).with_name("worlds.toml").read_text("utf-8"))["worlds"]
    return [World(**{name: value for name, value in t.items() if name in names}) for t in tables]


def measure(number: int, runs: int) -> Figures:
    """The figures of a scenario, by its number, over as many races, the same ones each time."""
    world = worlds()[number]
    races = [run(world, i) for i in range(runs)]

    def values(name: str) -> Floats:
        every = np.array([race[name] for race in races], dtype=float)
        return every[np.isfinite(every)]

    means = {name: round(float(values(name).mean()), 5) for name in
             ("wrong", "dropped", "decided", "halving", "all_linear")}  # fmt: skip
    regret = values("regret")
    return {
        "name": world.name, "promised": world.promised, **means,
        "trainings": round(float(np.median(values("trainings"))), 4),
        "regret": round(float(regret.mean()), 5) if len(regret) else None,
    }  # fmt: skip


def page(text: str, figures: Mapping[str, Any]) -> str:
    """The text of docs/racing.md with the tables of some figures."""
    return with_tables(text, Path(__file__).parent, **figures)


def read_figures() -> Figures:
    """The committed figures: of simulated races, of replayed ones, and of a real one."""
    every: Figures = {"replay": None, "real": None}
    for path in (FIGURES, REPLAY):
        if path.is_file():
            every |= json.loads(path.read_text(encoding="utf-8"))
    return every
