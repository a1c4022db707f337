"""The report's section on engines, minbert against transformers + PEFT, which must agree."""

from collections.abc import Iterable, Sequence
from math import isfinite

from bench.analysis import engines
from bench.analysis.comparison import Compared, Pair
from bench.plan.rows import Row
from bench.report.drawing import Drawing
from bench.report.figures import Entry, intervals
from bench.report.pages import Section, phrase, sentences
from bench.report.references import WARNING
from bench.report.tables import Table, table
from bench.report.text import num, times, with_span
from bench.results.outcomes import ValuesOf
from bench.results.predictions import LossesOf


def engines_section(rows: Sequence[Row], values_of: ValuesOf, losses_of: LossesOf) -> list[Section]:
    """The section on engines; none unless both engines ran a model."""
    compared, agreed = engines.baselines(rows, values_of), engines.agreements(rows, losses_of)
    without = engines.unmatched(compared) if compared else {}
    compared = [baseline for baseline in compared if baseline.comparison.pairs]
    if not compared and not without:
        return []
    heading, *lines = sentences(
        "engines", is_compared=bool(compared), agreed=agreed, unmatched=without,
        ranges=[(one.name, known) for one in compared if (known := _ratios(one))],
        drifted=any(not one.gates for of in compared for _, one in of.compared(engines.TIME)),
    )  # fmt: skip
    tables = [_costs(compared)] if compared else []
    tables += [_losses(agreed)] if compared and agreed else []
    return [Section("engines", "Engines", heading, lines, _drawings(compared), tables)]


def engine_warnings(rows: Sequence[Row], losses_of: LossesOf) -> list[str]:
    """A line if the losses of both engines differ."""
    agreed = engines.agreements(rows, losses_of)
    differing = [*dict.fromkeys(one.minbert.name for one in agreed if not one.agrees)]
    return [phrase("groups", "engines_differ", WARNING, differing)] if differing else []


def _ratios(baseline: engines.Baseline) -> dict[str, list[float]]:
    every = {"time": baseline.compared(engines.TIME), "memory": baseline.compared(*engines.MEMORY)}
    known = {n: [one.interval.value for _, one in own if one.interval] for n, own in every.items()}
    return {cost: ratios for cost, ratios in known.items() if ratios}


def _costs(compared: Iterable[engines.Baseline]) -> Table:
    rows = []
    for baseline in compared:
        by_column = [
            {id(pair): one for pair, one in baseline.compared(*columns)}
            for columns in ((engines.TIME,), engines.MEMORY, (engines.KEPT,))
        ]
        for pair in baseline.comparison.pairs:
            ratios = [known.get(id(pair)) for known in by_column]
            if any(ratios):
                time, memory, kept = ratios
                rows.append({
                    "setting": _name(pair), "against": baseline.name,
                    "base": num(time.base if time else None),
                    "new": num(time.new if time else None),
                    "time": _ratio(time), "memory": _ratio(memory), "kept": _ratio(kept),
                    "base_limit": engines.share_of_limit(pair.base),
                    "new_limit": engines.share_of_limit(pair.new),
                })  # fmt: skip
    return table("engines", rows)


def _name(pair: Pair) -> str:
    return pair.label.partition(" against ")[0]


def _ratio(one: Compared | None) -> str | None:
    if one is None or one.interval is None:
        return None
    is_exact = one.interval.low == one.interval.high
    return times(one.interval.value) if is_exact else with_span(one.interval, times)


def _losses(agreed: Sequence[engines.Agreement]) -> Table:
    rows = [
        {
            "cell": one.minbert.name, "attention": one.transformers.attn_implementation or None,
            "compile": one.transformers.compile, "steps": one.steps,
            "difference": f"{one.difference:.1e}" if isfinite(one.difference) else "other steps",
            "limit": one.limit, "agrees": "yes" if one.agrees else "NO",
        }
        for one in agreed
    ]  # fmt: skip
    marks = ["" if one.agrees else "failed" for one in agreed]
    return table("losses", rows, marks=marks)


def _drawings(compared: Iterable[engines.Baseline]) -> list[Drawing]:
    drawings = []
    for number, baseline in enumerate(compared, start=1):
        entries = [
            Entry(_name(pair), one.interval, one.verdict)
            for pair, one in baseline.compared(engines.TIME) if one.interval
        ]  # fmt: skip
        label, stem = f"time, minbert / transformers + PEFT {baseline.name}", f"engines-{number}"
        if entries:
            drawings.append(intervals(entries, label, stem))
    return drawings
