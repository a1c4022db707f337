"""The race among the settings of a group, replayed from its rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np

from bench.analysis.costs import Limit, Need, cost_of
from bench.analysis.groups import Group
from bench.analysis.setting import Setting, point, settings_of
from bench.common.errors import InputError
from bench.plan.budget import was_left_out
from bench.stats.best import ROUNDS, Race, Round
from bench.stats.intervals import Floats


@dataclass(frozen=True, eq=False)
class Raced:
    """A race as far as it has come: its settings, the cheapest first, and where they stand."""

    group: Group
    settings: tuple[Setting, ...]
    race: Race

    @cached_property
    def scores(self) -> Floats:
        """The mean scores over the complete rounds that each setting had, of which more is better
        [K]; a round that is under way is easier or harder than those that all have."""
        sign, done = self.group.scoring.gain(1.0), range(len(self.race.rounds))
        every = [[s for n, s in setting.scores.items() if n in done] for setting in self.settings]
        return np.array([sign * np.mean(own) if own else np.nan for own in every])

    @property
    def best(self) -> int | None:
        """The best by score of those that may be the best, the head alone only if no other may be
        (docs/racing.md); None before the first round."""
        settings, among = self.settings, self.race.best if self.race.rounds else ()
        return max(among, key=lambda i: (settings[i].mode != "head", self.scores[i]), default=None)

    @property
    def so_far(self) -> int | None:
        """What to train while nothing is decided: the pick of a race that is over, or the best."""
        return self.race.shown if self.final else self.best

    @property
    def open(self) -> list[Setting]:
        """Those that may still be picked or, if none may, be the best; the cheapest first."""
        return [self.settings[i] for i in sorted(self.race.picks or self.race.best)]

    @property
    def trainings(self) -> int:
        return sum(values is not None for one in self.race.rounds for values in one)

    def gap(self, i: int) -> float | None:
        """The score of a setting less that of the best, over the rounds that it had, of which more
        is better; None for the best itself."""
        if self.best is None or i == self.best:
            return None
        both = [(one[i], one[self.best]) for one in self.race.rounds]
        gaps = [
            own.mean() - best.mean() for own, best in both if own is not None and best is not None
        ]
        return float(np.mean(gaps)) if gaps else None

    @property
    def final(self) -> list[Setting]:
        """The settings that are trained on all examples: the pick and the best, if there is one."""
        if not self.race.is_over or self.race.shown is None or self.best is None:
            return []
        return [self.settings[i] for i in sorted({self.race.shown, self.best})]


def replay(
    group: Group, prefer: Need, margin: float | None = None, limits: Sequence[Limit] = (),
    needs_all: bool = True,
) -> Raced:  # fmt: skip
    """The race of a group's settings whose costs in the first round meet limits, in the order of
    these costs; without a margin, by the metric's. InputError for a limit on the score, which not
    all settings have to the end. A round whose predictions are gone has not ended, or is an
    InputError if the race needs all."""
    if any(limit.name == "score" for limit in limits):
        raise InputError("--where: a race can be limited by costs, not by the score")
    rows = tuple(row for row in group.rows if row.seed == 0)
    first = Group(rows, settings_of(rows, [], group.settings[0].values_of))

    def cost(setting: Setting, need: str) -> float:
        known = cost_of(first, setting, cast(Need, need))
        return float("inf") if known is None else known

    costs = {
        point(setting.rows[0]): [cost(setting, need) for need in (prefer, "time", "parameters")]
        for setting in first.settings
        if all(limit.shortfall(cost(setting, limit.name)) == 0 for limit in limits)
    }
    known = [setting for setting in group.settings if point(setting.rows[0]) in costs]
    settings = tuple(sorted(known, key=lambda setting: costs[point(setting.rows[0])]))
    race = Race(len(settings), group.margin if margin is None else margin)
    for number in range(ROUNDS):
        if race.is_over or not (values := _round(group, settings, race.live, number, needs_all)):
            break
        race.add(values)
    return Raced(group, settings, race)


def _round(
    group: Group, settings: Sequence[Setting], live: Sequence[int], number: int, needs_all: bool
) -> Round | None:
    """What each setting that is left has in a round; None if one has not ended."""
    values: list[Floats | None] = [None] * len(settings)
    for i in live:
        setting = settings[i]
        if number in setting.scores:
            if number not in setting.values:
                if not needs_all:
                    return None
                raise InputError(
                    f"--race: the predictions of {setting.label} in round {number + 1} are gone; "
                    "--rerun ok runs it again"
                )
            values[i] = group.scoring.gain(1.0) * setting.values[number]
        elif not any(
            row.seed == number and row.status not in (None, "interrupted") and not was_left_out(row)
            for row in setting.rows
        ):
            return None
    return values
