"""Ensembles as text, tables and figures, on a terminal and pages. Loads pandas and matplotlib."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from bench.common.messages import echo, enumerated
from bench.plan.columns import CORRELATED
from bench.report import drawing
from bench.report.drawing import BLUE, GREY, INK, ORANGE, PAPER, PURPLE, Drawing, canvas
from bench.report.pages import Facts, Section, sentences
from bench.report.tables import Table, print_tables, table
from bench.report.text import clean, count, dev_label, shortened
from bench.stats.intervals import Interval
from bench.studies.ensemble import result as ensembles
from bench.studies.ensemble.result import BEST, CELL, ENSEMBLE, Entry, Overall, Result, TaskResult
from minbert.data.tasks import TASKS

_MOST_CELLS: Final = 40  # single cells in a figure
BASELINE: Final = "baseline"
PUBLISHED: Final = "published, on other examples"
_SHAPES: Final = {
    ENSEMBLE: ("o", BLUE, BLUE, 7.5),
    BEST: ("s", INK, INK, 6.5),
    BASELINE: ("^", ORANGE, ORANGE, 6.5),
    CELL: ("o", GREY, PAPER, 5.0),
    PUBLISHED: ("D", PURPLE, PAPER, 5.5),
}
"""Marker, colour, the colour that fills it, and size."""
_LONGEST: Final = 44  # characters of a label
_DASHED: Final[Any] = {"color": INK, "linewidth": 0.7, "linestyle": (0, (2, 3)), "zorder": 1}
_WORDS: Final = {"correlated": CORRELATED, "enumerated": enumerated}


def print_sections(results: Sequence[Result]) -> None:
    """Print the sections to stdout, without cells that did not become members."""
    for section in _sections(results):
        echo(section.heading)
        print_tables([each for each in section.tables if not each.folded], [*section.lines, ""])


def facts_of(results: Sequence[Result], command: str) -> Facts:
    """The content of the pages of some ensembles, made again by a command line."""
    tasks = [clean(result.task) for result in results if isinstance(result, TaskResult)]
    title, *lines = sentences("ensemble_page", results=results, tasks=tasks, **_WORDS)
    return Facts(
        title=title,
        findings=lines[: len(results)],
        sections=[
            replace(section, drawings=_drawings(result, section))
            for result, section in zip(results, _sections(results), strict=True)
        ],
        notes=lines[len(results) :],
        command=command,
    )


def _sections(results: Sequence[Result]) -> list[Section]:
    """The sections of all tasks together and of each, without figures."""
    sections = []
    for number, result in enumerate(results, start=0 if isinstance(results[0], Overall) else 1):
        tables = [_scores_table(result)]
        anchor, short, title = "overall", "all together", "All together"
        if isinstance(result, TaskResult):
            anchor, short, title = f"task-{number}", clean(result.task), clean(result.task)
            tables += _cells_tables(result)
        if papers := _papers(result):
            caption = ensembles.caveat(papers[0].task)
            rows = [paper._asdict() for paper in papers]
            tables.append(table("published", rows, f"{caption[:1].upper()}{caption[1:]}."))
        heading, *lines = sentences(
            "ensemble", result=result, title=title, label=dev_label(result.metric), **_WORDS
        )
        sections.append(Section(anchor, short, heading, lines, tables=tables))
    return sections


def _drawings(result: Result, section: Section) -> list[Drawing]:
    """The figures of a section. A published score of all parts is in none of fewer parts."""
    label, alone, best = dev_label(result.metric), [], BEST
    papers = [] if isinstance(result, Overall) and result.missing else _papers(result)
    stem, stages, size = section.anchor, list[object](), 0
    if isinstance(result, TaskResult):
        stages, size = [*result.stages], result.size
        stem = result.task if result.task in TASKS else stem
        best = clean(result.best.label)
        alone = [entry for entry in result.alone if entry.members[0] is not result.best_member]
        alone.sort(key=lambda entry: -(entry.held_score or 0.0))
    entries = [
        (ENSEMBLE, ENSEMBLE, result.ensemble), (best, BEST, result.best),
        *((clean(entry.label), BASELINE, entry) for entry in result.others),
        *((clean(entry.name), CELL, entry) for entry in alone[:_MOST_CELLS]),
    ]  # fmt: skip
    marks = [_Mark(name, kind, entry.dev, entry.parameters) for name, kind, entry in entries]
    marks += [
        _Mark(paper.model, PUBLISHED, Interval(paper.score), paper.parameters) for paper in papers
    ]
    words = sentences(
        "ensemble_figures", marks=marks, label=label, others=len(alone), most=_MOST_CELLS,
        stages=stages, taken=size, cell=CELL, published=PUBLISHED, **_WORDS,
    )  # fmt: skip
    drawings = [_draw_scores(marks, label, f"{stem}-scores", *words[:2])]
    if any(mark.parameters for mark in marks):
        drawings.append(_draw_sizes(marks, label, f"{stem}-parameters", *words[2:4]))
    if isinstance(result, TaskResult) and len(stages) > 1:
        drawings.append(_draw_choice(result, f"{stem}-choice", *words[4:]))
    return drawings


def _scores_table(result: Result) -> Table:
    rows = [
        {
            "who": clean(entry.label),
            **_scores(entry, result),
            "members": len({member.row.cell_id for member in entry.members}) or None,
            "to_ensemble": result.differences(entry)[1],
        }
        for entry in result.compared
    ]
    marks = ["" if row["difference"] else "baseline" for row in rows]
    caption = "Scores on the same dev examples."
    return table("ensemble", rows, caption, marks, {"metric": dev_label(result.metric)})


def _cells_tables(result: TaskResult) -> list[Table]:
    weights = {member.row.cell_id: weight for member, weight in result.members}
    cells = [(weights.get(entry.members[0].row.cell_id, 0), entry) for entry in result.alone]
    cells.sort(key=lambda cell: (-cell[0], -(cell[1].held_score or 0)))
    rows = [
        {"weight": weight, "cell": clean(entry.name), **_scores(entry, result)}
        for weight, entry in cells
    ]
    members, others = rows[: len(weights)], rows[len(weights) :]
    metric = {"metric": dev_label(result.metric)}
    caption = "The members, and the score of each alone."
    tables = [table("ensemble", members, caption, words=metric)]
    if others:
        caption = f"{count(len(others), 'cell')} that did not become members"
        tables.append(table("ensemble", others, caption, words=metric, folded=True))
    return tables


def _scores(entry: Entry, result: Result) -> dict[str, object]:
    return {
        "dev": entry.dev, "difference": result.differences(entry)[0],
        "held_score": entry.held_score, "parameters": entry.parameters,
    }  # fmt: skip


def _papers(result: Result) -> list[ensembles.Published]:
    return [paper for paper in result.published or () if paper.metric == result.metric]


class _Mark(NamedTuple):
    """A marker in a figure, of one of the kinds in `_SHAPES`."""

    label: str
    kind: str
    score: Interval
    parameters: int | None = None


def _draw_scores(marks: Sequence[_Mark], label: str, stem: str, alt: str, caption: str) -> Drawing:
    """One line for each mark with its score and interval; published scores separate at the end."""
    measured = [mark for mark in marks if mark.kind != PUBLISHED]
    papers = [mark for mark in marks if mark.kind == PUBLISHED]
    lines = [*measured, *papers]
    with canvas(1.1 + 0.24 * max(len(lines), 3)) as (figure, axes):
        for y, mark in enumerate(lines):
            _add(axes, mark, mark.score.value, y, xerr=_lengths(mark), elinewidth=1.3)
            if mark.kind == BEST:
                axes.axvline(mark.score.value, **_DASHED)
        if papers:
            axes.axhline(len(measured) - 0.5, color=GREY, linewidth=0.9)
        drawing.name_lines(axes, [shortened(mark.label, _LONGEST) for mark in lines])
        axes.set_xlabel(label)
        drawing.add_legend(figure, axes.get_legend_handles_labels()[0], 3)
    return Drawing.of(figure, stem, alt, caption)


def _draw_sizes(marks: Sequence[_Mark], label: str, stem: str, alt: str, caption: str) -> Drawing:
    known = [(mark, mark.parameters) for mark in marks if mark.parameters]
    counts = [parameters for _, parameters in known]
    with canvas(3.6) as (figure, axes):
        for mark, parameters in known:
            _add(axes, mark, parameters, mark.score.value, yerr=_lengths(mark), elinewidth=1.0)
            if mark.kind in (BASELINE, PUBLISHED):
                axes.annotate(
                    shortened(mark.label, _LONGEST), (parameters, mark.score.value), xytext=(6, 0),
                    textcoords="offset points", va="center", fontsize=7.5, color=INK,
                )  # fmt: skip
        low, high = min(counts) / 1.5, max(counts) * 8
        drawing.log_axis(axes, low, high, lambda tick: f"{tick / 1e6:g}M")
        axes.set(xlim=(low, high), xlabel="parameters of all members together", ylabel=label)
        axes.margins(y=0.12)
        drawing.add_legend(figure, axes.get_legend_handles_labels()[0], 3)
    return Drawing.of(figure, stem, alt, caption)


def _draw_choice(result: TaskResult, stem: str, alt: str, caption: str) -> Drawing:
    """Scores at each step of the greedy choice, and the size of the ensemble that was taken."""
    label = dev_label(result.metric).removeprefix("dev ")
    curves = (
        ("held out, which chooses", [one.held_score for one in result.stages], BLUE, "o", "-"),
        ("dev, which chooses nothing", [one.dev_score for one in result.stages], ORANGE, "^", "--"),
    )
    with canvas(3.2) as (figure, axes):
        axes.axvline(result.size, **_DASHED)
        lines = []
        for name, values, colour, marker, style in curves:
            lines += axes.plot(
                range(1, len(values) + 1), np.array(values, dtype=float), color=colour,
                marker=marker, markersize=3.5, linestyle=style, label=name,
            )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="members, each counted by its weight", ylabel=label)
        figure.legend(handles=lines, loc="outside lower center", ncols=2)
    return Drawing.of(figure, stem, alt, caption)


def _add(axes: Axes, mark: _Mark, x: float, y: float, **bars: Any) -> None:
    """Draw a mark with its interval; it is in the legend if it is the first of its kind."""
    marker, colour, filling, size = _SHAPES[mark.kind]
    labels = axes.get_legend_handles_labels()[1]
    axes.errorbar(
        [x], [y], **bars, linestyle="none", color=colour, marker=marker, markerfacecolor=filling,
        markersize=size, markeredgewidth=1.2, zorder=3 if mark.kind == CELL else 4,
        label="" if mark.kind in labels else mark.kind,
    )  # fmt: skip


def _lengths(mark: _Mark) -> list[list[float]] | None:
    """The lengths of an interval's lower and upper half."""
    ends = mark.score.ends()
    return ends and [[abs(mark.score.value - end)] for end in ends]
