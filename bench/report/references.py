"""Reference points beside a group's scores: what methods without fine-tuning score on its data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.plan.metrics import metric_of
from bench.plan.problems import MULTI_LABEL, REGRESSION
from bench.report.tables import DASH, Head, Table
from bench.report.text import by_metric, count, score, score_gap, span
from bench.results.facts import FROZEN, MAJORITY, TFIDF, DataFacts, FinalScore
from bench.stats.intervals import Interval, difference

WARNING: Final = "Warning:"
"""The first word of a line that pages show as a warning."""


@dataclass(frozen=True)
class ReferencePoint:
    """A method without fine-tuning: its name, a shorter one, its score, and how it was obtained.

    `score` is None where the group's metric is not defined for it, or it was left out.
    """

    name: str
    short: str
    score: Interval | None
    about: str


def reference_points(group: Group, facts: Mapping[str, DataFacts]) -> list[ReferencePoint]:
    """The reference points of a group; none without scores."""
    of_data = facts.get(str(group.shared("data_digest")))
    if of_data is None or not group.has_quality:
        return []
    frequent = any(2 * train > of_data.train for train, _ in of_data.class_counts.values())
    labels = ("the labels of most examples", "most frequent labels")
    majority = {
        REGRESSION: ("the mean of the training labels", "mean"),
        MULTI_LABEL: labels if frequent else ("no label, as none is on most examples", "no label"),
    }
    names = {
        MAJORITY: majority.get(of_data.problem, ("majority class", "majority class")),
        TFIDF: ("TF-IDF with a linear model", "TF-IDF"),
        FROZEN: ("the frozen encoder with a linear model", "frozen encoder"),
    }
    points = []
    for reference in of_data.references_for(group.first):
        score = reference.scores.get(group.metric)
        interval = None if score is None else Interval(*score)
        points.append(ReferencePoint(*names[reference.name], interval, reference.about))
    return points


def reference_lines(group: Group, points: Sequence[ReferencePoint]) -> list[str]:
    """A sentence with the reference points' scores, and a warning if the best setting is not shown
    to be better than each of them."""
    scored = [(point.name, point.score) for point in points if point.score is not None]
    if not scored:
        return []
    form, form_gap = partial(score, group), partial(score_gap, group)
    listed = ", ".join(f"{name} {form(reference.value)}" for name, reference in scored)
    lines = [f"Reference points, by {group.scoring.label} on the same dev examples: {listed}."]
    best = _best(group)
    if best is None:
        return lines
    setting, own = best
    worse, doubts = [], []
    for name, reference in scored:
        gap = difference(own, reference)
        gains = [group.scoring.gain(end) for end in gap.ends() or (gap.value, gap.value)]
        interval = f", 95% interval {span(gap, form_gap)}" if gap.ends() else ""
        text = f"{name} (difference {form_gap(gap.value)}{interval})"
        if max(gains) < 0:
            worse.append(text)
        elif min(gains) <= 0:
            doubts.append(text)
    said = [f"scores worse than {' and '.join(worse)}"] * bool(worse)
    said += [f"is not shown to be better than {' or '.join(doubts)}"] * bool(doubts)
    if said:
        best_one = f"{setting.label} ({form(own.value)})"
        lines.append(f"{WARNING} the best setting, {best_one}, {' and '.join(said)}.")
    return lines


def final_line(final: FinalScore, metric: str = "") -> str:
    """A sentence with the score on test examples.

    Args:
        metric: the metric that decides in the report; by default that of the choice.
    """
    metric = metric if metric in final.scores else final.metric
    score, form = final.scores.get(metric), partial(by_metric, metric)
    value = "has no defined score" if score is None else f"scores {form(score[0])}"
    interval = "" if score is None else f" (95% interval {span(Interval(*score), form)})"
    return (
        f"On test: {final.setting}, trained again with seed {final.seed}, {value} by "
        f"{metric_of(metric).label}{interval} on {count(final.examples, 'example')} of "
        f"{final.test}. It was chosen by its {metric_of(final.metric).label} of "
        f"{by_metric(final.metric, final.dev)} on dev. This was measured once, on {final.at[:10]}."
    )


def reference_tables(group: Group, points: Sequence[ReferencePoint]) -> list[Table]:
    """A table of the reference points; none without any."""
    if not points:
        return []
    best, form, form_gap = _best(group), partial(score, group), partial(score_gap, group)
    rows = []
    for point in points:
        gap = difference(best[1], point.score) if best and point.score else None
        rows.append([
            point.name,
            DASH if point.score is None else form(point.score.value),
            DASH if point.score is None else span(point.score, form) or DASH,
            DASH if gap is None else form_gap(gap.value),
            DASH if gap is None else span(gap, form_gap) or DASH,
            point.about,
        ])  # fmt: skip
    heads = (
        Head("reference", "reference point"), Head("score", group.scoring.label, numeric=True),
        Head("interval", "95% interval", numeric=True),
        Head("best", "best setting − this one", numeric=True),
        Head(
            "best_interval", "95% interval", "Of the difference, as if on different examples",
            numeric=True,
        ),
        Head("about", "how it was obtained"),
    )  # fmt: skip
    marks = ["reference"] * len(rows)
    return [Table(heads, rows, "Reference points: methods without fine-tuning.", marks)]


def _best(group: Group) -> tuple[Setting, Interval] | None:
    """The setting with the best score, whether it is shown to have learned anything or not."""
    scored = [(s, score) for s in group.settings if (score := s.estimate("dev_score")) is not None]
    return max(scored, key=lambda each: group.scoring.gain(each[1].value), default=None)
