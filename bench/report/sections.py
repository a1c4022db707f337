"""The sections on a group: trade-off, rank, learning rate and cost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Final

import pandas as pd

from adapters.names import in_order
from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.analysis.verdicts import COSTS, column, compare, pareto, rank_effect
from bench.plan.cell import SEARCHED
from bench.report import figures, tables, text
from bench.report.drawing import Drawing
from bench.report.references import ReferencePoint, reference_tables
from bench.report.tables import Table
from bench.report.text import count
from bench.results.overhead import times_of

_ROOM: Final = 3.0
"""The share of the settings' range of scores by which the axis of a trade-off is extended for a
reference that is better than all of them; for one that is worse it is 1."""
_BANDS: Final = {"full": "full fine-tuning", "head": "the head alone"}


@dataclass(frozen=True)
class Section:
    """A section of the report; `short` is its name in the table of contents."""

    anchor: str
    short: str
    heading: str
    said: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()


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


def _frozen_types(settings: Sequence[Setting]) -> str:
    return " or in ".join(sorted({str(s.frozen) for s in settings if s.tells_frozen}))


def _left_out(group: Group) -> str:
    settings, most = len(group.settings), tables.MOST_DRAWN
    return f" {most} of {settings:,} settings are drawn." if settings > most else ""


def drawn_note(group: Group) -> str:
    """A caption's sentences on the settings that are drawn, unless these are all."""
    types = _frozen_types(group.usual)
    only = f" Only frozen weights held in {types} are drawn." if types else ""
    return f"{only}{_left_out(group)}"


def tradeoffs(
    group: Group,
    rows: pd.DataFrame,
    prefix: str = "",
    points: Sequence[ReferencePoint] = (),
) -> list[Drawing]:
    """Figures of the score against memory, and against time."""
    near, better, worse = _near(group, rows, points)
    dashed = " Dashed: reference points." if near else ""

    def listed(far: Sequence[tuple[str, float]]) -> str:
        return ", ".join(f"{name} {text.score(group, value)}" for name, value in far)

    if worse:
        dashed += f" Too far away to be drawn: {listed(worse)}."
    arrow = "↑" if group.scoring.higher_is_better else "↓"
    beyond = f"{arrow} {listed(better)}" if better else ""
    dotted = f" Dotted: {text.BASE}." if rows["baseline"].any() else ""
    types = _frozen_types(group.settings)
    held = f" Frozen weights are held in {types}." if types else ""
    caption = (
        f"{'Up' if group.scoring.higher_is_better else 'Down'} and to the left is better. The line "
        "is the Pareto front, numbered from the cheapest."
        f"{dotted}{dashed}{held}{_left_out(group)}"
    )
    return [
        figures.tradeoff(
            rows, cost, text.x_label(group, cost), text.y_label(group),
            f"{prefix}tradeoff-{cost}", caption, near, beyond, partial(text.score, group),
        )
        for cost in COSTS
        if not rows.dropna(subset=[cost, "score"]).empty
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
    on_front = {id(s) for cost in COSTS for s in pareto(group, cost)}
    total = sum(s.learned and s.estimate("dev_score") is not None for s in group.settings)
    what = "settings that learned" if group.unlearned else "settings"
    heading = (
        f"Trade-off: for {len(on_front)} of {total} {what} no other is both cheaper and better"
    )
    if total == 1:
        heading = "Trade-off: only one setting has a score"
    elif not on_front:
        heading = "Trade-off: no setting has both a cost and a score"
    return Section(
        "tradeoff", "Trade-off", heading, _paired(group),
        tradeoffs(group, rows, points=points),
        [tables.front_table(group)],
    )  # fmt: skip


def _paired(group: Group) -> list[str]:
    """A sentence on whether differences of scores are paired over dev examples."""
    scored = [setting for setting in group.settings if setting.scores]
    kept = sum(setting.values.keys() >= setting.scores.keys() for setting in scored)
    if len(scored) < 2:
        return []
    if kept == len(scored):
        return ["Scores are compared example by example: the predictions of all cells are known."]
    if kept < 2:
        return [
            "Scores are compared by their own intervals, as if on different examples, because the "
            "predictions of the cells are not known, so differences have wider intervals."
        ]
    return [
        f"Scores of {kept:,} of {count(len(scored), 'setting')}, whose "
        "predictions are known, are compared example by example, and others as if on different "
        "examples, with wider intervals."
    ]


def _rank(group: Group, rows: pd.DataFrame) -> Section:
    heading, sentence = _rank_effect(group)
    if not rows[rows["rank"].notna()]["unfreezes"].all():
        rows = rows[~rows["unfreezes"].astype(bool)]
    plain = rows[rows["mode"].isin(["full", "head"]) & (rows["amp"] == "off")]
    shown = pd.concat([plain, rows[rows["rank"].notna()]])
    limits = figures.limits([shown["score"], shown["low"], shown["high"]])
    joined = " Of several rates the best by dev is joined, which flatters it; the others are paler."
    of_rates = joined if rows["several_rates"].any() else ""
    measured = plain.dropna(subset=["score"])["mode"].unique()
    names = " and ".join(name for mode, name in _BANDS.items() if mode in measured)
    bands = f" Bands: {names}, in fp32." if names else ""
    bars = "95% intervals" if shown["low"].notna().any() else "no intervals: not measured"
    drawings = [
        figures.rank(
            rows, layers, limits, text.y_label(group), f"rank-{layers}",
            f"{layers}: {bars}.{bands}{of_rates}{drawn_note(group)}",
        )
        for layers in in_order(rows.dropna(subset=["rank", "score"])["layers"])
    ]  # fmt: skip
    return Section("rank", "Rank", heading, [sentence], drawings)


def _rank_effect(group: Group) -> tuple[str, str]:
    """The effect of a higher rank on the score, as a heading and a sentence."""
    effect = rank_effect(group)
    if effect is None:
        return "Rank and score", "Fewer than two ranks were scored, so their effect is not known."
    pairs = count(effect.pairs, "pair")
    rows = [row for row in group.rows if row.rank is not None]
    also = ["in scale (alpha / rank)"] if len({row.scale for row in rows}) > 1 else []
    if any(row.learning_rate_source == SEARCHED for row in rows):
        also.append("in the rates that a search found for each")
    sides = f"above zero in {effect.better} and below"
    if not group.scoring.higher_is_better:
        sides = f"below zero, which is better, in {effect.better} and above"
    with_it = f", and with it {' and '.join(also)}" if also else ""
    return (
        f"Rank {effect.high} is significantly better than rank {effect.low} in {effect.better} of "
        f"{pairs}",
        f"Over {pairs} of settings that differ in rank{with_it}, rank {effect.high} scores "
        f"{text.score_gap(group, effect.mean)} against rank {effect.low} on average; the interval "
        f"of the difference is {sides} in {effect.worse}. Intervals are "
        "not corrected for the number of pairs. The paper's claim is that rank 1 captures most of "
        "the update.",
    )


def _rate(group: Group, rows: pd.DataFrame) -> Section:
    """The score by learning rate, for settings that ran at several."""
    rows = rows[rows["several_rates"] & rows["score"].notna()].sort_values("rate")
    rows = rows.assign(chosen=rows["best"], kind=rows["line"])
    best = rows[rows["best"]]["rate"]
    rate, often = Counter(best).most_common(1)[0]
    heading = (
        f"Of {rows['rate'].nunique()} rates {rate:g} scores best, "
        f"in {often} of {count(len(best), 'setting')}"
    )
    sentences = [
        "Each mode, layer set and rank has a rate of its own at which it scores best, so a "
        "comparison at one rate for all also compares rates."
    ]
    ends = {"highest": rows["rate"].max(), "lowest": rows["rate"].min()}
    beyond = [f"the {name} in {n}" for name, end in ends.items() if (n := int((best == end).sum()))]
    if beyond:
        sentences.append(
            f"The best rate is at an end of those tried, {' and '.join(beyond)}: a rate beyond "
            "that end may be better."
        )
    note = f"the larger marker is the best rate by dev.{drawn_note(group)}"
    drawings = [
        figures.rates(
            rows[(rows["layers"] == layers) | rows["layers"].isna()],
            text.y_label(group), f"rate-{layers}", f"{layers}: {note}", title=layers,
        )
        for layers in in_order(rows["layers"].dropna())
    ]  # fmt: skip
    return Section("rate", "Rate", heading, [" ".join(sentences)], drawings)


def _cost(group: Group, rows: pd.DataFrame, points: Sequence[ReferencePoint]) -> Section:
    dots = "a dot for each rank and rate" if rows["several_rates"].any() else "a dot for each rank"
    drawings = [
        figures.cost(
            rows, cost, text.x_label(group, cost), cost,
            f"{text.x_label(group, cost)}, {dots}; less is better.{drawn_note(group)}",
        )
        for cost in COSTS
        if rows[cost].notna().any()
    ]  # fmt: skip
    times = times_of(group.rows)
    took = [] if times is None else [f"{count(times.cells, text.one_of(group.rows))} took {times}."]
    sentences = [_memory_note(group), *took, *_compile_notes(group), *between_processes(group)]
    return Section(
        "cost", "Memory and time", _cost_heading(group), sentences, drawings,
        [tables.settings_table(group), *reference_tables(group, points)],
    )  # fmt: skip


def _cost_heading(group: Group) -> str:
    """The adapters' range of costs, relative to full fine-tuning."""
    ranges = []
    for amp in dict.fromkeys(setting.amp for setting in group.settings):
        full = group.full(amp)
        adapted = [s for s in group.usual if s.adapted and s.amp == amp] if full else []
        parts = []
        for cost in COSTS:
            gaps = [compare(group, cost, s, full) for s in adapted if full]
            ratios = [gap.value for gap in gaps if gap]
            if ratios:
                low, high = text.times(min(ratios)), text.times(max(ratios))
                parts.append(f"{low if low == high else f'{low} to {high}'}× the {cost}")
        if parts:
            ranges.append(f"in {'fp32' if amp == 'off' else amp} {' and '.join(parts)}")
    if not ranges:
        return "Memory and step time"
    return f"Against full fine-tuning in the same precision, adapters take {'; '.join(ranges)}"


def _compile_notes(group: Group) -> list[str]:
    """How long compiling took with and without code from the cache, if cells were compiled."""
    took = {
        when: [row.compile_s for row in group.rows if row.compile_cached == share and row.compile_s]
        for share, when in ((0.0, "where the cache had no code"), (1.0, "where it had all"))
    }
    parts = [f"{text.num(median(seconds))} s {when}" for when, seconds in took.items() if seconds]
    if not parts:
        return []
    on_cpu = group.memory_column != "peak_cuda_allocated_mib"
    memory = ". Compiling a model also raises the peak of its process" if on_cpu else ""
    return [f"Start-up includes compiling, with a median of {' and '.join(parts)}{memory}."]


def _memory_note(group: Group) -> str:
    """What the memory column counts."""
    if group.memory_column == "peak_cuda_allocated_mib":
        return (
            "Memory is the peak that torch's tensors had allocated on the GPU; what its allocator "
            "reserves and the driver takes comes on top."
        )
    imports = [value for s in group.settings for value in s.by_run("imports_anon_mib").values()]
    share = (
        f"Python and the imported libraries alone take {text.num(median(imports))} MiB of it (the "
        "median of imports_anon_mib, without mapped files)"
        if imports
        else "how much Python and the libraries alone take is not recorded here"
    )
    return (
        "Memory is the worker's peak resident set (RSS). It counts Python and the imported "
        f"libraries too, and the checkpoint's mapped file; {share}. So ratios understate what a "
        "mode saves."
    )


def between_processes(group: Group) -> list[str]:
    """A sentence on how much the time of processes that do the same work varies, if intervals
    include that, or why times have none."""
    name = column(group, "time")
    std = group.between(name)
    cells = [{run[:2] for run in setting.by_run(name)} for setting in group.settings]
    if not any(len(of_setting) == 1 for of_setting in cells):  # of a seed and fold
        return []
    if std is None:
        return [
            "Each time here is that of one process, which can't show how much processes that do "
            "the same work differ: times and their ratios have no intervals. --repeats 3 or "
            "--seeds 3 gives them some."
        ]
    return [
        f"Time varies by {std.value:.1%} between processes that do the same work, as measured here "
        f"between runs of the same setting (standard deviation of logarithms, {std.freedom:,} "
        "degrees of freedom). Intervals of times of single runs and of several of one seed include "
        "that."
    ]
