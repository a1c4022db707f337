"""The setting to use: the cheapest shown to be within a margin of the best (docs/deciding.md)."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, inf, isfinite
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from bench.analysis.costs import NEEDS, Limit, Need, cost_of, parse_margin, parse_where
from bench.analysis.groups import Group, encoders_of, ordered_groups
from bench.analysis.racing import Raced, replay
from bench.analysis.setting import Setting, point
from bench.common.errors import InputError
from bench.plan.rows import Row
from bench.results.outcomes import ValuesOf
from bench.results.rescoring import Results
from bench.stats.best import FEWEST_SEEDS, Differences, Sample, between_seeds, compare_all
from bench.stats.intervals import NORMAL_975, POWER_Z, Floats

Obstacle = Literal[
    "no score", "one seed", "no common seed", "no head", "not learned", "limits", "precision",
    "few seeds", "collapse", "race open", "race undecided", "dev",
]  # fmt: skip
"""Why nothing is recommended: no setting has a score; no two have two seeds in common; some have
none in common; the head alone was not run; the best is not shown to beat the head alone and the
majority class; no setting meets the limits; none is within the margin of the best by its bounds;
those that are have fewer than three seeds; a training of the cheapest that is shown collapsed; a
race has rounds or trainings left, or ended without a pick; or dev shows its pick to be worse.
"""
MOST: Final = 1000.0  # so many times as many dev examples are not suggested
_FOLDS: Final = 10  # parts of the examples, of which each scores what the others selected


@dataclass(frozen=True, eq=False)
class Candidates:
    """The settings of a group that have a score, compared in pairs: their scores by seed and
    example, of which more is better, and how much worse than the best a score may be."""

    group: Group
    settings: tuple[Setting, ...]
    samples: tuple[Sample, ...]
    comparison: Differences
    margin: float

    @cached_property
    def scores(self) -> Floats:
        """The mean scores over seeds, of which more is better [K]."""
        return np.array([np.mean([*sample.scores.values()]) for sample in self.samples])

    @cached_property
    def costs(self) -> Mapping[Need, Floats]:
        """By need, what the settings cost; NaN where it was not measured [K each]."""
        every = {n: [cost_of(self.group, s, n) for s in self.settings] for n in NEEDS}
        return {need: np.array(values, dtype=float) for need, values in every.items()}

    @cached_property
    def repeated(self) -> NDArray[np.bool_]:
        """Whether settings have enough seeds to be recommended [K]; of folds, all are one seed."""
        return np.array([len(s.scores) >= FEWEST_SEEDS for s in self.samples], dtype=bool)

    @cached_property
    def within(self) -> NDArray[np.bool_]:
        """Whether the bound of a setting (row) against another is within the margin."""
        return (self.comparison.lower >= -self.margin) | np.eye(len(self.settings), dtype=bool)

    @cached_property
    def shown(self) -> NDArray[np.bool_]:
        """Whether a setting (row) is shown to be no worse than another by more than the margin,
        for which it needs enough seeds."""
        return self.within & self.repeated[:, None]

    @cached_property
    def worse(self) -> NDArray[np.bool_]:
        """Whether a setting (row) is shown to be worse than another by more than the margin."""
        return (self.comparison.upper < -self.margin) & ~np.eye(len(self.settings), dtype=bool)

    @property
    def kept(self) -> bool:
        """Whether the predictions of all settings are known, so that pairs differ by example."""
        return all(sample.values for sample in self.samples)

    @cached_property
    def examples(self) -> int:
        """The number of dev examples; 0 where no predictions are kept."""
        return max((len(v) for s in self.samples for v in s.values.values()), default=0)

    @cached_property
    def obstacles(self) -> tuple[Obstacle, ...]:
        """Why nothing can be recommended under any limits; none if something can."""
        if not self.settings:
            return ("no score",)
        heads = [i for i, setting in enumerate(self.settings) if setting.mode == "head"]
        best = int(self.scores.argmax())
        beats = best not in heads and bool((self.comparison.lower[best, heads] > 0).all())
        every: dict[Obstacle, bool] = {
            "one seed": not self.comparison.shows_seeds
            and (len(self.settings) > 1 or len(self.samples[0].scores) < 2),
            "no common seed": bool((self.comparison.seeds == 0).any()),
            "no head": not heads,
            "not learned": not (beats and self.settings[best].learned),
        }
        return tuple(obstacle for obstacle, is_there in every.items() if is_there)

    def trainings(self, i: int) -> int:
        """The number of a setting's trainings that ended with a score or diverged, one a seed."""
        return len({*self.samples[i].scores, *self.collapsed(i)})

    def collapsed(self, i: int) -> tuple[int, ...]:
        """The seeds of a setting's trainings that collapsed: those that diverged (status
        `invalid`), or whose score is below the setting's mean by more than the margin, which counts
        as no smaller than the metric's own."""
        seeds = {row.seed for row in self.settings[i].rows if row.status == "invalid"}
        margin = max(self.margin, self.group.margin)
        return tuple(sorted(seeds | self.samples[i].collapsed(margin)))

    @cached_property
    def widened(self) -> bool:
        """Whether settings with collapsed trainings have more of the variance between seeds, which
        widens all bounds, than the others have."""
        squares = [np.var([*s.scores.values()]) * len(s.scores) for s in self.samples]
        sound = self.sound(range(len(squares)))
        return bool(sum(squares) > 2 * sum(squares[i] for i in sound))

    def sound(self, settings: Iterable[int]) -> list[int]:
        """Those of some settings of which no training collapsed."""
        return [i for i in settings if not self.collapsed(i)]

    def value(self, i: int, name: Need | Literal["score"]) -> float:
        """What a limit of this name is on, for a setting: a cost, NaN if unknown, or the score."""
        if name == "score":
            return self.group.scoring.gain(float(self.scores[i]))
        return float(self.costs[name][i])

    def by_cost(self, among: Sequence[int], prefer: Need) -> list[int]:
        """Some settings from the cheapest on; equally cheap ones by time and by parameters."""
        keys = [np.nan_to_num(self.costs[n], nan=np.inf) for n in (prefer, "time", "parameters")]
        return sorted(among, key=lambda i: tuple(key[i] for key in keys))

    def cheapest(self, among: Sequence[int], prefer: Need) -> int | None:
        """The first of them; None of none."""
        return next(iter(self.by_cost(among, prefer)), None)


def candidates_of(group: Group, margin: float | None = None) -> Candidates:
    """The settings of a group that have a score, compared; by default with the metric's margin."""
    settings = [s for s in group.settings if s.ok and s.scores]
    lengths = Counter(len(values) for s in settings for values in s.values.values())
    usual = lengths.most_common(1)[0][0] if lengths else 0
    samples = tuple(_sample(group, setting, usual) for setting in settings)
    return Candidates(
        group, tuple(settings), samples, compare_all(samples),
        group.margin if margin is None else margin,
    )  # fmt: skip


def _sample(group: Group, setting: Setting, examples: int) -> Sample:
    sign = group.scoring.gain(1.0)
    scores = {seed: sign * score for seed, score in setting.scores.items()}
    values = setting.values
    if values.keys() == scores.keys() and {len(v) for v in values.values()} == {examples}:
        return Sample(scores, {seed: sign * numbers for seed, numbers in values.items()})
    ends = [pair for seed in scores if (pair := setting.score_of_seed(seed).ends())]
    halves = [(high - low) / 2 / NORMAL_975 for low, high in ends]
    return Sample(scores, {}, float(np.mean(np.square(halves))) if halves else np.inf)


@dataclass(frozen=True)
class Resolution:
    """What would show a setting to be no worse than the best, four times out of five if its true
    difference is the measured one. More examples help so far as the variance between seeds falls
    with them as that over examples does; the bottleneck is the larger part of the uncertainty, or
    the margin, where the measured difference is about as large."""

    closest: int  # the setting that is nearest to being shown
    margin: float  # the margin by which it is shown now
    seeds: int | None  # how many would do; None: no number, or not known
    factor: float | None  # how many times as many dev examples; None: more than are suggested
    bottleneck: Literal["seeds", "examples", "margin"]


@dataclass(frozen=True, eq=False)
class Recommendation:
    """The answer for some limits. Settings are numbers of the candidates'."""

    candidates: Candidates
    prefer: Need
    limits: tuple[Limit, ...]
    among: tuple[int, ...]  # those that meet the limits
    reference: int | None  # the best of these by score
    shown: tuple[int, ...]  # to be no worse than the best by more than the margin
    few_seeds: tuple[int, ...]  # those that only lack seeds to be shown
    could_be: tuple[int, ...]  # those not shown to be worse than another by more than it
    obstacles: tuple[Obstacle, ...]  # why nothing is recommended; none if something is
    pick: int | None  # the recommended one; with obstacles, the best by score
    nearest: int | None = None  # comes nearest to the limits, where none meets them
    withdrawn: int | None = None  # would be recommended, had no training of it collapsed
    raced: Raced | None = None  # the race that decides

    @property
    def decided(self) -> bool:
        return not self.obstacles

    @property
    def is_usual(self) -> bool:
        """Whether it is what bench.grid recommends: without limits, and by its cost and margin."""
        known = self.candidates
        return not self.limits and self.prefer == NEEDS[0] and known.margin == known.group.margin

    @property
    def setting(self) -> Setting | None:
        return None if self.pick is None else self.candidates.settings[self.pick]

    @property
    def subject(self) -> Setting | None:
        """The pick or, without one, the best by score."""
        i = self.reference if self.pick is None else self.pick
        return None if i is None else self.candidates.settings[i]

    def loss(self, i: int) -> float:
        """How much worse than the best within the limits a setting is at most, whichever that is:
        an upper bound, at least 0. With 95% confidence those of all settings hold (Hsu 1981)."""
        others = [j for j in self.among if j != i]
        return max(0.0, -float(self.candidates.comparison.lower[i, others].min(initial=np.inf)))

    @cached_property
    def alternatives(self) -> dict[Need | Literal["score"], int]:
        """By need, the cheapest setting that is shown to be within the margin of the best or, where
        nothing is decided, that could be; and the best by score. None with a collapse."""
        known, every = self.candidates, dict[Need | Literal["score"], int]()
        among = known.sound(self.shown if self.decided else self.could_be)
        for need in NEEDS:
            cheapest = known.cheapest(among, need)
            if cheapest is not None and not np.isnan(known.costs[need][cheapest]):
                every[need] = cheapest
        if self.reference is not None and not known.collapsed(self.reference):
            every["score"] = self.reference
        return every

    @cached_property
    def cross_fitted_score(self) -> float | None:
        """The score of what the rule picks, on examples that did not pick it. Each tenth of the
        examples scores what the rule picks by the others, if it picks something. None where nothing
        is recommended or predictions are not kept, and of a race, which did not see dev."""
        known = self.candidates
        if self.raced or not self.decided or not known.kept or known.examples < _FOLDS:
            return None
        seeds = sorted({seed for sample in known.samples for seed in sample.scores})
        nothing = np.full(known.examples, np.nan)
        values = np.array([[s.values.get(seed, nothing) for seed in seeds] for s in known.samples])
        order = np.random.default_rng(0).permutation(known.examples)
        scored: list[Floats] = []
        for part in np.array_split(order, _FOLDS):
            rest = np.setdiff1d(order, part)
            shown = self._shown_by(values[:, :, rest].mean(axis=2), len(rest) / known.examples)
            pick = known.cheapest(shown, self.prefer)
            if pick is not None:
                scored.append(np.nanmean(values[pick][:, part], axis=0))
        return known.group.scoring.gain(float(np.concatenate(scored).mean())) if scored else None

    def _shown_by(self, scores: Floats, share: float) -> list[int]:
        """The settings that are shown to be no worse than the best by a share of the examples, from
        the scores on that share by setting and seed [K, S]."""
        known, compared = self.candidates, self.candidates.comparison
        means = known.group.scoring.gain(1.0) * np.nanmean(scores, axis=1)

        def meets(i: int, limit: Limit) -> bool:
            value = float(means[i]) if limit.name == "score" else known.value(i, limit.name)
            return limit.shortfall(value) == 0

        every = range(len(scores))
        among = [i for i in every if all(meets(i, limit) for limit in self.limits)]
        between = compared.of_seed / np.maximum(compared.seeds, 1)
        error = np.sqrt(between + compared.of_examples / share)
        lower = between_seeds(scores)[0] - compared.quantiles * error
        within = (lower >= -known.margin) | np.eye(len(lower), dtype=bool)
        return [i for i in among if known.repeated[i] and within[i, among].all()]

    @cached_property
    def resolution(self) -> Resolution | None:
        """What would bring the bounds of a setting within the margin, if those of none are."""
        known, among = self.candidates, list(self.among)
        if self.raced or self.shown or self.few_seeds or self.reference is None:
            return None
        closest = min(self.could_be, key=self.loss)
        rivals = [j for j in among if not known.within[closest, j]]
        factors, seeds = zip(*(self._needed(closest, j) for j in rivals), strict=True)
        factor, of_seeds = max(factors), max(seeds)
        compared = known.comparison
        lead = -float(compared.difference[closest, rivals[factors.index(factor)]])
        of_seed = compared.of_seed[closest, rivals] / np.maximum(compared.seeds[closest, rivals], 1)
        is_seeds = of_seed.sum() > compared.of_examples[closest, rivals].sum()
        is_margin = factor >= MOST and lead > known.margin / 2
        return Resolution(
            closest, self.loss(closest),
            max(FEWEST_SEEDS, ceil(of_seeds)) if isfinite(of_seeds) else None,
            factor if factor < MOST else None,
            "margin" if is_margin else "seeds" if is_seeds else "examples",
        )  # fmt: skip

    def _needed(self, i: int, j: int) -> tuple[float, float]:
        """How many times as many dev examples show i to be no worse than j four times out of five
        if the measured difference is the true one, and how many seeds do; infinite where none do.
        Of a pair with one common seed the variance that more seeds reduce is not known."""
        compared = self.candidates.comparison
        have = max(int(compared.seeds[i, j]), 1)
        room = self.candidates.margin + min(float(compared.difference[i, j]), 0.0)
        allowed = float(max(room, 0.0) / (compared.quantiles[i, j] + POWER_Z)) ** 2
        of_seed = float(compared.of_seed[i, j]) / have
        of_examples = float(compared.of_examples[i, j])
        factor = max(1.0, (of_seed + of_examples) / allowed) if allowed > 0 else inf
        left = allowed - of_examples
        seeds = have * max(1.0, of_seed / left) if left > 0 and have > 1 else inf
        return factor, seeds

    @cached_property
    def finest(self) -> tuple[float, int] | None:
        """The difference that any number of seeds shows on these examples four times out of five,
        at the median of the pairs that could be the best, and the examples that one hundredth
        takes. None without predictions, or pairs with several seeds, and of a race."""
        if self.raced:
            return None
        known, could_be = self.candidates, list(self.could_be)
        block, compared = np.ix_(could_be, could_be), known.comparison
        pairs = (compared.seeds[block] > 1) & ~np.eye(len(could_be), dtype=bool)
        if not pairs.any() or not known.examples:
            return None
        quantiles, variance = compared.quantiles[block][pairs], compared.of_examples[block][pairs]
        size = float(np.median((quantiles + POWER_Z) * np.sqrt(variance)))
        return size, ceil(known.examples * (size / 0.01) ** 2)


def recommend(
    candidates: Candidates, prefer: Need = "memory", limits: Sequence[Limit] = ()
) -> Recommendation:
    """The setting that costs least of what is preferred, within limits, of those that have three
    seeds and are shown to be no worse than the best one there by more than the margin."""
    if candidates.group.race is not None:
        raced = replay(candidates.group.race, prefer, candidates.margin, limits, needs_all=False)
        return _by_race(candidates, raced, prefer, limits)
    known, every = candidates, range(len(candidates.settings))
    misses = [sum(limit.shortfall(known.value(i, limit.name)) for limit in limits) for i in every]
    among = [i for i in every if misses[i] == 0]
    within = [i for i in among if known.within[i, among].all()]
    shown = [i for i in within if known.repeated[i]]
    could_be = [i for i in among if not known.worse[i, among].any()]
    obstacles = known.obstacles
    if every and not among:
        obstacles = ("limits",)
    elif not obstacles and not shown:
        obstacles = ("few seeds" if within else "precision",)
    cheapest = None if obstacles else known.cheapest(shown, prefer)
    withdrawn = cheapest if cheapest is not None and known.collapsed(cheapest) else None
    if withdrawn is not None:
        obstacles = ("collapse",)
    best = max(among, key=lambda i: known.scores[i], default=None)
    nearest = None if among else min(every, key=lambda i: misses[i], default=None)
    return Recommendation(
        known, prefer, tuple(limits), among=tuple(among), reference=best, shown=tuple(shown),
        few_seeds=tuple(i for i in within if i not in shown), could_be=tuple(could_be),
        obstacles=obstacles, pick=best if obstacles else cheapest, nearest=nearest,
        withdrawn=withdrawn,
    )  # fmt: skip


def _by_race(
    known: Candidates, raced: Raced, prefer: Need, limits: Sequence[Limit]
) -> Recommendation:
    """The pick of a race, unless on all training examples it collapsed, the best does not beat the
    majority class on dev, or the pick is shown there to be worse by more than the margin."""
    places = {point(setting.rows[0]): i for i, setting in enumerate(known.settings)}
    final = [places.get(point(setting.rows[0])) for setting in raced.final]
    pick, best = (final[0], final[-1]) if final else (None, None)
    obstacles: tuple[Obstacle, ...] = ()
    if not raced.settings:
        obstacles = ("limits",)
    elif raced.race.is_over and not final:
        obstacles = ("race undecided",)
        best = None if raced.best is None else places.get(point(raced.settings[raced.best].rows[0]))
    elif (
        known.group.is_race
        or pick is None
        or best is None
        or not known.repeated[[pick, best]].all()
    ):
        obstacles = ("race open",)
    elif not known.settings[best].learned:
        obstacles = ("not learned",)
    elif known.worse[pick, best]:
        obstacles = ("dev",)
    elif known.collapsed(pick):
        obstacles = ("collapse",)
    return Recommendation(
        known, prefer, tuple(limits), among=tuple(range(len(known.settings))), reference=best,
        shown=() if obstacles or pick is None else (pick,), few_seeds=(),
        could_be=tuple(places.values()), obstacles=obstacles, pick=pick, raced=raced,
        withdrawn=pick if "collapse" in obstacles else None,
    )  # fmt: skip


def recommended_from(
    rows: Sequence[Row], planned: Sequence[Row], values_of: ValuesOf
) -> Recommendation | None:
    """The recommendation of a report: among the settings of its first group, and of the encoders
    that are compared with that one's; None without any group."""
    every = ordered_groups(rows, planned, values_of)
    return recommend(candidates_of(encoders_of(every) or every[0])) if every else None


def recommended_in(
    results: Results, prefer: Need, where: str, margin: str | None
) -> tuple[Recommendation, int]:
    """The same for results, with the number of other groups than those that are compared; the other
    arguments are as the options of bench.recommend. InputError if there are no results, and for
    limits that are none."""
    limits = parse_where(where)
    every = ordered_groups(results.rows, results.planned, results.values_of)
    if not every:
        names = ", ".join(map(str, results.runs))
        raise InputError(f"{names}: no results; run python -m bench.grid --grid smoke")
    group = encoders_of(every) or every[0]
    others = len(every) - max(1, len(group.encoders))
    base = group.baseline.mean("dev_score") if group.baseline else None
    size = None if margin is None else parse_margin(margin, group.scoring, base)
    return recommend(candidates_of(group, size), prefer, limits), others
