"""Ensembles as sections of text and tables, for a terminal and, with figures, for pages. Importing
this loads pandas and matplotlib."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from bench.common.messages import echo
from bench.plan.cell import MULTITASK
from bench.report.drawing import Drawing
from bench.report.pages import Facts
from bench.report.sections import Section
from bench.report.show import print_tables
from bench.report.tables import DASH, Head, Table
from bench.report.text import clean, count, dev_label, fixed, signed, span, with_span
from bench.stats.intervals import Interval
from bench.studies.ensemble import figures
from bench.studies.ensemble.figures import BASELINE, PUBLISHED, Mark
from bench.studies.ensemble.outcome import BEST, CELL, ENSEMBLE, Entry, Outcome, Overall, Result
from bench.studies.ensemble.published import Published, caveat, published
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
_PUBLISHED: Final = (
    Head("model", "model"), Head("parameters", "parameters", numeric=True),
    Head("score", "score", numeric=True), Head("metric", "metric"),
    Head("split", "of", "the examples that were scored"), Head("source", "source"),
)  # fmt: skip


def print_sections(
    outcomes: Sequence[Outcome], overall: Overall | None, *, with_published: bool
) -> None:
    """Print the sections to stdout, without cells that did not become members."""
    for section in _sections(_results(outcomes, overall), with_published):
        echo(section.heading)
        tables = [table for table in section.tables if not table.folded]
        print_tables(tables, [*section.said, ""])


def facts_of(
    outcomes: Sequence[Outcome], overall: Overall | None, command: str, *, with_published: bool
) -> Facts:
    """The content of the pages of some ensembles.

    Args:
        command: the command line that makes the pages again.
    """
    results = _results(outcomes, overall)
    gains = [
        f"{signed(result.gain.value)} ({span(result.gain, signed) or 'no interval'}) against the "
        f"best alone: {_verdict(result.gain)}."
        for result in results
    ]
    tasks = [clean(outcome.task) for outcome in outcomes]
    names = [*([f"All together, {overall.formula}"] if overall else []), *tasks]
    listed = " and ".join([*filter(None, [", ".join(tasks[:-1])]), tasks[-1]])
    return Facts(
        title=f"{'An ensemble' if len(outcomes) == 1 else 'Ensembles'} on {listed}",
        findings=[f"{name}: {gain}" for name, gain in zip(names, gains, strict=True)],
        sections=[
            replace(section, drawings=_drawings(result, with_published, section))
            for result, section in zip(results, _sections(results, with_published), strict=True)
        ],
        said=_METHOD,
        command=command,
    )


def _papers(result: Result) -> list[Published]:
    papers = published(MULTITASK if isinstance(result, Overall) else result.task)
    return [paper for paper in papers if paper.metric == result.metric]


def _results(outcomes: Sequence[Outcome], overall: Overall | None) -> list[Outcome | Overall]:
    return [*([overall] if overall else []), *outcomes]


def _sections(results: Sequence[Outcome | Overall], with_published: bool) -> list[Section]:
    """The sections of all tasks together and of each, without figures."""
    sections: list[Section] = []
    for result in results:
        if isinstance(result, Overall):
            anchor, name, title = "overall", "all together", "All together"
            lines, cells = [f"The score is {result.formula}."], []
        else:
            name = title = clean(result.task)
            anchor = f"task-{sum(section.anchor != 'overall' for section in sections) + 1}"
            among = count(len(result.candidates.members), "cell")
            lines = [
                f"It is the average of {result.average}; its members were chosen among {among}."
            ]
            cells = _cells_tables(result)
        papers = _published_table(result) if with_published else []
        sections.append(Section(
            anchor, name, f"{title}: {_verdict(result.gain)}",
            [
                _finding(result), *lines, *map(_sentence, result.notes),
                *(f"Something went wrong: {clean(problem)}." for problem in result.problems),
            ],
            tables=[_scores_table(result), *cells, *papers],
        ))  # fmt: skip
    return sections


def _finding(result: Outcome | Overall) -> str:
    label = dev_label(result.metric)
    ensemble, best = with_span(result.ensemble.dev), with_span(result.best.dev)
    ends = span(result.gain, signed) or "no interval"
    gain = (
        f"Paired by example the difference is {signed(result.gain.value)} ({ends}): "
        f"{_verdict(result.gain)}."
    )
    if isinstance(result, Overall):
        return (
            f"The ensembles have a {label} of {ensemble}, the best members of all tasks, each "
            f"alone on its own, {best}. {gain}"
        )
    name = clean(result.best.name)
    if len(result.members) == 1 and result.members[0][0] is result.best_member:
        tried = len(result.stages) > 1
        better = "no addition made it better on what was held out"
        return (
            f"The ensemble is its best member alone, {name}, with a {label} of {best}: "
            f"{better if tried else 'no more were allowed'}."
        )
    return (
        f"The ensemble of {count(len(result.members), 'cell')} has a {label} of {ensemble}, its "
        f"best member alone, {name}, {best}. {gain}"
    )


def _verdict(gain: Interval) -> str:
    if gain.holds(0.0) is not False:
        return "no significant difference"
    return "significantly better" if gain.value > 0 else "significantly worse"


def _sentence(note: str) -> str:
    text = clean(note)
    return f"{text[:1].upper()}{text[1:]}."


def _drawings(result: Outcome | Overall, with_published: bool, section: Section) -> list[Drawing]:
    """The figures of a section. A published score of all parts is in none of fewer parts."""
    label, alone, best = dev_label(result.metric), [], BEST
    papers = _papers(result) if with_published else []
    if isinstance(result, Overall):
        stem, papers = section.anchor, [] if result.missing else papers
    else:
        stem = result.task if result.task in TASKS else section.anchor
        best = clean(result.best.label)
        alone = [entry for entry in result.alone if entry.members[0] is not result.best_member]
        alone.sort(key=lambda entry: -(entry.held_score or 0.0))
    entries = [
        (ENSEMBLE, ENSEMBLE, result.ensemble), (best, BEST, result.best),
        *((clean(entry.label), BASELINE, entry) for entry in result.others),
        *((clean(entry.name), CELL, entry) for entry in alone[:_MOST_CELLS]),
    ]  # fmt: skip
    marks = [Mark(name, kind, entry.dev, entry.parameters) for name, kind, entry in entries]
    marks += [
        Mark(paper.model, PUBLISHED, Interval(paper.score), paper.parameters) for paper in papers
    ]
    note = " Grey: each other cell alone, the best on what was held out first" if alone else ""
    note += f", {_MOST_CELLS} of {len(alone):,}" if len(alone) > _MOST_CELLS else ""
    other = " Published scores are of other examples: what can be reached, and no comparison."
    other = other if any(mark.kind == PUBLISHED for mark in marks) else ""
    caption = f"With 95% intervals over dev examples; dashed: the best member.{note}"
    drawings = [
        figures.scores(marks, label, f"{stem}-scores", f"{caption}{'.' if note else ''}{other}")
    ]
    if any(mark.parameters for mark in marks):
        caption = f"Those whose parameters are known.{other}"
        drawings.append(figures.sizes(marks, label, f"{stem}-parameters", caption))
    if isinstance(result, Outcome) and len(result.stages) > 1:
        caption = (
            "The score as members are added, one at a time. The dashed line is the size that was "
            "taken: the smallest with the highest score on what was held out."
        )
        drawings.append(figures.choice(
            [stage.held_score for stage in result.stages],
            [stage.dev_score for stage in result.stages],
            result.size, label.removeprefix("dev "), f"{stem}-choice", caption,
        ))  # fmt: skip
    return drawings


def _scores_table(result: Result) -> Table:
    heads = [
        Head("who", "predictions of"), Head("dev_score", dev_label(result.metric), numeric=True),
        *_SCORES,
        Head("members", "cells", "how many different ones it is made of", numeric=True),
        Head("to_ensemble", "to the ensemble", "its score less the ensemble's, with the interval"),
    ]  # fmt: skip
    lines, marks = [], []
    for entry in result.compared:
        difference, gap = result.differences(entry)
        cells = len({member.row.cell_id for member in entry.members})
        lines.append([
            clean(entry.label), *_scores(entry, difference), f"{cells:,}" if cells else DASH,
            with_span(gap, signed) if gap else DASH,
        ])  # fmt: skip
        marks.append("" if difference else "baseline")
    return Table(heads, lines, "Scores on the same dev examples.", marks)


def _cells_tables(outcome: Outcome) -> list[Table]:
    heads = [
        Head("weight", "times", "how often it counts in the average", numeric=True),
        Head("cell", "cell"), Head("dev_score", dev_label(outcome.metric), numeric=True), *_SCORES,
    ]  # fmt: skip
    weights = {member.row.cell_id: weight for member, weight in outcome.members}
    cells = [(weights.get(entry.members[0].row.cell_id, 0), entry) for entry in outcome.alone]
    cells.sort(key=lambda cell: (-cell[0], -(cell[1].held_score or 0)))
    lines = [
        [str(weight), clean(entry.name), *_scores(entry, outcome.differences(entry)[0])]
        for weight, entry in cells
    ]
    taken = len(weights)
    tables = [Table(heads, lines[:taken], "The members, and the score of each alone.")]
    if lines[taken:]:
        caption = f"{count(len(lines) - taken, 'cell')} that did not become members"
        tables.append(Table(heads, lines[taken:], caption, folded=True))
    return tables


def _published_table(result: Result) -> list[Table]:
    """A table of published scores, if there are any."""
    papers = _papers(result)
    if not papers:
        return []
    lines = [
        [p.model, _number(p.parameters), fixed(p.score), p.metric, p.split, p.source]
        for p in papers
    ]
    return [Table(_PUBLISHED, lines, _sentence(caveat(papers[0].task)))]


def _scores(entry: Entry, difference: Interval | None) -> list[str]:
    """An entry's dev score and the texts for `_SCORES`."""
    return [
        fixed(entry.dev.value),
        span(entry.dev) or DASH,
        signed(difference.value) if difference else DASH,
        (span(difference, signed) if difference else "") or DASH,
        DASH if entry.held_score is None else fixed(entry.held_score),
        _number(entry.parameters),
    ]


def _number(value: int | None) -> str:
    return DASH if value is None else f"{value:,}"
