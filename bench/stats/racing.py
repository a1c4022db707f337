"""Races: settings train in rounds, each of new examples and a new seed, until it is known which is
the cheapest that is no worse than the best. Pure.

The bound of a setting against another has the other as control, as in `bench.stats.best`, at levels
by which those of all rounds against the true best hold together with a probability of 95%. On that
event the best never leaves, and what is picked is no worse than it by more than the margin.
"""

from collections.abc import Collection, Sequence
from math import sqrt
from typing import Final

import numpy as np

from bench.stats.best import FEWEST_SEEDS, Differences, between_seeds, by_setting, effective_number
from bench.stats.intervals import UNSEEN, Floats, quantile
from minbert.data.tasks import RACE_FOLDS

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
_MANY: Final = 1e6  # degrees of freedom that stand for a known variance

Round = Sequence[Floats | None]
"""Numbers of each setting by example [N], of which more is better; None: it did not train."""


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
