"""The pictures of a comparison: ratios or differences with their intervals. Loads matplotlib."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from matplotlib.lines import Line2D

from bench.analysis.comparison import Verdict
from bench.report import drawing
from bench.report.pages import phrase
from bench.report.text import fixed, signed
from bench.stats.intervals import Interval

MOST: Final = 70  # settings in a picture
_LONGEST: Final = 46  # characters of a label
_WIDEST: Final = 4.0
"""The quotient of the ends of a range of ratios beyond which its axis is logarithmic."""
_LARGEST: Final = 1e6  # the end of an axis of ratios, or of differences
_MARKS: Final = {
    Verdict.REGRESSION: (drawing.ORANGE, "X", drawing.ORANGE),
    Verdict.IMPROVEMENT: (drawing.GREEN, "^", drawing.GREEN),
    Verdict.SMALL: (drawing.BLUE, "D", drawing.BLUE),
    Verdict.SAME: (drawing.INK, "o", drawing.INK),
    Verdict.UNDECIDED: (drawing.GREY, "o", drawing.PAPER),
}
"""Colour, marker and its fill."""


@dataclass(frozen=True)
class Entry:
    label: str
    interval: Interval
    verdict: Verdict


def intervals(
    entries: Sequence[Entry], x_label: str, stem: str, *, is_ratio: bool = True,
    overall: Entry | None = None, limit: float | None = None,
    words: Mapping[Verdict, str] = MappingProxyType({}),
) -> drawing.Drawing:  # fmt: skip
    """Ratios or differences: over all settings on top, then by setting, the largest first. Of very
    many settings the extremes are drawn. The limit, the ratio − 1 or difference within which
    changes are tolerated, is shaded; `words` are for verdicts that have another meaning."""
    word = {verdict: words.get(verdict, verdict.value) for verdict in _MARKS}
    ordered = sorted(entries, key=lambda entry: -entry.interval.value)
    drawn = ordered if len(ordered) <= MOST else [*ordered[: MOST // 2], *ordered[-MOST // 2 :]]
    lines = [*([overall] if overall else []), *drawn]
    none = 1.0 if is_ratio else 0.0
    lowest, highest = _ends(lines, none, is_ratio)
    with drawing.canvas(1.25 + 0.17 * max(len(lines), 3)) as (figure, axes):
        if limit is not None:
            near = 1 / (1 + limit) if is_ratio else -limit
            axes.axvspan(near, none + limit, color=drawing.GRID, alpha=0.6, linewidth=0, zorder=0)
        axes.axvline(none, color=drawing.INK, linewidth=0.9, zorder=1)
        for y, entry in enumerate(lines):
            colour, marker, face = _MARKS[entry.verdict]
            if ends := entry.interval.ends():
                low, high = (min(max(end, lowest), highest) for end in ends)
                axes.hlines(y, low, high, color=colour, linewidth=1.2, zorder=2)
            axes.plot(
                [min(max(entry.interval.value, lowest), highest)], [y], marker,
                color=colour, markerfacecolor=face, markersize=4.6, zorder=3,
            )  # fmt: skip
        drawing.name_lines(axes, [_short(entry.label) for entry in lines], 0.4, fontsize=7.5)
        if overall:
            axes.get_yticklabels()[0].set_fontweight("bold")
            axes.axhline(0.5, color=drawing.GRID, linewidth=0.8)
        if is_ratio and highest / lowest > _WIDEST:
            drawing.log_axis(axes, lowest, highest)
        else:
            axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(x_label, loc="right")
        verdicts = {entry.verdict for entry in lines}
        handles = [
            Line2D([], [], color=colour, marker=marker, markerfacecolor=face, markersize=4.6,
                   linestyle="none", label=word[verdict])
            for verdict, (colour, marker, face) in _MARKS.items() if verdict in verdicts
        ]  # fmt: skip
        drawing.add_legend(figure, handles, ncols=2, fontsize=8)
    form = fixed if is_ratio else signed
    alt = phrase("captions", "intervals_alt", x_label, lines[:MOST], _short, form, word)
    caption = phrase("captions", "intervals", len(drawn), len(ordered), limit is not None)
    return drawing.Drawing.of(figure, stem, alt, caption)


def _ends(lines: Sequence[Entry], none: float, is_ratio: bool) -> tuple[float, float]:
    """The range that is drawn: that of all intervals, within bounds."""
    drawn = [entry.interval for entry in lines]
    every = [none, *(end for one in drawn for end in (one.value, *(one.ends() or ())))]
    least = 1 / _LARGEST if is_ratio else -_LARGEST
    return max(min(every), least), min(max(every), _LARGEST)


def _short(label: str) -> str:
    """A label cut in its middle, as settings differ at both ends."""
    label = label.replace("frozen weights", "frozen")
    half = _LONGEST // 2
    return label if len(label) <= _LONGEST else f"{label[:half]}…{label[1 - half :]}"
