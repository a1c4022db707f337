"""The content of the explorer on index.html: a group's settings and what is shown of their pairs.

The rule is applied here: the content says of each pair of settings whether one is shown to be no
worse, or to be worse, than the other, and in which order those that are shown are recommended. Of
the settings that its filters and limits leave the page only looks that up.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import ceil, floor, isfinite, log, log10
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from bench.analysis.costs import NEEDS, UNITS, Need, cost_of
from bench.analysis.groups import Group
from bench.analysis.matching import text_of
from bench.analysis.recommendation import Candidates, Recommendation
from bench.analysis.setting import Setting, number
from bench.analysis.verdicts import column
from bench.common.messages import finite
from bench.plan.cell import Value
from bench.plan.rows import Row
from bench.report.cells import MOST_OF_A_GROUP
from bench.report.commands import command_of, options_of, recommend_command
from bench.report.drawing import BLUE, INK, ORANGE, PURPLE
from bench.report.figures import COLOURS, MARKERS
from bench.report.recommendation import against_full, in_brief, obstacles, withdrawn
from bench.report.tables import MOST_SETTINGS
from bench.report.text import LABELS, y_label
from bench.results.facts import NO_FACTS, KnownFacts
from bench.results.store import cell_folder

_MOST_CELLS: Final = 20  # cells of a setting whose figures are listed; of more, only ids are known
_MOST_STEPS: Final = 2**15 - 1
_VARIABLES: Final = {INK: "--ink", BLUE: "--lora", ORANGE: "--dora", PURPLE: "--head"}
"""Colours of figures, and the page's variables for them, which differ in the dark."""
_LIMITED: Final[tuple[Need | Literal["score"], ...]] = (*NEEDS, "score")
_SYMBOLS: Final = {"s": "square", "D": "diamond", "o": "circle", "^": "triangle", "*": "star"}
"""matplotlib's markers by their names in Observable Plot."""


def explorer(
    recommended: Recommendation, sources: Sequence[str] = (), facts: KnownFacts = NO_FACTS
) -> dict[str, Any]:
    """The settings, metric and pairs of a group with its recommendation among all, ready for JSON;
    the files that the rows came from and facts on the data are for commands."""
    candidates = recommended.candidates
    group = candidates.group
    places = {id(setting): i for i, setting in enumerate(candidates.settings)}
    points = [*map(_axes, group.settings)]
    axes = {
        name: values
        for name in points[0]
        if len({*(values := [text_of(point[name], "none") for point in points])}) > 1
    }
    runs = sources[0] if len(sources) == 1 else "runs.csv"
    listed = {row.cell_id for row in group.ordered[:MOST_OF_A_GROUP]}
    scoring, options = group.scoring, options_of(group, facts)
    every = range(len(candidates.settings))
    content: dict[str, Any] = finite({
        "metric": {
            "name": y_label(group), "label": scoring.label, "higher": scoring.higher_is_better,
            "decimals": group.decimals, "margin": scoring.size(candidates.margin),
        },
        "costs": {need: _title(group, need) for need in NEEDS},
        "limits": [limit for name in _LIMITED if (limit := _limit(candidates, name))],
        "order": {
            need: [] if candidates.obstacles else candidates.by_cost(every, need) for need in NEEDS
        },
        "best": np.argsort(-candidates.scores, kind="stable").tolist(),
        "command": recommend_command(group, sources),
        "closed": obstacles(recommended) if candidates.obstacles else "",
        "axes": {name: _ordered(values) for name, values in axes.items()},
        "modes": {
            mode: [_VARIABLES.get(COLOURS[mode], COLOURS[mode]), _SYMBOLS.get(MARKERS[mode], "wye")]
            for mode in dict.fromkeys(s.mode for s in group.settings)
        },
        "settings": [
            {
                "label": setting.label, "axes": [values[i] for values in axes.values()],
                "costs": [cost_of(group, setting, need) for need in NEEDS],
                "score": score and [score.value, *(score.ends() or (None, None))], "pair": place,
                "value": None if place is None else candidates.value(place, "score"),
                "brief": "" if place is None else in_brief(candidates, place),
                "against": "" if place is None else against_full(candidates, place),
                "collapsed": "" if place is None else withdrawn(candidates, place),
                "learned": setting.learned, "baseline": setting is group.baseline,
                "mode": setting.mode, "hollow": setting.amp == "off",
                "seeds": len(setting.scores),
                "cells": [_cell(group, row, runs) for row in setting.rows[:_MOST_CELLS]],
                "more": [r.cell_id for r in setting.rows[_MOST_CELLS:] if r.cell_id in listed],
                "command": command_of(group, setting, options),
            }
            for i, setting in enumerate(group.settings)
            for place, score in [(places.get(id(setting)), setting.estimate("dev_score"))]
        ],
        "pairs": _pairs(candidates), "ratios": _ratios(group),
    })  # fmt: skip
    return content


def _axes(setting: Setting) -> dict[str, Value]:
    """The values by which settings are filtered; None where an axis does not distinguish them."""
    return {
        "encoder": setting.encoder or None,
        "mode": setting.mode, "rank": setting.rank, "layers": setting.layers,
        "AMP": setting.amp, "unfreezing": setting.unfreeze if setting.unfreezes else None,
        "rate": setting.rate if setting.tells_rate else None,
        "frozen weights": setting.frozen if setting.tells_frozen else None,
        "options": ", ".join(setting.options) or None,
    }  # fmt: skip


def _ordered(values: list[str]) -> list[str]:
    """Each value once: in the order of the settings, numbers by size, `none` at the end."""

    def size(text: str) -> float:
        with suppress(ValueError):
            return float(text)
        return 0.0

    return sorted(dict.fromkeys(values), key=lambda text: (text == "none", size(text)))


def _limit(known: Candidates, name: Need | Literal["score"]) -> dict[str, object] | None:
    """A limit, and its values from the strictest on, of which each leaves another setting: rounded
    so that it does. None where all settings are alike."""
    group, at_most = known.group, name != "score" or not known.group.scoring.higher_is_better
    if name == "score":
        every = [known.value(i, name) for i in range(len(known.settings))]
    else:
        costs = [cost_of(group, setting, name) for setting in group.settings]
        every = [cost for cost in costs if cost is not None and cost > 0]
    values = set(filter(isfinite, every))
    if len(values) < 2:
        return None

    def rounded(value: float) -> str:
        digits = group.decimals if name == "score" else min(max(0, 2 - floor(log10(value))), 12)
        whole = (ceil if at_most else floor)(value * 10.0**digits)
        return f"{whole / 10.0**digits:.{digits}f}"

    return {
        "name": name, "at_most": at_most,
        "title": y_label(group) if name == "score" else _title(group, name),
        "unit": next(unit for unit, size in UNITS[name].items() if size == 1.0),
        "values": sorted({*map(rounded, values)}, key=float),
    }  # fmt: skip


def _title(group: Group, need: Need) -> str:
    return LABELS["explorer"][group.memory_column if need == "memory" else need]


def _cell(group: Group, row: Row, runs: str) -> list[object]:
    """A cell's id, seed, fold, status, score, memory and time of training, and its folder."""
    folder = ""
    with suppress(ValueError):
        folder = str(cell_folder(Path(runs), row.name, *row.row_key))
    memory = number(row[column(group, "memory")])
    return [
        row.cell_id, row.seed, row.fold, str(row.status or "not run"), row.dev_score,
        memory, row.train_s, folder if row.status else "",
    ]  # fmt: skip


def _pairs(known: Candidates) -> dict[str, object]:
    """What is known of each pair with scores: whether one (row) is shown to be no worse, and to be
    worse, than another and, unless settings are very many, the difference of scores, row minus
    column, with its lower bound, in steps of `unit`. The upper bound is minus the lower one of the
    column against the row."""
    every = {"difference": known.comparison.difference, "lower": known.comparison.lower}
    steps = _steps(every, is_small=len(known.settings) <= MOST_SETTINGS)
    bits = {name: np.packbits(getattr(known, name)) for name in ("shown", "worse")}
    return {"of": len(known.settings)} | {name: _base64(of) for name, of in bits.items()} | steps


def _ratios(group: Group) -> dict[str, object]:
    """Unless settings are very many, the logarithm of the ratio of the memory, and of the time of a
    training, of one setting (column) to another (row) over the seeds and folds that both have, in
    steps of `unit`."""
    if len(group.settings) > MOST_SETTINGS:
        return {"unit": 1.0, "memory": "", "time": ""}
    return _steps({"memory": _logs(group, group.memory_column), "time": _logs(group, "train_s")})


def _logs(group: Group, column: str) -> NDArray[np.float64]:
    """The mean difference of the logarithms of a cost, column minus row, over common places."""
    runs = [setting.by_run(column) for setting in group.settings]
    places = {place: i for i, place in enumerate(dict.fromkeys(r[:2] for of in runs for r in of))}
    values, known = np.zeros((2, len(runs), len(places)))
    for i, of in enumerate(runs):
        for run, value in of.items():
            if value > 0:
                values[i, places[run[:2]]], known[i, places[run[:2]]] = log(value), 1.0
    sums, counts = known @ values.T - values @ known.T, known @ known.T
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _steps(every: Mapping[str, NDArray[np.float64]], is_small: bool = True) -> dict[str, object]:
    """Matrices as 16-bit integers in steps of `unit`, the lowest for what is not finite."""
    largest = [float(np.abs(x[np.isfinite(x)]).max(initial=0.0)) for x in every.values()]
    unit = max(largest) / _MOST_STEPS or 1.0
    whole = {
        name: np.where(np.isfinite(values), np.rint(values / unit), -_MOST_STEPS - 1)
        for name, values in every.items()
    }
    texts = {n: _base64(x.astype("<i2")) if is_small else "" for n, x in whole.items()}
    return {"unit": unit, **texts}


def _base64(values: NDArray[np.generic]) -> str:
    return b64encode(values.tobytes()).decode()
