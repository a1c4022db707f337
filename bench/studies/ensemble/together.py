"""The overall score of ensembles of several tasks, and of what stands beside all of them. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.plan.columns import CORRELATED, PART_SCORES
from bench.results.overall import counted, overall, overall_interval
from bench.results.predictions import mean_of_parts
from bench.stats.intervals import Interval
from bench.studies.ensemble.outcome import BEST, ENSEMBLE, Outcome, Scored, gain_of
from minbert.data.tasks import TASKS

_SEVERAL: Final = {ENSEMBLE: "ensembles", BEST: "best members"}


@dataclass(frozen=True)
class Together:
    """Overall scores over some parts of task `multitask`.

    Attributes:
        parts: those that are counted; `missing`: those that are not there.
        ensembles: the ensembles of all parts.
        best: the best members of all parts, each alone on its own.
        others: what is scored beside the ensembles of all parts.
    """

    parts: tuple[str, ...]
    missing: tuple[str, ...]
    ensembles: Scored
    best: Scored
    others: Sequence[Scored]

    @property
    def gain(self) -> Interval:
        """How much better the ensembles are than the best members, example by example."""
        return gain_of(self.ensembles, self.best)

    @property
    def counted(self) -> str:
        """What the score is the mean of, and what it lacks."""
        parts = [
            f"(1 + r) / 2 on {part}" if part in CORRELATED else f"accuracy on {part}"
            for part in self.parts
        ]
        lacking = "".join(f", without {part}" for part in self.missing)
        return f"the mean of {', '.join(parts)}{lacking}"

    @property
    def notes(self) -> list[str]:
        """What there is to say beside it: of the parts that it lacks, and of the others' data."""
        missing = " and ".join(self.missing)
        lacking = [f"no ensemble of {missing} is in it, so it is no score of all three"]
        data = [f"{part}: {note}" for part in self.parts for note in TASKS[part].notes]
        return [*(lacking if self.missing else []), *data]


def together(outcomes: Sequence[Outcome]) -> Together | None:
    """The overall scores of several parts of task `multitask`; None for one task, and for tasks
    that are no such parts: they have no score in common."""
    by_part = {outcome.candidates.task: outcome for outcome in outcomes}
    if len(by_part) < 2 or not by_part.keys() <= PART_SCORES.keys():
        return None
    beside = [{of.kind: of for of in outcome.others} for outcome in outcomes]
    shared = [kind for kind in beside[0] if all(kind in others for others in beside)]
    return Together(
        parts=tuple(by_part),
        missing=tuple(part for part in PART_SCORES if part not in by_part),
        ensembles=_overall({part: of.ensemble for part, of in by_part.items()}),
        best=_overall({part: of.best for part, of in by_part.items()}),
        others=[
            _overall({part: others[kind] for part, others in zip(by_part, beside, strict=True)})
            for kind in shared
        ],
    )


def _overall(parts: Mapping[str, Scored]) -> Scored:
    """What was scored on several parts, scored over them."""
    kind = next(iter(parts.values())).kind
    name = _SEVERAL.get(kind, kind)
    told = all(of.members for of in parts.values())
    return Scored(
        kind=name,
        name=name,
        dev=overall_interval(
            {part: of.dev.value for part, of in parts.items()},
            {part: len(of.values) for part, of in parts.items()},
        ),
        values=mean_of_parts([counted(part, of.values) for part, of in parts.items()]),
        held=overall({part: of.held for part, of in parts.items()}),
        members=tuple(m for of in parts.values() for m in of.members) if told else (),
    )
