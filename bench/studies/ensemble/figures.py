"""Figures of an ensemble: all scores, score against size, and the greedy choice."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.report.drawing import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PAPER,
    PURPLE,
    Drawing,
    canvas,
    log_ticks,
    to_svg,
)
from bench.report.text import shortened
from bench.stats.intervals import Interval
from bench.studies.ensemble.result import BEST, CELL, ENSEMBLE

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
_LONGEST: Final = 44
"""Characters of a label."""
_DASHED: Final[Any] = {"color": INK, "linewidth": 0.7, "linestyle": (0, (2, 3)), "zorder": 1}


@dataclass(frozen=True)
class Mark:
    """A marker in a figure, of one of the kinds in `_SHAPES`; `parameters` are None where not
    known."""

    label: str
    kind: str
    score: Interval
    parameters: int | None = None


def scores(marks: Sequence[Mark], label: str, stem: str, alt: str, caption: str) -> Drawing:
    """One line for each mark with its score and interval; published scores separate at the end."""
    measured = [mark for mark in marks if mark.kind != PUBLISHED]
    papers = [mark for mark in marks if mark.kind == PUBLISHED]
    lines = [*measured, *papers]
    with canvas(1.1 + 0.24 * max(len(lines), 3)) as (figure, axes):
        for y, mark in enumerate(lines):
            _draw(axes, mark, mark.score.value, y, xerr=_lengths(mark), elinewidth=1.3)
            if mark.kind == BEST:
                axes.axvline(mark.score.value, **_DASHED)
        if papers:
            axes.axhline(len(measured) - 0.5, color=GREY, linewidth=0.9)
        axes.set_yticks(range(len(lines)), [shortened(mark.label, _LONGEST) for mark in lines])
        axes.set_ylim(len(lines) - 0.45, -0.55)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(label)
        _legend(figure)
    return Drawing(stem, to_svg(figure, stem), alt, caption)


def sizes(marks: Sequence[Mark], label: str, stem: str, alt: str, caption: str) -> Drawing:
    """Scores against parameters, for marks whose parameters are known."""
    known = [(mark, mark.parameters) for mark in marks if mark.parameters]
    counts = [parameters for _, parameters in known]
    with canvas(3.6) as (figure, axes):
        for mark, parameters in known:
            _draw(axes, mark, parameters, mark.score.value, yerr=_lengths(mark), elinewidth=1.0)
            if mark.kind in (BASELINE, PUBLISHED):
                axes.annotate(
                    shortened(mark.label, _LONGEST), (parameters, mark.score.value), xytext=(6, 0),
                    textcoords="offset points", va="center", fontsize=7.5, color=INK,
                )  # fmt: skip
        low, high = min(counts) / 1.5, max(counts) * 8
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        ticks = log_ticks(low, high)
        axes.set_xticks(ticks, [f"{tick / 1e6:g}M" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("parameters of all members together")
        axes.set_ylabel(label)
        axes.margins(y=0.12)
        _legend(figure)
    return Drawing(stem, to_svg(figure, stem), alt, caption)


def choice(
    held_out: Sequence[float | None],
    dev: Sequence[float | None],
    taken: int,
    label: str,
    stem: str,
    alt: str,
    caption: str,
) -> Drawing:
    """Scores at each step of the greedy choice, and the size of the ensemble that was taken."""
    curves = (
        ("held out, which chooses", held_out, BLUE, "o", "-"),
        ("dev, which chooses nothing", dev, ORANGE, "^", "--"),
    )
    with canvas(3.2) as (figure, axes):
        axes.axvline(taken, **_DASHED)
        lines = []
        for name, values, colour, marker, style in curves:
            points = [math.nan if value is None else value for value in values]
            lines += axes.plot(
                range(1, len(held_out) + 1), points, color=colour, marker=marker, markersize=3.5,
                linestyle=style, label=name,
            )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("members, each counted by its weight")
        axes.set_ylabel(label)
        figure.legend(handles=lines, loc="outside lower center", ncols=2)
    return Drawing(stem, to_svg(figure, stem), alt, caption)


def _draw(axes: Axes, mark: Mark, x: float, y: float, **bars: Any) -> None:
    """Draw a mark with its interval; it is in the legend if it is the first of its kind."""
    marker, colour, filling, size = _SHAPES[mark.kind]
    labels = axes.get_legend_handles_labels()[1]
    axes.errorbar(
        [x], [y], **bars, linestyle="none", color=colour, marker=marker, markerfacecolor=filling,
        markersize=size, markeredgewidth=1.2, zorder=3 if mark.kind == CELL else 4,
        label="" if mark.kind in labels else mark.kind,
    )  # fmt: skip


def _lengths(mark: Mark) -> list[list[float]] | None:
    """The lengths of an interval's lower and upper half."""
    ends = mark.score.ends()
    return ends and [[abs(mark.score.value - end)] for end in ends]


def _legend(figure: Figure) -> None:
    columns = min(len(figure.axes[0].get_legend_handles_labels()[1]), 3)
    figure.legend(loc="outside lower center", ncols=columns, columnspacing=1.2, handletextpad=0.4)
