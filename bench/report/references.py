"""Reference points beside a group's scores: what methods without fine-tuning score on its data."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.plan.metrics import BY_WORD
from bench.report.pages import phrase, sentences
from bench.report.tables import Table, table
from bench.report.text import by_metric, score, score_gap, span
from bench.results.facts import FinalScore, KnownFacts
from bench.stats.intervals import Interval, difference

WARNING: Final = "Warning:"  # the first word of a line that pages show as a warning


@dataclass(frozen=True)
class ReferencePoint:
    """A method without fine-tuning: its name, a shorter one, its score, and how it was obtained."""

    name: str
    short: str
    score: Interval | None  # None: the group's metric is not defined for it, or it was left out
    about: str


def reference_points(group: Group, facts: KnownFacts) -> list[ReferencePoint]:
    """The reference points of a group; none without scores."""
    of_data = facts.get(str(group.shared("data_digest")))
    if of_data is None or not group.has_quality:
        return []
    frequent = any(2 * train > of_data.train for train, _ in of_data.class_counts.values())
    about = of_data.problem, of_data.problem in BY_WORD, frequent
    return [
        ReferencePoint(
            phrase("points", "long", one.name, *about),
            phrase("points", "short", one.name, *about),
            None if (score := one.scores.get(group.metric)) is None else Interval(*score),
            one.about,
        )
        for one in of_data.references_for(group.first)
    ]


def reference_lines(group: Group, points: Sequence[ReferencePoint]) -> list[str]:
    """A sentence with the reference points' scores, and a warning if the best setting is not shown
    to be better than each of them."""
    scored = [point for point in points if point.score is not None]
    if not scored:
        return []
    best = _best(group)
    gaps = [(p.name, difference(best[1], p.score)) for p in points if best and p.score]
    ends = {name: gap.ends() or (gap.value, gap.value) for name, gap in gaps}
    gains = {name: sorted(map(group.scoring.gain, pair)) for name, pair in ends.items()}
    return sentences(
        "references", group=group, points=scored, best=best, warning=WARNING,
        worse=[(name, gap) for name, gap in gaps if gains[name][1] < 0],
        doubts=[(name, gap) for name, gap in gaps if gains[name][0] <= 0 <= gains[name][1]],
        form_gap=partial(score_gap, group),
    )  # fmt: skip


def final_line(final: FinalScore, metric: str = "") -> str:
    """A sentence with the score on test examples by a metric or, without that, by the choice's."""
    metric = metric if metric in final.scores else final.metric
    score, form = final.scores.get(metric), partial(by_metric, metric)
    known = None if score is None else Interval(*score)
    [line] = sentences("final", final=final, name=metric, score=known, form=form)
    return line


def reference_tables(group: Group, points: Sequence[ReferencePoint]) -> list[Table]:
    """A table of the reference points; none without any."""
    if not points:
        return []
    best, form, form_gap = _best(group), partial(score, group), partial(score_gap, group)
    rows = []
    for point in points:
        own = point.score
        gap = difference(best[1], own) if best and own else None
        rows.append({
            "reference": point.name,
            "score": None if own is None else form(own.value),
            "interval": None if own is None else span(own, form) or None,
            "best": None if gap is None else form_gap(gap.value),
            "best_interval": None if gap is None else span(gap, form_gap) or None,
            "about": point.about,
        })  # fmt: skip
    marks, words = ["reference"] * len(rows), {"metric": group.scoring.label}
    return [table("references", rows, marks=marks, words=words)]


def _best(group: Group) -> tuple[Setting, Interval] | None:
    """The setting with the best score, whether it is shown to have learned anything or not."""
    scored = [(s, score) for s in group.settings if (score := s.estimate("dev_score")) is not None]
    return max(scored, key=lambda each: group.gain(each[0]), default=None)
