"""The report's section on engines: minbert against transformers + PEFT, and whether both do the
same work."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from bench.analysis.comparison import Compared, Pair
from bench.analysis.engines import (
    KEPT,
    MEMORY,
    TIME,
    Agreement,
    Baseline,
    agreements,
    baselines,
    share_of_limit,
    unmatched,
)
from bench.analysis.setting import Setting
from bench.plan.rows import Row
from bench.report.drawing import Drawing
from bench.report.intervals import Entry, intervals
from bench.report.references import WARNING
from bench.report.sections import Section
from bench.report.tables import DASH, Head, Table
from bench.report.text import count, num, span, times
from bench.results.losses import LossesOf
from bench.results.outcomes import ValuesOf

_ABOUT: Final = (
    "A ratio is NEW / BASE of bench.compare: engine minbert as it runs by itself (fast kernels, "
    "batches of similar length, not compiled) over engine transformers, paired by repeat; below 1 "
    "minbert is faster or smaller. bench.compare compares its other cells. Of the limit: the time "
    "of a step's unavoidable matrix products alone on this machine, as a share of the step's time."
)
_MOST: Final = 6
"""Settings that a sentence names."""
_DRIFT: Final = (
    "Some times were not measured in alternation, so their intervals are wider: --repeats 4 "
    "runs both engines in turn."
)


def engines_section(rows: Sequence[Row], values_of: ValuesOf, losses_of: LossesOf) -> list[Section]:
    """The section on engines; none unless both engines ran a model."""
    compared, agreed = baselines(rows, values_of), agreements(rows, losses_of)
    without = _without_counterpart(compared)
    compared = [baseline for baseline in compared if baseline.comparison.pairs]
    if not compared:
        heading = "Engines: nothing to compare"
        return [Section("engines", "Engines", heading, without)] if without else []
    ranges = {one.name: text for one in compared if (text := _range(one))}
    lines = [f"Against transformers + PEFT {name}: {text}." for name, text in ranges.items()]
    lines += [*without, _agreement_line(agreed), _ABOUT]
    if any(not one.gates for baseline in compared for _, one in baseline.compared(TIME)):
        lines.append(_DRIFT)
    name, text = next(reversed(ranges.items()), ("", ""))
    heading = f"Engine minbert takes {text} of transformers + PEFT {name}" if text else "Engines"
    tables = [_costs(compared), *([_losses(agreed)] if agreed else [])]
    return [Section("engines", "Engines", heading, lines, _drawings(compared), tables)]


def engine_warnings(rows: Sequence[Row], losses_of: LossesOf) -> list[str]:
    """A line if the losses of both engines differ."""
    differing = [one for one in agreements(rows, losses_of) if not one.agrees]
    if not differing:
        return []
    return [
        f"{WARNING} engines minbert and transformers don't do the same work: the losses of "
        f"{', '.join(dict.fromkeys(one.minbert.name for one in differing))} differ."
    ]


def _range(baseline: Baseline) -> str:
    """The least and the largest ratio of time and of memory."""
    parts = []
    for what, columns in (("time", (TIME,)), ("memory", MEMORY)):
        values = [one.interval.value for _, one in baseline.compared(*columns) if one.interval]
        if values:
            low, high = times(min(values)), times(max(values))
            parts.append(f"{low if low == high else f'{low} to {high}'} times the {what}")
    return " and ".join(parts)


def _agreement_line(agreed: Sequence[Agreement]) -> str:
    if not agreed:
        return (
            "Whether both engines do the same work was not checked: that takes cells without "
            "dropout of both, as the grid engines has, and the folders of cells."
        )
    settings, steps = count(len(agreed), "training"), max(one.steps for one in agreed)
    differing = [one for one in agreed if not one.agrees]
    if differing:
        return f"Losses differ in {len(differing)} of {settings}: the engines don't do the same."
    largest = max(one.difference for one in agreed)
    line = (
        f"Both engines do the same: without dropout the losses of {steps} steps differ by at most "
        f"{largest:.1e} in {settings}."
    )
    if all(one.minbert.amp != "off" for one in agreed):
        line += (
            f" All are in half precision, where losses may differ by {agreed[0].limit:g}: that "
            "shows gross errors alone, and fp32 cells without dropout would show others."
        )
    return line


def _without_counterpart(compared: Sequence[Baseline]) -> list[str]:
    """A sentence for each engine on the settings that the other one has no counterpart for."""
    return [
        f"Of engine {engine} without a counterpart: {'; '.join(names[:_MOST])}"
        f"{f' and {len(names) - _MOST} more' if len(names) > _MOST else ''}."
        for engine, names in (unmatched(compared) if compared else {}).items()
    ]


def _costs(compared: Iterable[Baseline]) -> Table:
    heads = [
        Head("setting", "setting"), Head("against", "transformers + PEFT"),
        Head("base", "its ms per 1,000 tokens", "of a training step, real tokens", True),
        Head("new", "minbert's", "ms per 1,000 tokens of engine minbert", True),
        Head("time", "time", "minbert / transformers", True),
        Head("memory", "peak memory", "minbert / transformers", True),
        Head("kept", "kept for backward", "minbert / transformers, by the largest batch", True),
        Head("base_limit", "of the limit", "of engine transformers", True),
        Head("new_limit", "minbert's", "share of the limit of engine minbert", True),
    ]  # fmt: skip
    rows = []
    for baseline in compared:
        by_column = [
            {id(pair): one for pair, one in baseline.compared(*columns)}
            for columns in ((TIME,), MEMORY, (KEPT,))
        ]
        for pair in baseline.comparison.pairs:
            ratios = [known.get(id(pair)) for known in by_column]
            if any(ratios):
                time = ratios[0]
                rows.append([
                    _name(pair), baseline.name,
                    num(time.base if time else None), num(time.new if time else None),
                    *map(_ratio, ratios), _share(pair.base), _share(pair.new),
                ])  # fmt: skip
    return Table(heads, rows, "Costs of the settings that both engines ran.")


def _name(pair: Pair) -> str:
    return pair.label.partition(" against ")[0]


def _ratio(one: Compared | None) -> str:
    if one is None or one.interval is None:
        return DASH
    ends = one.interval.ends()
    value = times(one.interval.value)
    same = ends is None or ends[0] == ends[1]
    return value if same else f"{value} ({span(one.interval, times)})"


def _share(setting: Setting) -> str:
    share = share_of_limit(setting)
    return DASH if share is None else f"{share:.0%}"


def _losses(agreed: Sequence[Agreement]) -> Table:
    heads = [
        Head("cell", "cell"), Head("attention", "attention", "of engine transformers"),
        Head("compile", "compiled"), Head("steps", "steps", numeric=True),
        Head("difference", "largest difference", "of the losses of a step", True),
        Head("limit", "limit", "in half precision the engines round in other places", True),
        Head("agrees", "same work"),
    ]  # fmt: skip
    rows = [
        [
            one.minbert.name, one.transformers.attn_implementation or DASH,
            one.transformers.compile, f"{one.steps:,}",
            f"{one.difference:.1e}" if math.isfinite(one.difference) else "other steps",
            f"{one.limit:g}", "yes" if one.agrees else "NO",
        ]
        for one in agreed
    ]  # fmt: skip
    marks = ["" if one.agrees else "failed" for one in agreed]
    return Table(heads, rows, "Losses without dropout, on the same batches.", marks)


def _drawings(compared: Iterable[Baseline]) -> list[Drawing]:
    drawings = []
    for number, baseline in enumerate(compared, start=1):
        entries = [
            Entry(_name(pair), one.interval, one.verdict)
            for pair, one in baseline.compared(TIME)
            if one.interval is not None
        ]
        if entries:
            label = f"time, minbert / transformers + PEFT {baseline.name}"
            drawings.append(
                intervals(entries, None, None, label, f"engines-{number}", is_ratio=True)
            )
    return drawings
