"""What more labels would bring: the answer's score by the number of its training examples, and what
twice as many would add. docs/deciding.md says what is assumed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, log
from typing import Any

import numpy as np

from bench.analysis.groups import Group
from bench.analysis.recommendation import Recommendation
from bench.analysis.setting import Setting
from bench.analysis.verdicts import compare
from bench.common.grouping import grouped
from bench.plan.rows import Row, latest
from bench.report.drawing import BLUE, ORANGE, Drawing, canvas
from bench.report.pages import Section, phrase, sentences
from bench.report.text import y_label
from bench.results.rescoring import Results
from bench.stats.intervals import Interval


@dataclass(frozen=True, eq=False)
class LabelCurve:
    group: Group
    settings: Mapping[int, Setting]  # the same, trained on so many examples, from the fewest on
    scores: Mapping[int, Interval]
    gain: Interval  # what twice as many examples as the most would add

    @property
    def lines(self) -> list[str]:
        return sentences("labels", curve=self, group=self.group)

    def to_json(self) -> dict[str, Any]:
        points = [{"examples": n, **vars(one)} for n, one in self.scores.items()]
        return {"points": points, "twice_adds": vars(self.gain)}


def doubled(ratio: float, difference: Interval, room: float = inf) -> Interval:
    """What twice the examples add, if `ratio` times as many have added a difference and errors
    shrink as 1 / √n, but no more than there is room for. The interval is that of the difference by
    any curve between a line in the logarithm of n and errors that shrink as 1 / n."""
    middle, fast = ((1 - 2**-power) / (ratio**power - 1) for power in (0.5, 1))
    line = log(2) / log(ratio)
    ends = [sorted((line * end, fast * end)) for end in difference.ends() or ()]
    every = middle * difference.value, *([ends[0][0], ends[1][1]] if ends else [])
    return Interval(*(min(value, room) for value in every))


def label_curve(
    answer: Recommendation | None, rows: Sequence[Row], results: Results
) -> LabelCurve | None:
    """The curve of the answer's setting, from rows that differ in seeds and training examples alone
    and have the same labels of dev; None without any."""
    setting = answer and answer.subject
    whole = next((row for row in setting.rows if row.has_score), None) if setting else None
    if not (answer and setting and whole and whole.data_digest in results.facts) or whole.is_trial:
        return None

    def place(row: Row) -> tuple[object, ...]:
        cell = replace(row.cell, seed=0, data_digest="")
        dev = [outcome.examples for outcome in (results.predictions_of([row]) or {}).values()]
        return cell.cell_id, row.task, row.max_dev, *row.software, dev

    most = results.facts[whole.data_digest].train
    fewer = [r for r in latest(rows).values() if r.has_score and 2 * (r.max_train or most) <= most]
    by_size = grouped([r for r in fewer if place(r) == place(whole)], lambda r: r.max_train or most)
    parts = {n: replace(setting, rows=tuple(by_size[n]), elsewhere=()) for n in sorted(by_size)}
    seeds = {row.seed for part in parts.values() for row in part.rows}
    alike = tuple(row for row in setting.rows if row.seed in seeds)
    setting = replace(setting, rows=alike, elsewhere=())
    group, every = answer.candidates.group, {**parts, most: setting}
    gap = compare(group, "score", setting, parts[max(parts)]) if parts else None
    scores = {n: score for n, one in every.items() if (score := one.estimate("dev_score"))}
    if gap is None:
        return None
    is_share = group.scoring.bounded and group.scoring.higher_is_better
    room = 1 - scores[most].value if is_share else inf
    return LabelCurve(group, every, scores, doubled(most / max(parts), gap, room))


def labels_section(curve: LabelCurve) -> Section:
    """Scores by the logarithm of the number of examples; dashed, what twice as many would add."""
    *_, (most, last) = curve.scores.items()
    added = curve.gain.value, *(curve.gain.ends() or ())
    further = {most: Interval(last.value), 2 * most: Interval(*(last.value + x for x in added))}
    with canvas(2.4) as (figure, axes):
        for colour, form, points in ((ORANGE, "o--", further), (BLUE, "o-", curve.scores)):
            values = np.array([one.value for one in points.values()])
            ends = np.array([one.ends() or (one.value, one.value) for one in points.values()])
            axes.errorbar([*points], values, np.abs(ends.T - values), fmt=form, color=colour)
        axes.set(xscale="log", xlabel="training examples", ylabel=y_label(curve.group))
        axes.set_xticks(sizes := [*curve.scores, 2 * most], [f"{n:,}" for n in sizes])
        axes.minorticks_off()
    heading, *lines = curve.lines
    drawing = Drawing.of(figure, "labels", lines[0], phrase("captions", "labels"))
    return Section("labels", "More labels", heading, lines, [drawing])
