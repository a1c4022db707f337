"""The sections on a group: trade-off, rank, learning rate and cost."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any, Final

import pandas as pd

from adapters.names import in_order
from bench.analysis.groups import Group
from bench.analysis.verdicts import COSTS, Objective, column, compare, pareto, rank_effect
from bench.plan.cell import SEARCHED
from bench.report import figures, tables, text
from bench.report.drawing import Drawing
from bench.report.pages import Section, phrase, sentences
from bench.report.references import ReferencePoint, reference_tables
from bench.report.tables import MOST_DRAWN
from bench.results.overhead import times_of

_ROOM: Final = 3.0
"""The share of the settings' range of scores by which the axis of a trade-off is extended for a
reference that is better than all of them; for one that is worse it is 1."""
_BANDS: Final = {"full": "full fine-tuning", "head": "the head alone"}


def sections(group: Group, points: Sequence[ReferencePoint] = ()) -> list[Section]:
    """Trade-off, rank, rate and cost of a group, without those that have nothing to show."""
    if not group.ok:
        return []
    rows = tables.frame(group)
    usual = rows[rows["usual"]]
    shown = []
    if group.has_quality and group.learned:
        shown.append(_tradeoff(group, rows, points))
        if usual[usual["score"].notna()]["rank"].nunique() > 1:
            shown.append(_rank(group, usual))
        if (usual["several_rates"] & usual["score"].notna()).any():
            shown.append(_rate(group, usual))
    return [*shown, _cost(group, usual, points)]


def tradeoffs(
    group: Group, rows: pd.DataFrame, prefix: str = "", points: Sequence[ReferencePoint] = ()
) -> list[Drawing]:
    """Figures of the score against memory, and against time."""
    near, better, worse = _near(group, rows, points)
    has_baseline = rows["baseline"].any()
    caption = phrase("captions", "tradeoff", group, has_baseline, near, worse, MOST_DRAWN)
    beyond = phrase("captions", "beyond", group, better)
    return [
        figures.tradeoff(
            rows, cost, text.x_label(group, cost), text.y_label(group),
            f"{prefix}tradeoff-{cost}", caption, near, beyond, partial(text.score, group),
        )
        for cost in COSTS if not rows.dropna(subset=[cost, "score"]).empty
    ]  # fmt: skip


def _near(
    group: Group, rows: pd.DataFrame, points: Sequence[ReferencePoint]
) -> tuple[list[tuple[str, float]], ...]:
    """The reference points whose lines leave room for the settings' scores, those that are too much
    better, and those that are too much worse."""
    scored = [(point.short, point.score.value) for point in points if point.score is not None]
    gain = group.scoring.gain
    low, high = sorted(gain(float(end)) for end in (rows["score"].min(), rows["score"].max()))
    room = high - low or abs(high) / 4
    better = [each for each in scored if gain(each[1]) > high + _ROOM * room]
    worse = [each for each in scored if gain(each[1]) < low - room]
    return [each for each in scored if each not in [*better, *worse]], better, worse


def _tradeoff(group: Group, rows: pd.DataFrame, points: Sequence[ReferencePoint]) -> Section:
    scored = [setting for setting in group.settings if setting.scores]
    heading, *lines = sentences(
        "tradeoff", group=group, on_front=len({id(s) for c in COSTS for s in pareto(group, c)}),
        total=sum(s.learned and s.estimate("dev_score") is not None for s in group.settings),
        scored=len(scored),
        kept=sum(setting.values.keys() >= setting.scores.keys() for setting in scored),
    )  # fmt: skip
    drawings, front = tradeoffs(group, rows, points=points), tables.front_table(group)
    return Section("tradeoff", "Trade-off", heading, lines, drawings, [front])


def _rank(group: Group, rows: pd.DataFrame) -> Section:
    ranked = [row for row in group.rows if row.rank is not None]
    heading, *lines = sentences(
        "rank", group=group, effect=rank_effect(group), scales=len({row.scale for row in ranked}),
        searched=any(row.learning_rate_source == SEARCHED for row in ranked),
    )  # fmt: skip
    if not rows[rows["rank"].notna()]["unfreezes"].all():
        rows = rows[~rows["unfreezes"].astype(bool)]
    plain = rows[rows["mode"].isin(["full", "head"]) & (rows["amp"] == "off")]
    shown = pd.concat([plain, rows[rows["rank"].notna()]])
    scores = shown[["score", "low", "high"]]
    low, high = float(scores.min().min()), float(scores.max().max())
    margin = 0.06 * (high - low) or 0.05
    measured = plain.dropna(subset=["score"])["mode"].unique()
    bands = [name for mode, name in _BANDS.items() if mode in measured]
    has_interval, of_rates = shown["low"].notna().any(), rows["several_rates"].any()
    facts = bands, has_interval, of_rates, MOST_DRAWN
    drawings = [
        figures.rank(
            rows, layers, (low - margin, high + margin), text.y_label(group), f"rank-{layers}",
            phrase("captions", "rank", group, layers, *facts),
        )
        for layers in in_order(rows.dropna(subset=["rank", "score"])["layers"])
    ]  # fmt: skip
    return Section("rank", "Rank", heading, lines, drawings)


def _rate(group: Group, rows: pd.DataFrame) -> Section:
    rows = rows[rows["several_rates"] & rows["score"].notna()].sort_values("rate")
    rows = rows.assign(chosen=rows["best"], kind=rows["line"])
    best = rows[rows["best"]]["rate"]
    rate, often = Counter(best).most_common(1)[0]
    heading, *lines = sentences(
        "rate", rates=rows["rate"].nunique(), rate=rate, often=often, best=best,
        highest=rows["rate"].max(), lowest=rows["rate"].min(),
    )  # fmt: skip
    drawings = [
        figures.rates(
            rows[(rows["layers"] == layers) | rows["layers"].isna()], text.y_label(group),
            f"rate-{layers}", phrase("captions", "rate", group, layers, MOST_DRAWN), title=layers,
        )
        for layers in in_order(rows["layers"].dropna())
    ]  # fmt: skip
    return Section("rate", "Rate", heading, lines, drawings)


def _cost(group: Group, rows: pd.DataFrame, points: Sequence[ReferencePoint]) -> Section:
    by_rate, labels = rows["several_rates"].any(), {c: text.x_label(group, c) for c in COSTS}
    drawings = [
        figures.cost(
            rows, cost, label, cost, phrase("captions", "cost", group, label, by_rate, MOST_DRAWN)
        )
        for cost, label in labels.items() if rows[cost].notna().any()
    ]  # fmt: skip
    imports = [value for s in group.settings for value in s.by_run("imports_anon_mib").values()]
    compiled = {
        when: [row.compile_s for row in group.rows if row.compile_cached == share and row.compile_s]
        for share, when in ((0.0, "where the cache had no code"), (1.0, "where it had all"))
    }
    heading, *lines = sentences(
        "cost", ratios=_ratios(group), on_cpu=group.memory_column != "peak_cuda_allocated_mib",
        imports=median(imports) if imports else None, took=times_of(group.rows),
        noun=text.one_of(group.rows), **_processes(group),
        compiling={when: median(seconds) for when, seconds in compiled.items() if seconds},
    )  # fmt: skip
    every = [tables.settings_table(group), *reference_tables(group, points)]
    return Section("cost", "Memory and time", heading, lines, drawings, every)


def _ratios(group: Group) -> dict[str, dict[Objective, list[float]]]:
    """By precision and cost, the adapters' costs relative to full fine-tuning."""
    every = {}
    for amp in dict.fromkeys(setting.amp for setting in group.settings):
        full, alike = group.full(amp), [s for s in group.usual if s.adapted and s.amp == amp]
        known = {cost: [compare(group, cost, s, full) for s in alike if full] for cost in COSTS}
        ratios = {cost: [gap.value for gap in gaps if gap] for cost, gaps in known.items()}
        every[amp] = {cost: values for cost, values in ratios.items() if values}
    return {amp: costs for amp, costs in every.items() if costs}


def between_processes(group: Group) -> list[str]:
    """A sentence on how much the time of processes that do the same work varies, if intervals
    include that, or why times have none."""
    return sentences("between_processes", **_processes(group))


def _processes(group: Group) -> dict[str, Any]:
    """How much times of processes vary, and whether a setting has runs of one seed and fold."""
    name = column(group, "time")
    cells = [{run[:2] for run in setting.by_run(name)} for setting in group.settings]
    return {"std": group.between(name), "has_single": any(len(runs) == 1 for runs in cells)}
