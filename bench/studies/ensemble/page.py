"""The pages of ensembles. Importing this loads pandas and matplotlib."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bench.plan.cell import MULTITASK, OVERALL
from bench.report.drawing import Drawing
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table
from bench.report.text import count, dev_label, fixed, plain, signed, span, without_paths
from bench.stats.intervals import Interval
from bench.studies.ensemble import figures, rows
from bench.studies.ensemble.figures import BASELINE, PUBLISHED, Mark
from bench.studies.ensemble.outcome import BEST, CELL, ENSEMBLE, Entry, Outcome
from bench.studies.ensemble.overall import Overall
from bench.studies.ensemble.published import Published, caveat, published
from bench.studies.ensemble.rows import Row
from bench.studies.ensemble.show import label_of, number
from minbert.data.tasks import TASKS

_MOST_CELLS: Final = 40
"""Single cells in a figure."""
_METHOD: Final = (
    "Members are chosen greedily (Caruana et al. 2004) on training examples that every cell held "
    "out: the best cell first, then always the one whose addition scores highest. Dev chooses "
    "nothing.",
    "Intervals are at 95%, over dev examples; they do not include the variation between seeds. "
    "Differences are between two scores on the same examples, paired by example. A difference is "
    "significant if its interval excludes 0; nothing is corrected for the number of comparisons.",
    "Parameters are those of all members together: a frozen encoder that several share counts "
    "once.",
)
_SCORES: Final = (
    Head("dev_ci", "95% interval", "over dev examples"),
    Head("difference", "to the best member", "dev score less the best member's", numeric=True),
    Head("difference_ci", "95% interval", "of that difference, paired by example"),
    Head("held_score", "held out", "on the training examples that choose members", numeric=True),
    Head("parameters", "parameters", "of all its cells together", numeric=True),
)


@dataclass(frozen=True)
class Facts:
    """The content of the pages, for their templates; `said` describes the method."""

    title: str
    findings: Sequence[str]
    sections: Sequence[Section]
    said: Sequence[str]
    command: str

    @property
    def drawings(self) -> list[Drawing]:
        """All figures."""
        return [drawing for section in self.sections for drawing in section.drawings]


def facts_of(
    outcomes: Sequence[Outcome],
    overall: Overall | None,
    command: Sequence[str],
    *,
    with_published: bool,
) -> Facts:
    """The content of the pages of some ensembles.

    Args:
        command: the words of the command line that makes the pages again.
    """
    tasks = [_safe(outcome.candidates.task) for outcome in outcomes]
    findings = [
        f"{task}: {_brief(outcome.gain)}" for task, outcome in zip(tasks, outcomes, strict=True)
    ]
    sections = [
        _task(outcome, index, with_published=with_published)
        for index, outcome in enumerate(outcomes, start=1)
    ]
    if overall is not None:
        findings.insert(0, f"All together, {overall.formula}: {_brief(overall.gain)}")
        sections.insert(0, _overall(overall, with_published=with_published))
    names = " and ".join([*filter(None, [", ".join(tasks[:-1])]), tasks[-1]])
    return Facts(
        title=f"{'An ensemble' if len(outcomes) == 1 else 'Ensembles'} on {names}",
        findings=findings,
        sections=sections,
        said=_METHOD,
        command=without_paths(shlex.join(map(plain, command))),
    )


def _task(outcome: Outcome, index: int, *, with_published: bool) -> Section:
    """The section of one task."""
    candidates, label = outcome.candidates, dev_label(outcome.candidates.metric)
    task = _safe(candidates.task)
    papers = _papers(candidates.task, candidates.metric) if with_published else []
    among = count(len(candidates.members), "cell")
    method = f"It is the average of {outcome.average}; its members were chosen among {among}."
    problems = [f"Something went wrong: {_safe(problem)}." for problem in outcome.problems]
    stem = candidates.task if candidates.task in TASKS else f"task-{index}"
    return Section(
        anchor=f"task-{index}",
        short=task,
        heading=f"{task}: {_verdict(outcome.gain)}",
        said=[
            _finding(outcome, label), method, *map(_sentence, outcome.all_notes), *problems,
        ],
        drawings=_drawings(outcome, papers, label, stem),
        tables=[
            _scores_table(label, rows.compared_rows(outcome)),
            *_cells_tables(outcome, label),
            *_published_table(papers),
        ],
    )  # fmt: skip


def _overall(overall: Overall, *, with_published: bool) -> Section:
    """The section of the overall score. Published ones are of all parts, so a figure of fewer parts
    leaves them out."""
    label = dev_label(OVERALL)
    papers = _papers(MULTITASK, OVERALL) if with_published else []
    marks = [
        _mark(ENSEMBLE, ENSEMBLE, overall.ensemble),
        _mark(BEST, BEST, overall.best),
        *(_mark(label_of(entry.kind, entry.name), BASELINE, entry) for entry in overall.others),
        *(_paper_mark(paper) for paper in papers if not overall.missing),
    ]
    ensembles, best = (
        f"{fixed(entry.dev.value)} ({span(entry.dev)})"
        for entry in (overall.ensemble, overall.best)
    )
    finding = (
        f"The ensembles have a {label} of {ensembles}, the best members of all tasks, each alone "
        f"on its own, {best}. {_compared(overall.gain)}"
    )
    return Section(
        anchor="overall",
        short="all together",
        heading=f"All together: {_verdict(overall.gain)}",
        said=[finding, _sentence(f"the score is {overall.formula}"),
              *map(_sentence, overall.notes)],
        drawings=_scores_and_sizes(marks, label, "overall", ""),
        tables=[_scores_table(label, rows.compared_rows(overall)), *_published_table(papers)],
    )  # fmt: skip


def _finding(outcome: Outcome, label: str) -> str:
    ensemble, best = outcome.ensemble.dev, outcome.best.dev
    if len(outcome.members) == 1 and outcome.members[0][0] is outcome.best_member:
        tried = len(outcome.stages) > 1
        better = "no addition made it better on what was held out"
        return (
            f"The ensemble is its best member alone, {_safe(outcome.best.name)}, with a {label} "
            f"of {fixed(best.value)} ({span(best)}): {better if tried else 'no more were allowed'}."
        )
    return (
        f"The ensemble of {count(len(outcome.members), 'cell')} has a {label} of "
        f"{fixed(ensemble.value)} ({span(ensemble)}), its best member alone, "
        f"{_safe(outcome.best.name)}, {fixed(best.value)} ({span(best)}). "
        f"{_compared(outcome.gain)}"
    )


def _compared(gain: Interval) -> str:
    return f"Paired by example the difference is {_with_ends(gain)}: {_verdict(gain)}."


def _brief(gain: Interval) -> str:
    return f"{_with_ends(gain)} against the best alone: {_verdict(gain)}."


def _with_ends(gain: Interval) -> str:
    return f"{signed(gain.value)} ({span(gain, signed) or 'no interval'})"


def _verdict(gain: Interval) -> str:
    if gain.holds(0.0) is not False:
        return "no significant difference"
    return "significantly better" if gain.value > 0 else "significantly worse"


# Figures


def _drawings(
    outcome: Outcome, papers: Sequence[Published], label: str, stem: str
) -> list[Drawing]:
    alone = [entry for entry in outcome.alone if entry.members[0] is not outcome.best_member]
    alone.sort(key=lambda entry: -(entry.held_score or 0.0))
    best, others = outcome.best, outcome.others
    marks = [
        _mark(ENSEMBLE, ENSEMBLE, outcome.ensemble),
        _mark(label_of(best.kind, best.name), BEST, best),
        *(_mark(label_of(entry.kind, entry.name), BASELINE, entry) for entry in others),
        *(_mark(entry.name, CELL, entry) for entry in alone[:_MOST_CELLS]),
        *map(_paper_mark, papers),
    ]
    note = " Grey: each other cell alone, the best on what was held out first"
    more = f", {_MOST_CELLS} of {len(alone):,}" if len(alone) > _MOST_CELLS else ""
    drawings = _scores_and_sizes(marks, label, stem, f"{note}{more}." if alone else "")
    if len(outcome.stages) > 1:
        caption = (
            "The score as members are added, one at a time. The dashed line is the size that was "
            "taken: the smallest with the highest score on what was held out."
        )
        drawings.append(figures.choice(
            [stage.held_score for stage in outcome.stages],
            [stage.dev_score for stage in outcome.stages],
            outcome.size, label.removeprefix("dev "), f"{stem}-choice", caption,
        ))  # fmt: skip
    return drawings


def _scores_and_sizes(marks: Sequence[Mark], label: str, stem: str, note: str) -> list[Drawing]:
    papers = ""
    if any(mark.kind == PUBLISHED for mark in marks):
        papers = " Published scores are of other examples: what can be reached, and no comparison."
    caption = f"With 95% intervals over dev examples; dashed: the best member.{note}{papers}"
    drawings = [figures.scores(marks, label, f"{stem}-scores", caption)]
    if any(mark.parameters for mark in marks):
        caption = f"Those whose parameters are known.{papers}"
        drawings.append(figures.sizes(marks, label, f"{stem}-parameters", caption))
    return drawings


def _mark(label: str, kind: str, entry: Entry) -> Mark:
    return Mark(_safe(label), kind, entry.dev, entry.parameters)


def _paper_mark(paper: Published) -> Mark:
    return Mark(paper.model, PUBLISHED, Interval(paper.score), paper.parameters)


def _papers(task: str, metric: str) -> list[Published]:
    return [paper for paper in published(task) if paper.metric == metric]


# Tables


def _scores_table(label: str, entries: Sequence[Row]) -> Table:
    heads = [
        Head("who", "predictions of"), Head("dev_score", label, numeric=True), *_SCORES,
        Head("members", "cells", "how many different ones it is made of", numeric=True),
        Head("to_ensemble", "to the ensemble", "its score less the ensemble's, with the interval"),
    ]  # fmt: skip
    lines = [
        [
            _safe(label_of(row["kind"], row["name"])), *_scores(row), number(row["members"]),
            _to_ensemble(row),
        ]
        for row in entries
    ]  # fmt: skip
    marks = ["baseline" if row["difference"] is None else "" for row in entries]
    return Table(heads, lines, "Scores on the same dev examples.", marks)


def _cells_tables(outcome: Outcome, label: str) -> list[Table]:
    """The members, and the cells that were not taken."""
    heads = [
        Head("weight", "times", "how often it counts in the average", numeric=True),
        Head("cell", "cell"), Head("dev_score", label, numeric=True), *_SCORES,
    ]  # fmt: skip
    cells = rows.cell_rows(outcome)
    cells.sort(key=lambda row: (-row["weight"], -(row["held_score"] or 0)))
    lines = [[number(row["weight"]), _safe(row["name"]), *_scores(row)] for row in cells]
    taken = len(outcome.members)
    tables = [Table(heads, lines[:taken], "The members, and the score of each alone.")]
    if lines[taken:]:
        caption = f"{count(len(lines) - taken, 'cell')} that did not become members"
        tables.append(Table(heads, lines[taken:], caption, folded=True))
    return tables


def _published_table(papers: Sequence[Published]) -> list[Table]:
    """A table of published scores, if there are any."""
    if not papers:
        return []
    heads = [
        Head("model", "model"), Head("parameters", "parameters", numeric=True),
        Head("score", "score", numeric=True), Head("metric", "metric"),
        Head("split", "of", "the examples that were scored"), Head("source", "source"),
    ]  # fmt: skip
    lines = [
        [
            paper.model, number(paper.parameters), fixed(paper.score), paper.metric, paper.split,
            paper.source,
        ]
        for paper in papers
    ]  # fmt: skip
    return [Table(heads, lines, _sentence(caveat(papers[0].task)))]


def _scores(row: Row) -> list[str]:
    """The texts of a row for the dev score and for `_SCORES`."""
    held_score = row["held_score"]
    return [
        *_with_interval(_interval(row, "dev_score", "dev")),
        *_with_interval(_interval(row, "difference", "difference"), signed),
        DASH if held_score is None else fixed(held_score),
        number(row["parameters"]),
    ]


def _with_interval(
    score: Interval | None, shape: Callable[[float], str] = fixed
) -> tuple[str, str]:
    return (DASH, DASH) if score is None else (shape(score.value), span(score, shape) or DASH)


def _to_ensemble(row: Row) -> str:
    gap = _interval(row, "to_ensemble", "to_ensemble")
    if gap is None:
        return DASH
    ends = span(gap, signed)
    return signed(gap.value) + (f" ({ends})" if ends else "")


def _interval(row: Row, name: str, prefix: str) -> Interval | None:
    low, high = row[f"{prefix}_ci_low"], row[f"{prefix}_ci_high"]
    return None if row[name] is None else Interval(row[name], low, high)


# Text


def _safe(text: str) -> str:
    """A user's text without control characters and folders."""
    return without_paths(plain(text))


def _sentence(note: str) -> str:
    text = _safe(note)
    return f"{text[:1].upper()}{text[1:]}."
