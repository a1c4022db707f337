"""The report's section on forecasts, against measurements."""

from statistics import fmean, median
from typing import Final

import pandas as pd

from bench.analysis.groups import Group
from bench.analysis.setting import number
from bench.plan.rows import Row
from bench.report.drawing import GRID, INK, Drawing, canvas, to_svg
from bench.report.figures import legend, points
from bench.report.pages import Section, sentences
from bench.report.text import one_of, x_label

_CLOSE: Final = 0.1


def forecasts_section(group: Group) -> list[Section]:
    """Predicted against measured peaks and times, if anything was predicted."""
    pairs = {
        "peak": ("predicted_peak_mib", group.memory_column, x_label(group, "memory")),
        "time": ("predicted_s", "wall_s", "time of a cell, s"),
    }
    every, drawings = [], []
    for what, (forecast, measured, label) in pairs.items():
        errors = [e for row in group.rows if (e := _error(row, forecast, measured)) is not None]
        if errors:
            every.append((what, [*map(abs, errors)], sum(abs(e) <= _CLOSE for e in errors)))
            frame = _frame(group, forecast, measured)
            drawings.append(_agreement(frame, label, f"predicted-{what}"))
    if not drawings:
        return []
    noun = one_of(group.rows)
    heading, *lines = sentences("forecasts", every=every, noun=noun, median=median)
    return [Section("prediction", "Prediction", heading, lines, drawings)]


def _error(row: Row, forecast: str, measured: str) -> float | None:
    predicted, value = number(row[forecast]), number(row[measured])
    if row.status != "ok" or predicted is None or not value:
        return None
    return predicted / value - 1


def _frame(group: Group, forecast: str, measured: str) -> pd.DataFrame:
    rows = []
    for setting in group.settings:
        predicted, values = setting.by_run(forecast), setting.by_run(measured)
        if runs := predicted.keys() & values.keys():
            means = (fmean(side[run] for run in runs) for side in (predicted, values))
            names = "mode", "amp", "predicted", "measured"
            rows.append(dict(zip(names, (setting.mode, setting.amp, *means), strict=True)))
    return pd.DataFrame(rows)


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
    return Drawing(stem, to_svg(figure, stem), alt, caption)
