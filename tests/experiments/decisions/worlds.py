"""Data sets of known truth, drawn from simulated settings or from the committed predictions."""

import tomllib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.special import ndtri
from scipy.stats import norm

from bench.analysis.groups import Group
from bench.analysis.recommendation import Candidates, candidates_of
from bench.analysis.setting import Setting
from bench.results.predictions import kept_predictions, values_from
from bench.stats.best import Sample
from tests.bench.synthetic_rows import new_row
from tests.reference_run import RUNS, reference_group

MARGIN = 0.02
TRAININGS = (1, 3, 5, 14, 29)
BEST, HEAD = 0.62, 0.49
_OWN, _IN_SEED = 0.1, 0.12
"""Stds of the parts of a setting on an example, over all seeds and in one; those of the examples'
difficulty are 1. Differences then vary about as in the committed run."""


TRUTHS = {
    # one best setting, the most expensive; all others are worse by exactly the margin
    "at_margin": lambda _rng, n: np.array([*[BEST - MARGIN] * (n - 1), BEST]),
    # the cheapest setting is worse by exactly the margin; all others are equally good
    "one_at_margin": lambda _rng, n: np.array([BEST - MARGIN, *[BEST] * (n - 1)]),
    # within two margins of the best, in an order that has nothing to do with costs
    "spread": lambda rng, n: rng.uniform(BEST - 2 * MARGIN, BEST, n),
    # pairs with equal scores, half of them at the margin and half between it and the best
    "twins": lambda _rng, n: BEST - np.where(
        np.arange(n) < n - 2, np.where(np.arange(1, n + 1) // 2 % 2, MARGIN, MARGIN / 2), 0.0
    ),
    # learning curves that cross, at a random length of training: what learns fast is worse later
    "by_length": lambda rng, n: BEST - 0.03 * np.linspace(1, 0, n) - 0.1 * np.exp(
        -np.linspace(2.0, 0.5, n) * rng.uniform(0.5, 4.0)
    ),
}  # fmt: skip
"""The true scores of a number of settings, all but the head."""


@dataclass(frozen=True)
class Simulated:
    """Settings that are right on an example where a sum of normal parts is positive."""

    name: str
    truth: object  # of `TRUTHS`
    settings: int = 40  # with the head, which comes first
    examples: int = 1064
    seeds: tuple = (3,)  # of each but the head, which has the most; the last repeats
    by_seed: float = 0.002  # std between seeds that all examples share, beside each example's part
    odd: tuple = ()  # settings, of all but the head, that vary otherwise or collapse
    odd_by_seed: float | None = None  # the std of these between seeds; None: of the others
    collapse: tuple = (0.0, 0.0)  # how much lower they score in which rate of seeds
    slopes: tuple = (1.0,)  # how much an example's difficulty matters, in turns
    paired: bool = False  # whether settings share nearly all parts in pairs, as fp32 and bf16
    kept: bool = True  # whether predictions are kept
    quotes: bool = False  # whether the quoted score is measured

    @cached_property
    def group(self):
        """The head and other settings, each more expensive than those before it."""
        settings = []
        for i in range(self.settings):
            mode, rank, layers = ("lora", i, "attn") if i else ("head", None, None)
            row = new_row(mode=mode, rank=rank, layers=layers, status="ok", dev_metric="accuracy",
                          dev_score=0.5, peak_rss_mib=1000.0 + i, train_s=60.0)  # fmt: skip
            settings.append(Setting(mode, rank, layers, "off", None, None, None, (row,)))
        return Group(tuple(row for each in settings for row in each.rows), tuple(settings))

    def draw(self, rng):
        """True scores, samples, and a margin by which a setting is worse than the best."""
        count, most = self.settings, max(self.seeds)
        truth = np.array([HEAD, *self.truth(rng, count - 1)])
        slope = np.resize(self.slopes, count)
        odd = np.arange(1, count)[np.array(self.odd, dtype=int)]
        by_seed = np.full(count, self.by_seed)
        if self.odd_by_seed is not None:
            by_seed[odd] = self.odd_by_seed
        loss, rate = self.collapse
        collapses, usual = np.zeros((count, most)), truth.copy()
        if rate:
            collapses[odd] = rng.random((len(odd), most)) < rate
            usual[odd] += rate * loss
        score = usual[:, None] - loss * collapses
        # a score varies by its slope at the threshold, the normal density, times the seed's part
        parts = slope**2 + _OWN**2 + _IN_SEED**2
        ratio = (by_seed / norm.pdf(ndtri(usual))) ** 2
        of_seed = np.sqrt(parts * ratio / (1 - ratio))
        total = np.sqrt(parts + of_seed**2)
        latent = (ndtri(score) * total[:, None])[:, :, None]
        latent = latent + slope[:, None, None] * _normal(rng, self.examples)
        latent = latent + _OWN * self._alike(rng, count, 1, self.examples)
        latent = latent + _IN_SEED * self._alike(rng, count, most, self.examples)
        latent += of_seed[:, None, None] * self._alike(rng, count, most, 1)
        right = (latent > 0).astype(float)
        numbers = [most, *self.seeds, *[self.seeds[-1]] * count][:count]
        each = (dict(enumerate(one[:number])) for one, number in zip(right, numbers, strict=True))
        return truth, [_sample(values, self.kept) for values in each], MARGIN

    def _alike(self, rng, count, *shape):
        own = _normal(rng, count, *shape)
        if not self.paired:
            return own
        shared = np.repeat(_normal(rng, -(-count // 2), *shape), 2, axis=0)[:count]
        return np.float32(0.95**0.5) * shared + np.float32(0.05**0.5) * own


def _normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def _sample(values, kept=True):
    scores = {seed: float(one.mean()) for seed, one in values.items()}
    if kept:
        return Sample(scores, values)
    variances = [score * (1 - score) / len(values[seed]) for seed, score in scores.items()]
    return Sample(scores, {}, float(np.mean(variances)))


def committed(*others):
    files = [values_from(kept_predictions(path)) for path in (RUNS, *others)]

    def values_of(rows):
        return next((values for of in files if (values := of(rows)) is not None), None)

    return candidates_of(reference_group(values_of, *others))


@dataclass(frozen=True)
class Resampled:
    """The settings of the committed run, with as many seeds as they have there. A setting of one
    seed gets the deviations by seed and example of the setting that agrees with it on most
    examples. Paired settings share the draws of seeds, as they share seeds in a run, and a seed's
    score varies by its examples only; otherwise each setting has draws of its own, and seeds keep
    the scores that they have in the committed run besides."""

    name: str
    candidates: Candidates
    examples: int
    paired: bool = True
    quotes: bool = False

    @property
    def group(self):
        return replace(self.candidates.group, settings=self.candidates.settings)

    @cached_property
    def population(self):
        """The numbers of all settings, seeds and examples [K, S, N]."""
        rows = [np.stack([*sample.values.values()]) for sample in self.candidates.samples]
        several = [values for values in rows if len(values) > 1]
        made = []
        for values in rows:
            like = max(several, key=lambda other: float((other[0] == values[0]).mean()))
            deviations = like - like.mean(axis=0)
            if self.paired:
                deviations -= deviations.mean(axis=1, keepdims=True)
            made.append(values.mean(axis=0) + deviations)
        return np.stack(made)

    def draw(self, rng):
        settings, number, examples = self.population.shape
        drawn = rng.integers(examples, size=self.examples)
        seeds = rng.integers(number, size=(1 if self.paired else settings, number))
        seeds = np.broadcast_to(seeds, (settings, number))
        each = zip(self.population, seeds, self.candidates.samples, strict=True)
        made = [
            _sample({i: values[own[i]].take(drawn) for i in range(len(sample.values))})
            for values, own, sample in each
        ]
        truth = self.population.mean(axis=(1, 2))
        losses = truth.max() - truth
        return truth, made, float(rng.choice(losses[(losses > MARGIN / 4) & (losses < 0.05)]))


def _simulated(key):
    for table in tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))[key]:
        trainings, seeds = table.pop("trainings", None), table.pop("seeds", [3])
        table["truth"] = TRUTHS[table["truth"]]
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
        for own in [seeds] if trainings is None else [[*seeds, number] for number in trainings]:
            yield Simulated(**fields, seeds=tuple(own))


def worlds():
    """The scenarios that the promise covers."""
    run = committed()
    pairs = zip(run.settings, run.samples, strict=True)
    settings, samples = zip(*(pair for pair in pairs if len(pair[1].scores) == 3), strict=True)
    several = replace(run, settings=settings, samples=samples)
    return [
        *_simulated("worlds"),
        Resampled("the committed run, 1,064 examples", run, 1064, quotes=True),
        Resampled("the same, 4,000 examples, those with 3 seeds", several, 4000),
        Resampled("the same, 4,000 examples, seeds not shared", several, 4000, paired=False),
        *_simulated("uneven"),
    ]


def beyond():
    """Scenarios that the promise does not cover."""
    return list(_simulated("beyond"))
