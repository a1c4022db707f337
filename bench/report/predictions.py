"""The report's part on what was predicted before the cells ran, against what was measured."""

from statistics import median
from typing import Final

import pandas as pd

from bench.analysis.groups import Group
from bench.analysis.setting import number
from bench.plan.cell import Row
from bench.report.drawing import GRID, INK, Drawing, canvas, to_svg
from bench.report.figures import _legend, _points
from bench.report.sections import Section
from bench.report.text import MEMORY, count, one_of

_CLOSE: Final = 0.1

_ABOUT: Final = (
    "Predictions are made before a cell runs: bytes and products of its largest batch are counted "
    "without running it, and turned into MiB and seconds by what has run before it. The first "
    "cells on a machine have little to learn from."
)


def predictions_section(group: Group) -> list[Section]:
    """Predicted against measured peaks and times, if anything was predicted."""
    pairs = {
        "peak": ("predicted_peak_mib", group.memory_column, MEMORY[group.memory_column]),
        "time": ("predicted_s", "wall_s", "time of a cell, s"),
    }
    said, heads, drawings = [], [], []
    for what, (told, measured, label) in pairs.items():
        errors = [e for row in group.rows if (e := _error(row, told, measured)) is not None]
        if not errors:
            continue
        close = sum(abs(error) <= _CLOSE for error in errors)
        of = count(len(errors), one_of(group.rows))
        heads.append(f"{close:,} of {count(len(errors), what)}")
        said.append(
            f"The predicted {what} was within 10% of the measured one in {close:,} of "
            f"{of} ({close / len(errors):.0%}); the median error was "
            f"{median(map(abs, errors)):.1%}."
        )
        drawings.append(_agreement(_frame(group, told, measured), label, f"predicted-{what}"))
    if not drawings:
        return []
    heading = f"Prediction: {' and '.join(heads)} within 10%"
    return [Section("prediction", "Prediction", heading, [*said, _ABOUT], drawings)]


def _error(row: Row, told: str, measured: str) -> float | None:
    predicted, value = number(row.get(told)), number(row.get(measured))
    if row.get("status") != "ok" or predicted is None or not value:
        return None
    return predicted / value - 1


def _frame(group: Group, told: str, measured: str) -> pd.DataFrame:
    rows = []
    for setting in group.settings:
        predicted, value = setting.estimate(told), setting.estimate(measured)
        if predicted is not None and value is not None:
            rows.append({
                "mode": setting.mode, "amp": setting.amp,
                "predicted": predicted.value, "measured": value.value,
            })  # fmt: skip
    return pd.DataFrame(rows)


def _agreement(rows: pd.DataFrame, label: str, stem: str) -> Drawing:
    """Predicted against measured, beside a band of a tenth either way."""
    ends = (0.0, 1.08 * float(rows[["measured", "predicted"]].to_numpy().max()))
    low, high = ([(1 + side * _CLOSE) * end for end in ends] for side in (-1, 1))
    with canvas(4.3) as (figure, axes):
        axes.fill_between(ends, low, high, color=GRID, linewidth=0)
        axes.plot(ends, ends, color=INK, linewidth=0.7)
        _points(axes, rows, "measured", "predicted")
        axes.set(xlim=ends, ylim=ends, xlabel=f"measured {label}", ylabel=f"predicted {label}")
        _legend(figure, rows)
    close = int(((rows["predicted"] / rows["measured"] - 1).abs() <= _CLOSE).sum())
    alt = f"Predicted against measured {label}: {close} of {len(rows)} points in the band."
    caption = "A dot for each setting, its seeds averaged; the band is 10% either way."
    return Drawing(stem, to_svg(figure, stem), alt, caption)
