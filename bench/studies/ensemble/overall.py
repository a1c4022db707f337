"""The overall score of ensembles of several tasks, and of their baselines. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.plan.columns import CORRELATED, PART_SCORES
from bench.results.overall import counted, overall, overall_interval
from bench.results.predictions import mean_of_parts
from bench.stats.intervals import Interval
from bench.studies.ensemble.outcome import BEST, ENSEMBLE, Entry, Outcome, gain_of
from minbert.data.tasks import TASKS

_PLURALS: Final = {ENSEMBLE: "ensembles", BEST: "best members"}


@dataclass(frozen=True)
class Overall:
    """Overall scores over some parts of task `multitask`.

    Attributes:
        parts: the parts that are scored; `missing`: those without an ensemble.
        ensemble: the ensembles of all parts.
        best: the best member of each part.
        others: the baselines that all parts have.
    """

    parts: tuple[str, ...]
    missing: tuple[str, ...]
    ensemble: Entry
    best: Entry
    others: Sequence[Entry]

    @property
    def gain(self) -> Interval:
        """Score of the ensembles less that of the best members, paired by example."""
        return gain_of(self.ensemble, self.best)

    @property
    def formula(self) -> str:
        """The scores that are averaged, and the parts that are missing."""
        parts = [
            f"(1 + r) / 2 on {part}" if part in CORRELATED else f"accuracy on {part}"
            for part in self.parts
        ]
        missing = "".join(f", without {part}" for part in self.missing)
        return f"the mean of {', '.join(parts)}{missing}"

    @property
    def notes(self) -> list[str]:
        """A note on missing parts, and those on the data of the others."""
        names = " and ".join(self.missing)
        missing = [f"no ensemble of {names} is in it, so it is no score of all three"]
        data = [f"{part}: {note}" for part in self.parts for note in TASKS[part].notes]
        return [*(missing if self.missing else []), *data]


def overall_of(outcomes: Sequence[Outcome]) -> Overall | None:
    """The overall scores of several parts of task `multitask`; None for one task, and for tasks
    that are not its parts and so have no common score."""
    by_part = {outcome.candidates.task: outcome for outcome in outcomes}
    if len(by_part) < 2 or not by_part.keys() <= PART_SCORES.keys():
        return None
    others = [{entry.kind: entry for entry in outcome.others} for outcome in by_part.values()]
    common = [kind for kind in others[0] if all(kind in entries for entries in others)]
    return Overall(
        parts=tuple(by_part),
        missing=tuple(part for part in PART_SCORES if part not in by_part),
        ensemble=_mean({part: outcome.ensemble for part, outcome in by_part.items()}),
        best=_mean({part: outcome.best for part, outcome in by_part.items()}),
        others=[
            _mean({part: entries[kind] for part, entries in zip(by_part, others, strict=True)})
            for kind in common
        ],
    )


def _mean(parts: Mapping[str, Entry]) -> Entry:
    """The overall score of entries of one kind, one for each part."""
    entries = list(parts.values())
    name = _PLURALS.get(entries[0].kind, entries[0].kind)
    return Entry(
        kind=name,
        name=name,
        dev=overall_interval(
            {part: entry.dev.value for part, entry in parts.items()},
            {part: len(entry.values) for part, entry in parts.items()},
        ),
        values=mean_of_parts([counted(part, entry.values) for part, entry in parts.items()]),
        held_score=overall({part: entry.held_score for part, entry in parts.items()}),
        members=tuple(member for entry in entries for member in entry.members)
        if all(entry.members for entry in entries)
        else (),
    )
