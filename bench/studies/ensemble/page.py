"""Ensembles as sections of text and tables, for a terminal and, with figures, for pages. Importing
this loads pandas and matplotlib."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from bench.common.messages import echo, enumerated
from bench.plan.columns import CORRELATED
from bench.report.drawing import Drawing
from bench.report.pages import Facts, Section, sentences
from bench.report.show import print_tables
from bench.report.tables import Table, table
from bench.report.text import clean, count, dev_label
from bench.stats.intervals import Interval
from bench.studies.ensemble import figures
from bench.studies.ensemble.figures import BASELINE, PUBLISHED, Mark
from bench.studies.ensemble.published import Published, caveat
from bench.studies.ensemble.result import BEST, CELL, ENSEMBLE, Entry, Overall, Result, TaskResult
from minbert.data.tasks import TASKS

_MOST_CELLS: Final = 40
"""Single cells in a figure."""
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
        tables += _published_tables(result)
        heading, *lines = sentences(
            "ensemble", result=result, title=title, label=dev_label(result.metric), **_WORDS
        )
        sections.append(Section(anchor, short, heading, lines, tables=tables))
    return sections


def _drawings(result: Result, section: Section) -> list[Drawing]:
    """The figures of a section. A published score of all parts is in none of fewer parts."""
    label, alone, best = dev_label(result.metric), [], BEST
    papers = [] if isinstance(result, Overall) and result.missing else _papers(result)
    stem, size, held_out, dev = section.anchor, 0, [], []
    if isinstance(result, TaskResult):
        size, held_out = result.size, [stage.held_score for stage in result.stages]
        dev = [stage.dev_score for stage in result.stages]
        stem = result.task if result.task in TASKS else stem
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
    words = sentences(
        "ensemble_figures", marks=marks, label=label, others=len(alone), most=_MOST_CELLS,
        held_out=held_out, dev=dev, taken=size, cell=CELL, published=PUBLISHED, **_WORDS,
    )  # fmt: skip
    drawings = [figures.scores(marks, label, f"{stem}-scores", *words[:2])]
    if any(mark.parameters for mark in marks):
        drawings.append(figures.sizes(marks, label, f"{stem}-parameters", *words[2:4]))
    if len(dev) > 1:
        label = label.removeprefix("dev ")
        drawings.append(figures.choice(held_out, dev, size, label, f"{stem}-choice", *words[4:]))
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


def _papers(result: Result) -> list[Published]:
    return [paper for paper in result.published or () if paper.metric == result.metric]


def _published_tables(result: Result) -> list[Table]:
    papers = _papers(result)
    if not papers:
        return []
    caption = caveat(papers[0].task)
    rows = [paper._asdict() for paper in papers]
    return [table("published", rows, f"{caption[:1].upper()}{caption[1:]}.")]
