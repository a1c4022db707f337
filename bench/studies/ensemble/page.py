"""What the pages of ensembles say. Importing this loads pandas and matplotlib."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.plan.cell import MULTITASK, OVERALL
from bench.report.drawing import Drawing
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table
from bench.report.text import count, dev_label, fixed, plain, signed, span, without_paths
from bench.stats.intervals import Interval
from bench.studies.ensemble import figures, rows
from bench.studies.ensemble.figures import BESIDE, PUBLISHED, Mark
from bench.studies.ensemble.outcome import BEST, CELL, ENSEMBLE, Outcome, Scored, notes_of
from bench.studies.ensemble.published import Published, caveat, published
from bench.studies.ensemble.rows import Row
from bench.studies.ensemble.together import Together
from minbert.data.tasks import TASKS

_MOST_CELLS: Final = 40
"""Cells alone that figures show."""
_SAID: Final = (
    "Members are chosen greedily (Caruana et al. 2004) on training examples that every cell held "
    "out: the best cell first, then always the one whose addition scores highest. Dev chooses "
    "nothing.",
    "Intervals are at 95%, over dev examples: what other seeds would change is not in them. A "
    "difference is of two scores on the same examples, example by example. It is called proven if "
    "its interval leaves 0 out; nothing is corrected for the number of comparisons.",
    "Parameters are those of all members together: a frozen encoder that several share counts "
    "once.",
)
_SCORES: Final = (
    Head("dev_ci", "95% interval", "over dev examples"),
    Head("difference", "to the best member", "dev score less the best member's", numeric=True),
    Head("difference_ci", "95% interval", "of that, example by example"),
    Head("held_score", "held out", "on the training examples that choose members", numeric=True),
    Head("parameters", "parameters", "of all its cells together", numeric=True),
)


@dataclass(frozen=True)
class Facts:
    """Everything that the pages say; `said` is of how it was made."""

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
    outcomes: Sequence[Outcome], overall: Together | None, command: Sequence[str], *, beside: bool
) -> Facts:
    """What there is to say of ensembles.

    Args:
        command: the words of the line that makes the pages again.
        beside: whether published scores are told too.
    """
    tasks = [_shown(outcome.candidates.task) for outcome in outcomes]
    findings = [f"{task}: {_brief(of.gain)}" for task, of in zip(tasks, outcomes, strict=True)]
    sections = [_task(outcome, number, beside) for number, outcome in enumerate(outcomes, start=1)]
    if overall is not None:
        findings.insert(0, f"All together, {overall.counted}: {_brief(overall.gain)}")
        sections.insert(0, _together(overall, beside))
    which = " and ".join([*filter(None, [", ".join(tasks[:-1])]), tasks[-1]])
    return Facts(
        title=f"{'An ensemble' if len(outcomes) == 1 else 'Ensembles'} on {which}",
        findings=findings,
        sections=sections,
        said=_SAID,
        command=without_paths(shlex.join(map(plain, command))),
    )


def _task(outcome: Outcome, number: int, beside: bool) -> Section:
    """All of one task."""
    candidates, label = outcome.candidates, dev_label(outcome.candidates.metric)
    task = _shown(candidates.task)
    papers = _papers(candidates.task, candidates.metric, beside)
    among = count(len(candidates.members), "cell")
    how = f"It is the average of {outcome.average}; its members were chosen among {among}."
    problems = [f"Something went wrong: {_shown(problem)}." for problem in outcome.problems]
    notes = [_sentence(note) for note in notes_of(outcome)]
    stem = candidates.task if candidates.task in TASKS else f"task-{number}"
    return Section(
        anchor=f"task-{number}",
        short=task,
        heading=f"{task}: {_verdict(outcome.gain)}",
        said=[_finding(outcome, label), how, *notes, *problems],
        drawings=_drawings(outcome, papers, label, stem),
        tables=[
            _scored_table(label, rows.beside(outcome)),
            *_cells_tables(outcome, label),
            *_published_table(papers),
        ],
    )


def _together(overall: Together, beside: bool) -> Section:
    """The overall score. What papers have is of all parts, so it stands in no figure of fewer."""
    label = dev_label(OVERALL)
    papers = _papers(MULTITASK, OVERALL, beside)
    scored = (overall.ensembles, overall.best)
    marks = [
        *(_mark(kind, kind, of) for kind, of in zip((ENSEMBLE, BEST), scored, strict=True)),
        *(_mark(_who(of.kind, of.name), BESIDE, of) for of in overall.others),
        *(_paper_mark(of) for of in papers if not overall.missing),
    ]
    two = [f"{fixed(of.dev.value)} ({span(of.dev)})" for of in scored]
    finding = (
        f"The ensembles have a {label} of {two[0]}, the best members of all tasks, each alone on "
        f"its own, {two[1]}. {_compared(overall.gain)}"
    )
    return Section(
        anchor="overall",
        short="all together",
        heading=f"All together: {_verdict(overall.gain)}",
        said=[finding, _sentence(f"the score is {overall.counted}"),
              *map(_sentence, overall.notes)],
        drawings=_scores_and_sizes(marks, label, "overall", ""),
        tables=[_scored_table(label, rows.all_beside(overall)), *_published_table(papers)],
    )  # fmt: skip


def _finding(outcome: Outcome, label: str) -> str:
    ensemble, best = outcome.ensemble.dev, outcome.best.dev
    if len(outcome.members) == 1 and outcome.members[0][0] is outcome.best_member:
        tried = len(outcome.stages) > 1
        better = "no addition made it better on what was held out"
        return (
            f"The ensemble is its best member alone, {_shown(outcome.best.name)}, with a {label} "
            f"of {fixed(best.value)} ({span(best)}): {better if tried else 'no more were allowed'}."
        )
    return (
        f"The ensemble of {count(len(outcome.members), 'cell')} has a {label} of "
        f"{fixed(ensemble.value)} ({span(ensemble)}), its best member alone, "
        f"{_shown(outcome.best.name)}, {fixed(best.value)} ({span(best)}). "
        f"{_compared(outcome.gain)}"
    )


def _compared(gain: Interval) -> str:
    said = f"{signed(gain.value)} ({span(gain, signed) or 'no interval'})"
    return f"Example by example the difference is {said}: {_verdict(gain)}."


def _brief(gain: Interval) -> str:
    said = f"{signed(gain.value)} ({span(gain, signed) or 'no interval'})"
    return f"{said} against the best alone: {_verdict(gain)}."


def _verdict(gain: Interval) -> str:
    if gain.holds(0.0) is not False:
        return "no difference is proven"
    return "better, which is proven" if gain.value > 0 else "worse, which is proven"


# Figures


def _drawings(
    outcome: Outcome, papers: Sequence[Published], label: str, stem: str
) -> list[Drawing]:
    alone = [of for of in outcome.alone if of.members[0] is not outcome.best_member]
    alone.sort(key=lambda of: -(of.held or 0.0))
    best = _who(outcome.best.kind, outcome.best.name)
    marks = [
        _mark(ENSEMBLE, ENSEMBLE, outcome.ensemble),
        _mark(best, BEST, outcome.best),
        *(_mark(_who(of.kind, of.name), BESIDE, of) for of in outcome.others),
        *(_mark(of.name, CELL, of) for of in alone[:_MOST_CELLS]),
        *map(_paper_mark, papers),
    ]
    note = " Grey: each other cell alone, the best on what was held out first"
    more = f", {_MOST_CELLS} of {len(alone):,}" if len(alone) > _MOST_CELLS else ""
    drawn = _scores_and_sizes(marks, label, stem, f"{note}{more}." if alone else "")
    if len(outcome.stages) > 1:
        caption = (
            "The score as members are added, one at a time. The dashed line is where it was taken: "
            "at the smallest number with the highest score on what was held out."
        )
        drawn.append(figures.choice(
            [stage.held for stage in outcome.stages], [stage.dev for stage in outcome.stages],
            outcome.size, label.removeprefix("dev "), f"{stem}-choice", caption,
        ))  # fmt: skip
    return drawn


def _scores_and_sizes(marks: Sequence[Mark], label: str, stem: str, note: str) -> list[Drawing]:
    apart = ""
    if any(mark.kind == PUBLISHED for mark in marks):
        apart = " Published scores are of other examples: what can be reached, and no comparison."
    dots = f"With 95% intervals over dev examples; dashed: the best member.{note}{apart}"
    found = [figures.scores(marks, label, f"{stem}-scores", dots)]
    if any(mark.parameters for mark in marks):
        text = f"Those whose parameters are known.{apart}"
        found.append(figures.sizes(marks, label, f"{stem}-parameters", text))
    return found


def _mark(label: str, kind: str, of: Scored) -> Mark:
    return Mark(_shown(label), kind, of.dev, of.parameters)


def _paper_mark(of: Published) -> Mark:
    return Mark(of.model, PUBLISHED, Interval(of.score), of.parameters)


def _papers(task: str, metric: str, beside: bool) -> list[Published]:
    return [of for of in published(task) if of.metric == metric] if beside else []


# Tables


def _scored_table(label: str, found: Sequence[Row]) -> Table:
    heads = [
        Head("who", "who"), Head("dev_score", label, numeric=True), *_SCORES,
        Head("members", "cells", "how many different ones it is made of", numeric=True),
        Head("to_ensemble", "to the ensemble", "its score less the ensemble's, with the interval"),
    ]  # fmt: skip
    told = [
        [
            _shown(_who(row["kind"], row["name"])), *_figures(row), _number(row["members"]),
            _to_ensemble(row),
        ]
        for row in found
    ]  # fmt: skip
    marks = ["baseline" if row["difference"] is None else "" for row in found]
    return Table(heads, told, "Who is scored, on the same dev examples.", marks)


def _cells_tables(outcome: Outcome, label: str) -> list[Table]:
    """The members, and the cells that were not taken."""
    heads = [
        Head("weight", "times", "how often it counts in the average", numeric=True),
        Head("cell", "cell"), Head("dev_score", label, numeric=True), *_SCORES,
    ]  # fmt: skip
    found = sorted(rows.cells(outcome), key=lambda row: (-row["weight"], -(row["held_score"] or 0)))
    told = [[_number(row["weight"]), _shown(row["name"]), *_figures(row)] for row in found]
    inside = len(outcome.members)
    tables = [Table(heads, told[:inside], "The members, and what each scores alone.")]
    if told[inside:]:
        left = f"{count(len(told) - inside, 'cell')} that did not become members"
        tables.append(Table(heads, told[inside:], left, folded=True))
    return tables


def _published_table(papers: Sequence[Published]) -> list[Table]:
    heads = [
        Head("model", "model"), Head("parameters", "parameters", numeric=True),
        Head("score", "score", numeric=True), Head("metric", "metric"),
        Head("split", "of", "the examples that it is of"), Head("source", "source"),
    ]  # fmt: skip
    told = [
        [of.model, _number(of.parameters), fixed(of.score), of.metric, of.split, of.source]
        for of in papers
    ]
    return [Table(heads, told, _sentence(caveat(papers[0].task)))] if told else []


def _figures(row: Row) -> list[str]:
    """What a row has for the dev score and for `_SCORES`."""
    dev, difference = (
        None if row[name] is None else Interval(row[name], row[f"{of}_low"], row[f"{of}_high"])
        for name, of in (("dev_score", "dev_ci"), ("difference", "difference_ci"))
    )
    held = row["held_score"]
    return [
        DASH if dev is None else fixed(dev.value),
        DASH if dev is None else span(dev) or DASH,
        DASH if difference is None else signed(difference.value),
        DASH if difference is None else span(difference, signed) or DASH,
        DASH if held is None else fixed(held),
        _number(row["parameters"]),
    ]


def _to_ensemble(row: Row) -> str:
    if row["to_ensemble"] is None:
        return DASH
    gap = Interval(row["to_ensemble"], row["to_ensemble_ci_low"], row["to_ensemble_ci_high"])
    ends = span(gap, signed)
    return signed(gap.value) + (f" ({ends})" if ends else "")


# Text


def _number(value: int | None) -> str:
    return DASH if value is None else f"{value:,}"


def _who(kind: str, name: str) -> str:
    return kind if name == kind else f"{kind}: {name}"


def _shown(text: str) -> str:
    """A text of a user's that can be shown."""
    return without_paths(plain(text))


def _sentence(note: str) -> str:
    text = _shown(note)
    return f"{text[:1].upper()}{text[1:]}."
