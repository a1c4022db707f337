"""Figures of a grid's report as SVG text, drawn from the frames of `tables`, and those of a
comparison: ratios or differences with their intervals.

Modes differ in colour, marker and line, and kinds of AMP in the marker's fill, so that figures can
be read in black and white.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from adapters.methods import BITFIT, METHODS, in_order, mode_label
from bench.analysis.breakdown import Breakdown
from bench.analysis.comparison import Verdict
from bench.common.grouping import grouped
from bench.report import drawing
from bench.report.drawing import BLUE, GREEN, GREY, GRID, INK, ORANGE, PAPER, PURPLE, Drawing
from bench.report.pages import phrase
from bench.report.text import fixed, num, signed
from bench.stats.intervals import Interval

_PLAIN: Final = {"full": (INK, "s", "-"), "head": (PURPLE, "D", ":"), BITFIT: (GREEN, "p", "-.")}
_STYLES: Final = _PLAIN | {n: (m.colour, m.marker, m.line) for n, m in METHODS.usable().items()}

COLOURS, MARKERS, LINES = (
    defaultdict[str, str](partial(str, neutral), {mode: of[i] for mode, of in _STYLES.items()})
    for i, neutral in enumerate((GREY, "o", ":"))
)
"""By mode; neutral ones for a mode whose plugin is not installed."""
AMPS: Final = ("off", "bf16", "fp16")  # drawn hollow, full and half full
PARTS: Final = {
    "libraries": GREY, "weights": BLUE, "optimizer": PURPLE, "gradients": ORANGE,
    "backward": ORANGE, "activations": GREEN, "forward": GREEN, "rest": GRID,
}  # fmt: skip
"""A pass has the colour of what it makes."""
_ENCODERS: Final = (BLUE, ORANGE, GREEN, PURPLE, "#e69f00", "#56b4e9", GREY)
_DOTTED: Final[Any] = {"color": INK, "linewidth": 0.7, "linestyle": (0, (2, 3)), "zorder": 1}
_LABEL_HEIGHT: Final = 10.0  # pixels
_LARGEST_RATIO: Final = 1e9
"""The end of an axis of ratios; with a baseline of nearly nothing there is no such axis."""
_MOST: Final = 70  # settings in a picture
_LONGEST: Final = 46  # characters of a label
_WIDEST: Final = 4.0
"""The quotient of the ends of a range of ratios beyond which its axis is logarithmic."""
_LARGEST: Final = 1e6  # the end of an axis of ratios, or of differences
_MARKS: Final = {
    Verdict.REGRESSION: (ORANGE, "X", ORANGE),
    Verdict.IMPROVEMENT: (GREEN, "^", GREEN),
    Verdict.SMALL: (BLUE, "D", BLUE),
    Verdict.SAME: (INK, "o", INK),
    Verdict.UNDECIDED: (GREY, "o", PAPER),
}
"""Colour, marker and its fill."""


def _fill(amp: str, colour: str) -> dict[str, Any]:
    face = PAPER if amp == "off" else colour
    half = "left" if amp == "fp16" else "full"
    return {"markerfacecolor": face, "markerfacecoloralt": PAPER, "fillstyle": half}


def _number(figure: Figure, axes: Axes, places: Sequence[tuple[float, float]]) -> None:
    """Number points from 1, each number close to its point and clear of the others."""
    drawing.lay_out(figure)
    occupied: list[tuple[float, float]] = []
    for i, place in enumerate(places, start=1):
        x, y = axes.transData.transform(place)
        options = [(-8, 8), (0, 13), (-14, 0), (-9, 17), (8, 12), (-20, 8), (0, 23), (-20, 18)]
        spots = [(x + dx, y + dy) for dx, dy in options]
        free = (
            s for s in spots if all(abs(s[0] - u) > 11 or abs(s[1] - v) > 9 for u, v in occupied)
        )
        occupied.append(spot := next(free, spots[0]))
        axes.annotate(
            str(i), place, xytext=(spot[0] - x, spot[1] - y), textcoords="offset pixels",
            ha="center", va="center", fontsize=8, fontweight="bold", color=INK, zorder=4,
        )  # fmt: skip


def _name_ends(
    figure: Figure, axes: Axes, ends: Sequence[tuple[str, float, float]], lift: float = 0.0
) -> None:
    """Name lines to the right of their ends, so many pixels above them, without overlaps."""
    drawing.lay_out(figure)
    upwards = sorted(ends, key=lambda end: end[2])
    moved: list[float] = []
    least = float("-inf")
    for _, x, y in upwards:
        height = float(axes.transData.transform((x, y))[1])
        moved.append(max(least - height, 0.0))
        least = height + moved[-1] + _LABEL_HEIGHT
    down = sum(moved) / max(len(moved), 1)
    for (name, x, y), up in zip(upwards, moved, strict=True):
        axes.annotate(
            name, (x, y), xytext=(8, up - down + lift), textcoords="offset pixels",
            va="center", fontsize=7.5, color=INK,
        )  # fmt: skip


def points(
    axes: Axes, rows: pd.DataFrame, x: str, y: str, size: float = 6.5, alpha: float = 1.0,
    by: str = "mode", colours: Mapping[str, str] = COLOURS,
) -> None:  # fmt: skip
    """Draw a point for each setting, with the marker of its mode, the fill of its AMP, and its
    colour by the values of a column."""
    for row in rows.to_dict("records"):
        colour = colours.get(str(row[by]), GREY)
        axes.plot(
            [row[x]], [row[y]], marker=MARKERS.get(str(row["mode"]), "o"), linestyle="none",
            color=colour, **_fill(str(row["amp"]), colour), markersize=size, markeredgewidth=1.2,
            zorder=3, alpha=alpha,
        )  # fmt: skip


def _sign(label: str, colour: str = INK, marker: str = "o", **style: Any) -> Line2D:
    usual: dict[str, Any] = {"markersize": 6, "linestyle": "none"}
    return Line2D([], [], color=colour, marker=marker, label=label, **usual | style)


def encoders(
    rows: pd.DataFrame, cost: str, x_label: str, y_label: str, stem: str, caption: str
) -> Drawing:
    """Dev score against a cost, a colour for each encoder and a marker for each mode, of rows with
    `encoder`, `mode`, `amp`, `score`, the cost, and `chosen`, which is drawn larger."""
    rows = rows.dropna(subset=[cost, "score"])
    names = list(dict.fromkeys(rows["encoder"]))
    colours = {name: _ENCODERS[i % len(_ENCODERS)] for i, name in enumerate(names)}
    with drawing.canvas(4.3) as (figure, axes):
        for is_chosen, part in rows.groupby(rows["chosen"].astype(bool)):
            size, alpha = (10, 1.0) if is_chosen else (5, 0.7)
            points(axes, part, cost, "score", size, alpha, "encoder", colours)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.margins(x=0.08, y=0.12)
        axes.set_xlim(left=0)
        handles = [_sign(name, colour) for name, colour in colours.items()]
        handles += [
            _sign(mode_label(mode), marker=MARKERS[mode], markerfacecolor=PAPER)
            for mode in in_order(rows["mode"])
        ]
        drawing.add_legend(figure, handles, 4)
    parts = [*rows.groupby("encoder", sort=False)]
    alt = phrase("captions", "encoders_alt", x_label, y_label, parts, cost)
    return Drawing.of(figure, stem, alt, caption)


def legend(figure: Figure, rows: pd.DataFrame, lines: bool = False) -> None:
    """Add a legend below the axes, of the modes and kinds of AMP in the figure."""
    handles = [
        _sign(mode_label(mode), COLOURS[mode], MARKERS[mode],
              linestyle=LINES[mode] if lines else "none")
        for mode in in_order(rows["mode"])
    ]  # fmt: skip
    handles += [
        _sign("fp32" if amp == "off" else f"AMP {amp}", **_fill(amp, INK))
        for amp in AMPS
        if (rows["amp"] == amp).any()
    ]
    drawing.add_legend(figure, handles, handletextpad=0.6 if lines else 0.4)


def tradeoff(
    rows: pd.DataFrame, cost: str, x_label: str, y_label: str, stem: str, caption: str,
    references: Sequence[tuple[str, float]], beyond: str, form: Callable[[float], str],
) -> Drawing:  # fmt: skip
    """Dev score against a cost; settings on the Pareto front are joined and numbered. References
    are dashed lines; a text at the better end of the axis is on scores that are beyond it."""
    rows = rows.dropna(subset=[cost, "score"])
    front = rows[rows[f"front_{cost}"] > 0].sort_values(f"front_{cost}")
    with drawing.canvas(4.3) as (figure, axes):
        for _, row in rows[rows["baseline"]].iterrows():
            axes.axvline(row[cost], **_DOTTED)
            axes.axhline(row["score"], **_DOTTED)
        axes.step(front[cost], front["score"], where="post", color=GREEN, linewidth=2.2,
                  alpha=0.75, zorder=2)  # fmt: skip
        points(axes, rows, cost, "score")
        axes.set(xlabel=x_label, ylabel=y_label)
        for _, score in references:
            axes.axhline(score, color=GREY, linewidth=1, linestyle=(0, (5, 3)), zorder=1)
        axes.margins(x=0.08, y=0.12)
        axes.set_xlim(left=0)
        if beyond:
            top = beyond.startswith("↑")
            axes.annotate(
                beyond, (1, float(top)), xycoords="axes fraction", ha="right",
                va="top" if top else "bottom", fontsize=8, color=INK,
            )  # fmt: skip
        legend(figure, rows)
        _number(figure, axes, list(zip(front[cost], front["score"], strict=True)))
        _name_ends(figure, axes, [(name, 0.0, score) for name, score in references], lift=8)
    best = list(zip(front["label"], front["score"], strict=True))
    alt = phrase("captions", "tradeoff_alt", x_label, y_label, best, references, form)
    return Drawing.of(figure, stem, alt, caption)


def rank(
    rows: pd.DataFrame, layers: str, limits: tuple[float, float], y_label: str, stem: str,
    caption: str,
) -> Drawing:  # fmt: skip
    """Dev score by rank on one layer set, with bands for full fine-tuning and the head alone. Of
    several rates the best has the line, the interval and the band; the others are pale dots."""
    rows = rows.dropna(subset=["score"])
    adapters = rows[(rows["layers"] == layers) & rows["rank"].notna()]
    ranks = sorted({int(value) for value in adapters["rank"]})
    place = {value: i for i, value in enumerate(ranks)}
    with drawing.canvas(3.5) as (figure, axes):
        bands = rows[rows["mode"].isin(["full", "head"]) & (rows["amp"] == "off") & rows["best"]]
        for _, row in bands.iterrows():
            colour = COLOURS[row["mode"]]
            axes.axhspan(row["low"], row["high"], color=colour, alpha=0.13, linewidth=0)
            axes.axhline(row["score"], color=colour, linewidth=1.2, linestyle=LINES[row["mode"]])
            axes.annotate(
                f"{row['mode']}, fp32", (1, row["score"]), xycoords=("axes fraction", "data"),
                xytext=(-2, 2), textcoords="offset points", ha="right", fontsize=8.5, color=INK,
            )  # fmt: skip
        lines = [
            (str(mode), str(kind), part.sort_values("rank"))
            for (mode, kind), part in adapters.groupby(["mode", "amp"], sort=True)
        ]
        for i, (mode, _, part) in enumerate(lines):
            x = part["rank"].map(place) + 0.11 * (i - (len(lines) - 1) / 2)
            part, best = part.assign(x=x), part["best"]
            points(axes, part[~best], "x", "score", size=4.0, alpha=0.35)
            part, x = part[best], x[best]
            axes.vlines(x, part["low"], part["high"], color=COLOURS[mode], linewidth=1.1, alpha=0.7)
            axes.plot(x, part["score"], color=COLOURS[mode], linestyle=LINES[mode], linewidth=1.1)
            points(axes, part, "x", "score", size=5.5)
        axes.set_xticks(range(len(ranks)), [str(value) for value in ranks])
        axes.grid(visible=False, axis="x")
        axes.set(
            xlim=(-0.45, max(len(ranks) - 0.55, 0.45)), ylim=limits, xlabel="rank", ylabel=y_label,
            title=layers,
        )  # fmt: skip
        legend(figure, adapters, lines=True)
    ends = [
        (mode, amp, scores.min(), scores.max())
        for mode, amp, part in lines
        for scores in [part[part["best"]]["score"]]
    ]
    alt = phrase("captions", "rank_alt", y_label, layers, ends)
    return Drawing.of(figure, stem, alt, caption)


def cost(rows: pd.DataFrame, name: str, x_label: str, stem: str, caption: str) -> Drawing:
    """A cost by mode and layer set, each kind of AMP on a line of its own, a dot for each rank."""
    rows = rows.dropna(subset=[name])
    kinds = list(dict.fromkeys(rows["kind"]))
    amps = [amp for amp in AMPS if (rows["amp"] == amp).any()]
    lane = {amp: 0.3 * (i - (len(amps) - 1) / 2) for i, amp in enumerate(amps)}
    with drawing.canvas(0.9 + 0.36 * max(len(kinds), 2)) as (figure, axes):
        y = rows["kind"].map({kind: i for i, kind in enumerate(kinds)}) + rows["amp"].map(lane)
        spans = rows.assign(y=y).groupby("y")[name].max()
        axes.hlines(spans.index, 0, spans, color=GRID, linewidth=3, zorder=1)
        points(axes, rows.assign(y=y), name, "y", size=5.5)
        drawing.name_lines(axes, kinds)
        axes.set(xlim=(0, max(float(rows[name].max()) * 1.06, 1e-9)), xlabel=x_label)
        base = rows[rows["baseline"]][name]
        unit = float(base.iloc[0]) if len(base) else 0.0
        if rows[name].max() < unit * _LARGEST_RATIO:
            axes.axvline(unit, **_DOTTED)
            top = axes.secondary_xaxis(
                "top", functions=(lambda x: np.asarray(x) / unit, lambda x: np.asarray(x) * unit)
            )
            top.set_xlabel("× full fine-tuning in fp32", fontsize=9)
        legend(figure, rows)
    ranges = rows.groupby("kind", sort=False)[name]
    alt = phrase("captions", "ranges_alt", f"{x_label} by mode and layer set", ranges, num)
    return Drawing.of(figure, stem, alt, caption)


def parts(
    names: Sequence[str], panels: Mapping[str, Sequence[Breakdown | None]], stem: str, caption: str
) -> Drawing:
    """Totals as stacked bars of their parts, a panel for each kind of total by the label of its
    axis, a line for each name. A total that its parts exceed has a mark of its own."""
    with drawing.canvas(1.1 + 0.25 * len(names), columns=len(panels)) as (figure, first):
        for axes, (label, bars) in zip(figure.axes, panels.items(), strict=True):
            for y, bar in enumerate(bars):
                if bar is None:
                    continue
                left = 0.0
                for part, value in bar.parts.items():
                    axes.barh(y, value, left=left, height=0.72, color=PARTS[part],
                              edgecolor=PAPER, linewidth=0.6)  # fmt: skip
                    left += value
                if bar.excess:
                    axes.vlines(bar.total, y - 0.42, y + 0.42, color=INK, linewidth=1.6)
            drawing.name_lines(axes, names if axes is first else [""] * len(names), 0.4)
            axes.locator_params(axis="x", nbins=4)
            axes.set_xlabel(label)
        drawn = {part for bars in panels.values() for bar in bars if bar for part in bar.parts}
        labels = grouped([part for part in PARTS if part in drawn], lambda part: PARTS[part])
        handles = [Patch(color=colour, label=", ".join(of)) for colour, of in labels.items()]
        drawing.add_legend(figure, handles, ncols=3, handlelength=1.2, handletextpad=None)
    alt = phrase("captions", "parts_alt", names, panels)
    return Drawing.of(figure, stem, alt, caption)


def gaps(rows: pd.DataFrame, x_label: str, stem: str, caption: str, at: float = 1.0) -> Drawing:
    """Ratios or differences with their intervals, those of one kind on one line, around the value
    of no difference. Rows have `kind`, `mode`, `amp`, `value`, `low`, `high`, `offset` from it."""
    kinds = list(dict.fromkeys(rows["kind"]))
    with drawing.canvas(0.9 + 0.28 * max(len(kinds), 2)) as (figure, axes):
        axes.axvline(at, color=INK, linewidth=1)
        y = rows["kind"].map({kind: i for i, kind in enumerate(kinds)}) + rows["offset"]
        axes.hlines(y, rows["low"], rows["high"], color=GREY, linewidth=1.1)
        points(axes, rows.assign(y=y), "value", "y", size=5.5)
        drawing.name_lines(axes, kinds)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(x_label)
        legend(figure, rows)
    ranges = rows.groupby("kind", sort=False)["value"]
    alt = phrase("captions", "ranges_alt", x_label, ranges, fixed)
    return Drawing.of(figure, stem, alt, caption)


def rates(rows: pd.DataFrame, y_label: str, stem: str, caption: str, title: str = "") -> Drawing:
    """A score by learning rate, a line for each kind of setting, with chosen rates larger."""
    with drawing.canvas(3.6) as (figure, axes):
        choices: list[str] = []
        ends: list[tuple[str, float, float]] = []
        for kind, part in rows.groupby("kind", sort=False):
            mode = str(part["mode"].iloc[0])
            axes.plot(
                part["rate"], part["score"], color=COLOURS[mode], linestyle=LINES[mode],
                linewidth=1.1, alpha=0.8,
            )  # fmt: skip
            points(axes, part, "rate", "score", size=4.0)
            best = part[part["chosen"]]
            points(axes, best, "rate", "score", size=8.5)
            ends.append((str(kind), part["rate"].iloc[-1], part["score"].iloc[-1]))
            choices += [f"{kind} {rate:g}" for rate in best["rate"]]
        low, high = rows["rate"].min(), rows["rate"].max()
        low, high = low / 1.5, high * 10 ** (0.045 * max(len(name) for name, _, _ in ends))
        drawing.log_axis(axes, low, high)
        axes.set(xlim=(low, high), xlabel="learning rate", ylabel=y_label, title=title)
        legend(figure, rows, lines=True)
        _name_ends(figure, axes, ends)
    alt = phrase("captions", "rates_alt", y_label, title, choices)
    return Drawing.of(figure, stem, alt, caption)


@dataclass(frozen=True)
class Entry:
    label: str
    interval: Interval
    verdict: Verdict


def intervals(
    entries: Sequence[Entry], x_label: str, stem: str, *, is_ratio: bool = True,
    overall: Entry | None = None, limit: float | None = None,
    words: Mapping[Verdict, str] = MappingProxyType({}),
) -> Drawing:  # fmt: skip
    """Ratios or differences: over all settings on top, then by setting, the largest first. Of very
    many settings the extremes are drawn. The limit, the ratio − 1 or difference within which
    changes are tolerated, is shaded; `words` are for verdicts that have another meaning."""
    word = {verdict: words.get(verdict, verdict.value) for verdict in _MARKS}
    ordered = sorted(entries, key=lambda entry: -entry.interval.value)
    drawn = ordered if len(ordered) <= _MOST else [*ordered[: _MOST // 2], *ordered[-_MOST // 2 :]]
    lines = [*([overall] if overall else []), *drawn]
    none = 1.0 if is_ratio else 0.0
    lowest, highest = _ends(lines, none, is_ratio)
    with drawing.canvas(1.25 + 0.17 * max(len(lines), 3)) as (figure, axes):
        if limit is not None:
            near = 1 / (1 + limit) if is_ratio else -limit
            axes.axvspan(near, none + limit, color=GRID, alpha=0.6, linewidth=0, zorder=0)
        axes.axvline(none, color=INK, linewidth=0.9, zorder=1)
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
            axes.axhline(0.5, color=GRID, linewidth=0.8)
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
    alt = phrase("captions", "intervals_alt", x_label, lines[:_MOST], _short, form, word)
    caption = phrase("captions", "intervals", len(drawn), len(ordered), limit is not None)
    return Drawing.of(figure, stem, alt, caption)


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
