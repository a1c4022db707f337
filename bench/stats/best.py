"""Multiple comparisons with the best: which settings are shown to be no worse than the best, by a
margin, from scores over seeds and examples. Pure.

Lower bounds of a setting against every other use the critical value with the other as control,
since each may be the true best. On the event that the bounds of the true best hold, which has a
probability of 95%, all lower bounds against it hold at once (Hsu 1981; Edwards and Hsu 1983).

And races: settings train in rounds, each of new examples and a new seed, until it is known which is
the cheapest that is no worse than the best. The bounds are at levels by which those of all rounds
against the true best hold together with a probability of 95%. On that event the best never leaves,
and what is picked is no worse than it by more than the margin.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import Final

import numpy as np

from bench.stats.intervals import NORMAL_975, UNSEEN, Floats, Ints, quantile
from minbert.data.tasks import RACE_FOLDS

LEVEL: Final = 0.05  # the one-sided error of all bounds together
FEWEST_SEEDS: Final = 3  # a setting with fewer trainings is not recommended
_OF_PAIR: Final = 0.045
"""The one-sided error of a bound by a pair's own variance between seeds: less than of all bounds
together, since the errors of the other pairs add to it."""
_DRAWS: Final = 2000
_MANY: Final = 1e6  # degrees of freedom that stand for a known variance
ROUNDS: Final = RACE_FOLDS  # of a race, at most
LEVELS: Final = (0.01, 0.0132, 0.01686, 0.02095, 0.02514)
"""One-sided errors of the bounds of a round, by round, which spend 0.01 each of 0.05 in all, as the
rounds before are part of each (Lan and DeMets 1983)."""
_UNKNOWN: Final = 4.0
"""A difference's variance between trainings over that over examples, at first (docs/racing.md)."""
_HOPE: Final = (2.0, 0.5)
"""How many standard errors better than measured a setting may turn out to be, for it to stay as a
possible pick: before another one is shown to be a pick, and after."""
_LAST: Final = 2.4  # the usual critical value of the last round

Round = Sequence[Floats | None]
"""Numbers of each setting by example [N], of which more is better; None: it did not train."""


@dataclass(frozen=True)
class Sample:
    """The scores of a setting, of which more is better."""

    scores: Mapping[int, float]  # by seed
    values: Mapping[int, Floats]  # by seed and example [N], for all seeds; empty: not kept
    variance: float = 0.0  # of one seed's score over examples not kept; inf: unknown

    def collapsed(self, margin: float) -> set[int]:
        """The seeds whose score is below the mean by more than a margin, and than half of its own
        95% interval over the examples, where it is known."""
        known = self.variance if self.variance < math.inf else 0.0
        variances = {seed: np.var(values) / len(values) for seed, values in self.values.items()}
        halves = {n: NORMAL_975 * math.sqrt(variances.get(n, known)) for n in self.scores}
        every = self.scores.values()
        return {n for n, one in self.scores.items() if has_collapsed(one, every, margin, halves[n])}


@dataclass(frozen=True, eq=False)
class Differences:
    """Differences between K settings, row minus column, with their variances. The least critical
    value is Student's t with a pair's own degrees of freedom where it keeps its own variance
    between seeds, with two where it has none, and 0 elsewhere."""

    difference: Floats  # of scores, over common seeds [K, K]; NaN without any
    seeds: Ints  # the numbers of those seeds [K, K]
    of_seed: Floats  # variance between seeds in one seed [K, K]; 0 if no pair has two
    of_examples: Floats  # variance over examples of the difference [K, K]
    freedom: Floats  # degrees of freedom of the sum of both variances [K, K]
    least: Floats  # the least critical value [K, K]
    covariance: Floats  # of the settings' scores over examples [K, K]
    shows_seeds: bool  # whether any pair has two seeds, which show how seeds vary
    level: float = LEVEL  # the one-sided error of all bounds together

    @cached_property
    def error(self) -> Floats:
        """Standard errors of the differences [K, K]."""
        return np.sqrt(self.of_seed / np.maximum(self.seeds, 1) + self.of_examples)

    @cached_property
    def critical(self) -> Floats:
        """One-sided critical values with each setting as control [K] (Dunnett 1955). By simulation:
        the part of the examples has the covariance of the settings; that of the seeds is drawn
        independently for each pair, which makes the values rather too large."""
        count = len(self.difference)
        values = np.zeros(count)
        rng = np.random.default_rng(0)
        sizes, vectors = np.linalg.eigh(self.covariance)
        roots = vectors * np.sqrt(np.maximum(sizes, 0.0))
        of_examples = (roots @ rng.normal(size=(count, _DRAWS))).astype(np.float32)
        of_seeds = rng.normal(size=(count, _DRAWS)).astype(np.float32)
        chi = rng.normal(size=_DRAWS).astype(np.float32)
        for k in range(count):
            others = (np.arange(count) != k) & np.isfinite(self.error[k])
            if not others.any():
                continue
            error = self.error[k][others]
            between = np.sqrt((self.of_seed[k] / np.maximum(self.seeds[k], 1))[others])
            # the means over seeds still have their interaction with examples, which counts once
            over = self.of_examples[k][others]
            drawn = self.covariance[k, k] + np.diag(self.covariance) - 2 * self.covariance[k]
            is_drawn = drawn[others] > 1e-3 * over
            scale = np.sqrt(over / np.where(is_drawn, drawn[others], np.inf))
            rest = np.where(is_drawn, 0.0, np.sqrt(over))
            unit = 2 / (9 * self.freedom[k][others])
            columns = [scale / error, np.hypot(between, rest) / error, 1 - unit, np.sqrt(unit)]
            scale, between, mean, std = np.array(columns, dtype=np.float32)[:, :, None]
            root = np.maximum(mean + std * chi, np.float32(0.1))  # cubed: chi-square of mean 1
            gaps = scale * (of_examples[k] - of_examples[others]) + between * of_seeds[others]
            studentised = gaps / (root * np.sqrt(root))
            values[k] = np.quantile(studentised.max(axis=0), 1 - self.level)
        return values

    @cached_property
    def quantiles(self) -> Floats:
        """The standard errors from differences to lower bounds [K, K], with columns as controls."""
        return np.maximum(self.critical[None, :], self.least)

    @cached_property
    def lower(self) -> Floats:
        """Lower bounds of the differences [K, K], with the column as control."""
        with np.errstate(invalid="ignore"):
            bounds = self.difference - self.quantiles * self.error
        return np.where(np.isnan(bounds), -np.inf, bounds)

    @cached_property
    def upper(self) -> Floats:
        """Upper bounds of the differences [K, K], with the row as control."""
        return -self.lower.T


def compare_all(samples: Sequence[Sample]) -> Differences:
    """Compare settings in pairs: by seed, and by example where the numbers of both are kept. The
    variance of a difference has a part of seeds and one of examples, from the two-way layout of
    both with interaction. The part of the seeds is pooled over all pairs; a pair whose settings
    vary more keeps the sum of theirs, with the degrees of freedom of one pair."""
    every = sorted({seed for sample in samples for seed in sample.scores})
    scores = np.array([[one.scores.get(seed, np.nan) for seed in every] for one in samples])
    scores = scores.reshape(len(samples), len(every))
    difference, seeds, own = between_seeds(scores)
    once, of_examples, examples = _over_examples(samples, every)
    own = by_setting(own, once)
    of_seed, freedom_of_seeds = _pooled(own, once, seeds, samples)
    between = of_seed / np.maximum(seeds, 1)

    def freedom(of_seeds: Floats | float) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            both = (between + of_examples) ** 2 / (
                between**2 / of_seeds + of_examples**2 / np.maximum(examples - 1, 1)
            )
        return np.where(np.isfinite(both), np.clip(both, 1.0, _MANY), _MANY)

    off = ~np.eye(len(samples), dtype=bool)
    # a pair with one seed may vary more, too
    keeps_own = off & ((seeds < 2) | (own >= of_seed)) & (of_seed > 0)
    alone = np.maximum(seeds - 1.0, 1.0)
    # the sum of both parts has no more than those of the seeds, whose share in it is uncertain
    of_pair = np.minimum(freedom(alone), np.maximum(alone, 2.0))
    least = np.where(keeps_own, quantile(2 * _OF_PAIR, of_pair), 0.0)
    return Differences(
        difference, seeds, of_seed, of_examples, freedom(freedom_of_seeds), least,
        _covariance(samples), shows_seeds=bool((seeds[off] > 1).any()),
    )  # fmt: skip


def between_seeds(scores: Floats) -> tuple[Floats, Ints, Floats]:
    """Differences over the seeds that both settings have, from scores by setting and seed [K, S],
    NaN for a seed that a setting lacks: the mean difference, row minus column, NaN without a common
    seed; the number of common seeds; and the variance of the difference between them, NaN with
    fewer than two [K, K each]."""
    has = np.isfinite(scores).astype(float)
    centred = np.where(has > 0, scores, 0.0)
    centred -= has * centred.sum() / max(has.sum(), 1.0)
    number, sums, squares = has @ has.T, centred @ has.T, centred**2 @ has.T
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.where(number > 0, (sums - sums.T) / number, np.nan)
        around = squares + squares.T - 2 * centred @ centred.T - number * difference**2
        own = np.where(number > 1, np.maximum(around, 0.0) / (number - 1), np.nan)
    return difference, number.astype(np.int64), own


def _over_examples(
    samples: Sequence[Sample], every: Sequence[int]
) -> tuple[Floats, Floats, Floats]:
    """Variances over examples of differences: of one seed's, and of their mean over seeds [K, K];
    and the numbers of examples, infinite where the variances are sums of both settings' own."""
    count = len(samples)
    alone = np.array([
        np.mean([v.var(ddof=1) / len(v) for v in one.values.values()]) if one.values
        else one.variance for one in samples
    ])  # fmt: skip
    once = alone[:, None] + alone[None, :]
    mean, examples = once.copy(), np.full((count, count), np.inf)
    kept = np.array([bool(sample.values) for sample in samples])
    has = np.array([[seed in one.scores for seed in every] for one in samples])
    if not kept.any():
        return once, mean, examples
    number = len(next(iter(samples[int(kept.argmax())].values.values())))
    least = UNSEEN / number**2
    nothing = np.zeros(number)
    values = np.array([[one.values.get(seed, nothing) for seed in every] for one in samples])
    values -= values.mean(axis=2, keepdims=True)
    by_seed = [_squares(values[:, i], number) for i in range(len(every))]
    masks = {tuple(mask) for mask in has[kept]}
    for shared in {tuple(np.logical_and(a, b)) for a in masks for b in masks}:
        common = sum(shared)
        if not common:
            continue
        with_all = (has[:, None] & has[None, :] == np.array(shared)).all(axis=2)
        pairs = with_all & kept[:, None] & kept[None, :]
        one = np.mean([by_seed[i] for i, has_seed in enumerate(shared) if has_seed], axis=0)
        joint = _squares(values[:, list(shared)].mean(axis=1), number)
        one, joint = np.maximum(one, least), np.maximum(joint, least)
        if common > 1:  # the interaction of seeds and examples is in both parts, and counts once
            joint -= np.maximum(one - joint, 0.0) / (common - 1)
        once[pairs], mean[pairs] = one[pairs], np.maximum(joint, least)[pairs]
        examples[pairs] = number
    return once, mean, examples


def _squares(values: Floats, number: int) -> Floats:
    """The variances of the means of differences of centred values [K, N] in pairs [K, K]."""
    products = values @ values.T
    own = np.diag(products)
    return (own[:, None] + own[None, :] - 2 * products) / (number - 1) / number


def _covariance(samples: Sequence[Sample]) -> Floats:
    """The covariance over examples of the settings' scores [K, K]; 0 where not kept."""
    covariance = np.zeros((len(samples), len(samples)))
    kept = [i for i, sample in enumerate(samples) if sample.values]
    if kept:
        rows = np.stack([np.mean([*samples[i].values.values()], axis=0) for i in kept])
        covariance[np.ix_(kept, kept)] = np.atleast_2d(np.cov(rows)) / rows.shape[1]
    return covariance


def _pooled(
    own: Floats, once: Floats, seeds: Ints, samples: Sequence[Sample]
) -> tuple[Floats, float]:
    """The variance of differences between seeds [K, K], and its degrees of freedom, those that
    different settings have together, at least those of a pair.

    Two or three seeds show the variance of one pair badly. Its ratio to the variance over examples
    in one seed is therefore pooled over all pairs, as an overdispersion; settings that agree on
    most examples can't differ much by seed either. A pair whose own variance is larger keeps that.
    """
    upper = np.triu_indices(len(own), 1)
    known = (seeds[upper] > 1) & np.isfinite(once[upper])
    if not known.any():
        return np.zeros_like(own), _MANY
    ratio = float(np.nansum(own[upper][known]) / once[upper][known].sum())
    of_pair = float(np.median(seeds[upper][known]) - 1)
    return np.fmax(own, ratio * once), of_pair * max(_different(samples) - 1, 1.0)


def by_setting(own: Floats, once: Floats) -> Floats:
    """Variances of differences between seeds [K, K]: of each pair the sum of what both settings
    have in all their pairs, in proportion to the variance over examples in one seed; NaN where a
    pair's own is not known."""
    known = np.isfinite(own) & np.isfinite(once) & ~np.eye(len(own), dtype=bool)
    count = int(known.any(axis=1).sum())
    if count < 3:
        return own
    variances, sizes = np.where(known, own, 0.0), np.where(known, once, 0.0)
    of_all = count / (count - 1) * variances.sum() / sizes.sum()
    # the pairs of a setting have half of its own ratio and half of the others'
    of_pairs = variances.sum(axis=1) / np.where(known.any(axis=1), sizes.sum(axis=1), np.inf)
    ratio = np.maximum(2 * of_pairs - of_all, 0.0) * (count - 1) / (count - 2)
    return np.where(known, (ratio[:, None] + ratio) / 2 * once, own)


def _different(samples: Sequence[Sample]) -> float:
    """The effective number of different settings, from what is left of the examples' numbers
    without their means over seeds."""
    several = [s for s in samples if len(s.values) > 1]
    shared = set.intersection(*(set(s.values) for s in several)) if several else set()
    if len(shared) < 2:
        return float(len(samples))
    values = np.array([[one.values[seed] for seed in sorted(shared)] for one in several])
    rest = values - values.mean(axis=1, keepdims=True)
    return effective_number(rest.reshape(len(several), -1))


def effective_number(rest: Floats) -> float:
    """The effective number of different rows [K, N] of numbers without their means: 1 for copies, K
    for unrelated ones."""
    lengths = np.linalg.norm(rest, axis=1)
    rows = rest[lengths > 0] / lengths[lengths > 0, None]
    return float(len(rows) ** 2 / ((rows @ rows.T) ** 2).sum()) if len(rows) > 1 else 1.0


def has_collapsed(score: float, trainings: Collection[float], margin: float, half: float) -> bool:
    """Whether a score, of which more is better, is below the mean of its setting's trainings by
    more than a margin, and than half of its 95% interval, which chance in the examples explains."""
    return score < sum(trainings) / len(trainings) - max(margin, half)


def excluded_rate(trainings: int) -> float:
    """The rate of a rare failure that trainings without one exclude: at this rate or a higher one,
    at most 5% of as many trainings in a row have none."""
    return 1.0 - float(LEVEL ** (1 / trainings))


def compare_rounds(rounds: Sequence[Round], live: Sequence[int]) -> Differences:
    """Compare those settings in pairs that have all rounds, of K in all. Rounds differ in examples
    and seed, so the variance between them has both parts. It is pooled over all pairs, as a ratio
    to the variance over the examples of a round, and never smaller than that; a pair whose settings
    vary more keeps the sum of theirs."""
    means = np.array([[np.nan if v is None else v.mean() for v in one] for one in rounds]).T
    level, count = LEVELS[len(rounds) - 1], len(means)
    difference, common, own = between_seeds(means)
    once, covariance = np.zeros((2, count, count))
    rest = []
    for one in rounds:
        has = np.array([values is not None for values in one])
        values = np.stack([values for values in one if values is not None])
        both, number = np.ix_(has, has), values.shape[1]
        within = np.atleast_2d(np.cov(values)) / number
        spread = np.diag(within)[:, None] + np.diag(within) - 2 * within
        once[both] += np.maximum(spread, UNSEEN / number**2)
        covariance[both] += within
        rest.append(np.stack([numbers for i in live if (numbers := one[i]) is not None]))
    known = np.maximum(common, 1)
    once, covariance = once / known, covariance / known**2
    own = by_setting(own, once)
    pairs = np.triu((common > 1) & np.isfinite(own), 1)
    ratio, freedom = _UNKNOWN, _MANY
    if pairs.any():
        ratio = float(own[pairs].sum() / once[pairs].sum())
        together = np.concatenate(rest, axis=1)
        together -= together.mean(axis=0)
        alike = effective_number(together - together.mean(axis=1, keepdims=True))
        freedom = (len(rounds) - 1) * max(alike - 1, 1.0)
    of_rounds = np.maximum(np.fmax(own, ratio * once), once)
    keeps_own = (pairs | pairs.T) & (own >= of_rounds)
    least = np.where(keeps_own, quantile(2 * level, np.maximum(common - 1.0, 1.0)), 0.0)
    block = np.ix_(live, live)
    return Differences(
        difference=difference[block], seeds=common[block], of_seed=(of_rounds - once)[block],
        of_examples=(once / known)[block], freedom=np.full_like(once, freedom)[block],
        least=least[block], covariance=covariance[block], shows_seeds=bool(pairs.any()),
        level=level,
    )  # fmt: skip


class Race:
    """A race of K settings in the order of their costs, the cheapest first. Those in `best` may be
    the best: no other is shown to be better. Those in `picks` may be picked: they are, or may still
    be, shown to be no worse than the best by more than the margin, and none that costs less is."""

    def __init__(self, count: int, margin: float) -> None:
        self.margin = margin
        self.rounds: list[Round] = []
        self.best, self.picks = set(range(count)), set(range(count))
        self.shown: int | None = None  # the cheapest that is shown to be, after three rounds
        self.left: dict[int, int] = {}  # the round after which a setting left, being in neither

    @property
    def live(self) -> list[int]:
        """The settings that train in the next round, if there is one."""
        return sorted(self.best | self.picks)

    @property
    def is_over(self) -> bool:
        is_picked = self.shown is not None and self.picks == {self.shown}
        return is_picked or len(self.rounds) == ROUNDS or not self.live

    def add(self, values: Round) -> None:
        """The next round; a setting without numbers, whose training failed, leaves."""
        before = set(self.live)
        self.rounds.append(values)
        failed = {i for i in before if values[i] is None}
        self.best -= failed
        self.picks -= failed
        live = self.live
        if live:
            self._judge(live, compare_rounds(self.rounds, live))
        self.left |= dict.fromkeys(before - set(self.live), len(self.rounds))

    def _judge(self, live: list[int], compared: Differences) -> None:
        place = {i: at for at, i in enumerate(live)}
        self.best -= {i for i in self.best if (compared.lower[:, place[i]] > 0).any()}

        def among(settings: Collection[int], hope: float) -> set[int]:
            """Those that are shown to be possible picks, or, with hope, may still be."""
            return {i for i in settings if self._reaches(compared, place[i], rivals[i], hope)}

        rivals = {i: [place[j] for j in sorted(self.best - {i})] for i in self.picks}
        self.picks = among(self.picks, _HOPE[0])
        has_rounds = len(self.rounds) >= FEWEST_SEEDS
        self.shown = min(among(self.picks, 0.0), default=None) if has_rounds else None
        if self.shown is not None:
            cheaper = {i for i in self.picks if i < self.shown}
            self.picks = {self.shown} | (
                among(cheaper, _HOPE[1]) if len(self.rounds) < ROUNDS else set()
            )

    def _reaches(self, compared: Differences, i: int, rivals: list[int], hope: float) -> bool:
        """Whether the bounds of a setting against others are within the margin or, with hope, may
        be in the last round, if it is better than measured by as many standard errors, less the
        share of them that the rounds before have."""
        bounds = compared.lower[i, rivals]
        if hope and len(self.rounds) < ROUNDS:
            share = len(self.rounds) / ROUNDS
            reach = hope * sqrt(1 - share) - _LAST * sqrt(share)
            later = compared.difference[i, rivals] + reach * compared.error[i, rivals]
            bounds = np.maximum(bounds, later)
        return bool((bounds >= -self.margin).all())
