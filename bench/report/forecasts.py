"""The report's sections on forecasts: against measurements, and by length and batch."""

from statistics import fmean, median
from typing import Final

import pandas as pd

from bench.analysis.groups import Group
from bench.analysis.setting import number
from bench.common.grouping import grouped
from bench.report.drawing import GRID, INK, Drawing, add_legend, canvas
from bench.report.figures import COLOURS, LINES, legend, points
from bench.report.pages import Section, sentences
from bench.report.tables import table
from bench.report.text import LABELS, one_of, x_label
from bench.results.curves import Curves

_CLOSE: Final = 0.1
_ASKED: Final = ("lora", "attn-only")
_MEMORY: Final = "peak_mib"
_LABELS: Final = LABELS["curves"]


def forecasts_section(group: Group) -> list[Section]:
    """Predicted against measured peaks and times, if anything was predicted."""
    pairs = {
        "peak": ("predicted_peak_mib", group.memory_column, x_label(group, "memory")),
        "time": ("predicted_s", "wall_s", "time of a cell, s"),
    }
    every, drawings = [], []
    for what, (forecast, measured, label) in pairs.items():
        ok = [(number(r[forecast]), number(r[measured])) for r in group.rows if r.status == "ok"]
        errors = [known / value - 1 for known, value in ok if known is not None and value]
        if errors:
            every.append((what, [*map(abs, errors)], sum(abs(e) <= _CLOSE for e in errors)))
            frame = _frame(group, forecast, measured)
            drawings.append(_agreement(frame, label, f"predicted-{what}"))
    if not drawings:
        return []
    noun = one_of(group.rows)
    heading, *lines = sentences("forecasts", every=every, noun=noun, median=median)
    return [Section("prediction", "Prediction", heading, lines, drawings)]


def _frame(group: Group, forecast: str, measured: str) -> pd.DataFrame:
    rows = []
    for setting in group.settings:
        predicted, values = setting.by_run(forecast), setting.by_run(measured)
        if runs := predicted.keys() & values.keys():
            means = (fmean(side[run] for run in runs) for side in (predicted, values))
            rows.append((setting.mode, setting.amp, *means))
    return pd.DataFrame(rows, columns=["mode", "amp", "predicted", "measured"])


def _agreement(rows: pd.DataFrame, label: str, stem: str) -> Drawing:
    ends = (0.0, 1.08 * float(rows[["measured", "predicted"]].to_numpy().max()))
    low, high = ([(1 + side * _CLOSE) * end for end in ends] for side in (-1, 1))
    with canvas(4.3) as (figure, axes):
        axes.fill_between(ends, low, high, color=GRID, linewidth=0)
        axes.plot(ends, ends, color=INK, linewidth=0.7)
        points(axes, rows, "measured", "predicted")
        axes.set(xlim=ends, ylim=ends, xlabel=f"measured {label}", ylabel=f"predicted {label}")
        legend(figure, rows)
    close = int(((rows["predicted"] / rows["measured"] - 1).abs() <= _CLOSE).sum())
    alt = f"Predicted against measured {label}: {close} of {len(rows)} points in the band."
    caption = "A dot for each setting, its seeds averaged; the band is 10% either way."
    return Drawing.of(figure, stem, alt, caption)


def lengths_section(curves: Curves | None) -> list[Section]:
    """Memory and time by length and batch, as bench.fit forecasts them; none without curves."""
    if curves is None:
        return []
    by_length = [point for point in curves.points if point.batch == curves.batch]
    settings = [*grouped(by_length, lambda point: point.setting).values()]
    shown = [(points[0], points[-1]) for points in settings]
    # LoRA on attention is what most ask about
    others = sorted(shown[1:], key=lambda ends: (ends[0].mode, ends[0].layers) != _ASKED)
    heading, *lines = sentences("lengths", full=shown[0], others=others, of=curves)
    drawings = [
        _curves(curves, x, cost)
        for x, cost in (("length", _MEMORY), ("batch", _MEMORY), ("length", "ms_per_1k_tokens"))
    ]
    rows = [ends[place].columns() for place in (0, -1) for ends in shown]
    owners = table("fit", rows, f"The peak by owner, MiB, in batches of {curves.batch} texts.")
    return [Section("lengths", "Length and batch", heading, lines, drawings, [owners])]


def _curves(curves: Curves, x: str, cost: str) -> Drawing:
    """A line for each setting, against full fine-tuning, at the other size that the curves have."""
    other = "batch" if x == "length" else "length"
    points = [p.columns() for p in curves.points if getattr(p, other) == getattr(curves, other)]
    full = {p[x]: p[cost] for p in points if p["setting"] == points[0]["setting"]}
    stem = f"{'memory' if cost == _MEMORY else 'time'}-by-{x}"
    handles = []
    with canvas(3.6) as (figure, axes):
        for setting, own in grouped(points, lambda point: str(point["setting"])).items():
            mode, is_narrow = str(own[0]["mode"]), own[0]["layers"] == _ASKED[1]
            handles += axes.plot(
                [p[x] for p in own], [p[cost] / (full.get(p[x]) or 1) for p in own],
                linestyle="--" if is_narrow else LINES[mode], color=COLOURS[mode], label=setting,
            )  # fmt: skip
        ticks = sorted({int(p[x]) for p in points})
        axes.set(xscale="log", xlabel=_LABELS[x], ylabel=_LABELS[cost], ylim=(0, None))
        axes.set_xticks(ticks, map(str, ticks))
        axes.minorticks_off()
        add_legend(figure, handles, most=2)
    size = f"{getattr(curves, other)} {'texts a batch' if other == 'batch' else 'tokens a text'}"
    alt = f"{_LABELS[cost]} by {_LABELS[x]}, {size}: {len(handles)} lines."
    return Drawing.of(figure, stem, alt, f"Forecast, {size}; nothing was trained.")
