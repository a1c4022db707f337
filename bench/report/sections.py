"""The sections on a group: sentences, figures and tables, from which both pages are printed."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from adapters.names import LAYER_SETS
from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.analysis.verdicts import COSTS, OBJECTIVES, verdict
from bench.report import figures, findings, provenance, tables, text, winners
from bench.report.drawing import Drawing
from bench.report.tables import Table


@dataclass(frozen=True)
class Card:
    """The winner of one objective: a title, the number alone, the setting, and a sentence."""

    title: str
    big: str
    unit: str
    winner: str
    said: str


@dataclass(frozen=True)
class Section:
    """A section of the report; `short` is its name in the table of contents."""

    anchor: str
    short: str
    heading: str
    said: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()


def cards(group: Group) -> list[Card]:
    """The winners on memory, time and score."""
    all_cards = []
    for objective in COSTS if group.has_quality and not group.learned else OBJECTIVES:
        title = winners.card_title(objective, group.metric)
        best = verdict(group, objective)
        if best is None:
            all_cards.append(Card(title, "–", "", "", winners.no_verdict(group, objective)))
            continue
        unit = group.metric if objective == "score" else text.x_label(group, objective)
        if objective != "score" and best.against is not None:
            unit = "of full fine-tuning in fp32"
        sentences = winners.sentence(group, best) + winners.adapter_winner(group, objective, best)
        sentences = sentences[:1].upper() + sentences[1:]
        all_cards.append(Card(title, winners.big(best), unit, best.winner.label, sentences))
    return all_cards


def sections(group: Group, prefix: str = "") -> list[Section]:
    """Trade-off, rank, rate, cost and AMP of a group, without those that have nothing to show."""
    if not group.ok:
        return []
    rows = tables.frame(group)
    usual = rows[rows["usual"]]
    shown = []
    if group.has_quality and group.learned:
        shown.append(_tradeoff(group, rows, prefix))
        if (usual["rank"].notna() & usual["score"].notna()).any():
            shown.append(_rank(group, usual, prefix))
        if (usual["several_rates"] & usual["score"].notna()).any():
            shown.append(_rate(group, usual, prefix))
    return [*shown, _cost(group, usual, prefix), _amp(group, prefix)]


def tradeoffs(group: Group, rows: pd.DataFrame, prefix: str) -> list[Drawing]:
    """Figures of the score against memory, and against time."""
    drawings = []
    types = _frozen_types(group.settings)
    held = f" Frozen weights are held in {types}." if types else ""
    for cost in COSTS:
        if rows.dropna(subset=[cost, "score"]).empty:
            continue
        caption = (
            f"{'Up' if group.scoring.higher_is_better else 'Down'} and to the left is better. The "
            "line is the Pareto front; its settings are numbered as in the table. Dotted: "
            f"{text.BASE}.{held}{_left_out(group)}"
        )
        drawings.append(figures.tradeoff(
            rows, cost, text.x_label(group, cost), text.y_label(group),
            f"{prefix}tradeoff-{cost}", caption,
        ))  # fmt: skip
    return drawings


def _frozen_types(settings: Sequence[Setting]) -> str:
    return " or in ".join(sorted({str(s.frozen) for s in settings if s.tells_frozen}))


def _left_out(group: Group) -> str:
    count, most = len(group.settings), tables.MOST_DRAWN
    return f" {most} of {count:,} settings are drawn." if count > most else ""


def _drawn(group: Group) -> str:
    """A caption's sentences on the settings that are drawn, unless these are all."""
    types = _frozen_types(group.usual)
    only = f" Only frozen weights held in {types} are drawn." if types else ""
    return f"{only}{_left_out(group)}"


def _tradeoff(group: Group, rows: pd.DataFrame, prefix: str) -> Section:
    frugal = winners.frugal_sentence(group)
    return Section(
        "tradeoff", "Trade-off", findings.front_heading(group),
        [*([frugal] if frugal else []), *winners.seeds_sentence(group), *provenance.paired(group)],
        tradeoffs(group, rows, prefix), [tables.front_table(group)],
    )  # fmt: skip


def _rank(group: Group, rows: pd.DataFrame, prefix: str) -> Section:
    heading, sentence = findings.rank_heading(group)
    if not rows[rows["rank"].notna()]["unfreezes"].all():
        rows = rows[~rows["unfreezes"].astype(bool)]
    plain = rows[rows["mode"].isin(["full", "head"]) & (rows["amp"] == "off")]
    adapted = rows[rows["rank"].notna()]
    shown = pd.concat([plain, adapted])
    limits = figures.limits([shown["score"], shown["low"], shown["high"]])
    joined = " Of several rates the best by dev is joined, which flatters it; the others are paler."
    of_rates = joined if rows["several_rates"].any() else ""
    bars = "95% intervals" if shown["low"].notna().any() else "no intervals: not measured"
    drawings = [
        figures.rank(
            rows, layers, limits, text.y_label(group), f"{prefix}rank-{layers}",
            f"{layers}: {bars}. Bands: full fine-tuning and the head alone, in fp32."
            f"{of_rates}{_drawn(group)}",
        )
        for layers in LAYER_SETS
        if not rows[rows["layers"] == layers].dropna(subset=["rank", "score"]).empty
    ]  # fmt: skip
    return Section("rank", "Rank", heading, [sentence], drawings)


def _rate(group: Group, rows: pd.DataFrame, prefix: str) -> Section:
    """The score by learning rate, for settings that ran at several."""
    rows = rows[rows["several_rates"] & rows["score"].notna()].sort_values("rate")
    heading, sentence = findings.rate_heading(rows)
    rows = rows.assign(chosen=rows["best"], kind=rows["line"])
    note = f"the larger marker is the best rate by dev.{_drawn(group)}"
    drawings = [
        figures.rates(
            rows[(rows["layers"] == layers) | rows["layers"].isna()],
            text.y_label(group), f"{prefix}rate-{layers}", f"{layers}: {note}", title=layers,
        )
        for layers in LAYER_SETS
        if (rows["layers"] == layers).any()
    ]  # fmt: skip
    return Section("rate", "Rate", heading, [sentence], drawings)


def _cost(group: Group, rows: pd.DataFrame, prefix: str) -> Section:
    dots = "a dot for each rank and rate" if rows["several_rates"].any() else "a dot for each rank"
    drawings = [
        figures.cost(
            rows, cost, text.x_label(group, cost), f"{prefix}{cost}",
            f"{text.x_label(group, cost)}, {dots}; less is better."
            f"{_drawn(group)}",
        )
        for cost in COSTS
        if rows[cost].notna().any()
    ]  # fmt: skip
    return Section(
        "cost", "Memory and time", findings.cost_heading(group),
        [
            findings.memory_note(group), *findings.time_note(group),
            *provenance.between_processes(group),
        ],
        drawings,
        [tables.settings_table(group)],
    )  # fmt: skip


def _amp(group: Group, prefix: str) -> Section:
    heading, sentences = findings.amp_sentences(group)
    drawings = []
    for cost in COSTS:
        rows = tables.amp_frame(group, cost)
        if not rows.empty:
            drawings.append(figures.gaps(
                rows, f"{cost} with AMP, × the same in fp32", f"{prefix}amp-{cost}",
                f"Below 1: AMP saves {cost}. Each setting is compared with itself without AMP; a "
                f"dot for each rank.{_drawn(group)}",
            ))  # fmt: skip
    table = tables.effects_table(group)
    return Section("amp", "AMP", heading, sentences, drawings, [table] if table else [])
