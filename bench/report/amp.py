"""The report's section on AMP: its effect and the adapter's, separately, and the paper's claim."""

from typing import Final

import pandas as pd

from bench.analysis.groups import Group
from bench.analysis.verdicts import (
    COSTS,
    PAPER_MEMORY,
    PAPER_TIMES,
    Effects,
    Objective,
    amp_ratios,
    compare,
    effects,
)
from bench.report import figures
from bench.report.sections import Section, drawn_note
from bench.report.tables import MOST_DRAWN, Head, Table, kind
from bench.report.text import BASE, no_interval

_CLAIMED: Final = (("lora", "all-lin-only"), ("lora", "all-lin"))
"""The settings of the paper's claim: LoRA on all linear layers."""


def amp_section(group: Group) -> list[Section]:
    """The section on AMP; none where no cell ended ok."""
    if not group.ok:
        return []
    by_cost = {cost: effects(group, cost) for cost in COSTS}
    heading, sentences = _sentences(group, by_cost)
    drawings = []
    for cost in COSTS:
        rows = amp_frame(group, cost)
        if not rows.empty:
            drawings.append(figures.gaps(
                rows, f"{cost} with AMP, × the same in fp32", f"amp-{cost}",
                f"Below 1: AMP saves {cost}. Each setting is compared with itself without AMP; a "
                f"dot for each rank.{drawn_note(group)}",
            ))  # fmt: skip
    tables = [_table(by_cost)] if any(by_cost.values()) else []
    return [Section("amp", "AMP", heading, sentences, drawings, tables)]


def amp_frame(group: Group, cost: Objective) -> pd.DataFrame:
    """A row for each setting that ran with AMP: its cost against that without, by rank."""
    ratios = amp_ratios(group, cost)[:MOST_DRAWN]
    ranks = sorted({setting.rank for setting, _ in ratios if setting.rank})
    place = {rank: 0.5 * ((i + 0.5) / len(ranks) - 0.5) for i, rank in enumerate(ranks)}
    return pd.DataFrame([
        {
            "kind": kind(setting), "mode": setting.mode, "amp": setting.amp, "value": gap.value,
            "low": gap.low if gap.low is not None else gap.value,
            "high": gap.high if gap.high is not None else gap.value,
            "offset": place.get(setting.rank or 0, 0.0),
        }
        for setting, gap in ratios
    ])  # fmt: skip


def _sentences(group: Group, by_cost: dict[Objective, list[Effects]]) -> tuple[str, list[str]]:
    """A heading, and for each cost a sentence on the effects of AMP and of the adapter."""
    ratios, sentences = [], []
    for cost, every in by_cost.items():
        claimed = [e for e in every if (e.mode, e.layers) in _CLAIMED]
        for e in (claimed or every)[:1]:
            ratios.append(f"{e.amp_alone:.2f}× the {cost}")
            sentences.append(
                f"{cost.capitalize()}, {e.mode} on {e.layers} with {e.amp}: AMP alone (full "
                f"fine-tuning with it) {e.amp_alone:.2f}×, the adapter alone (in fp32) "
                f"{e.adapter_alone:.2f}×, both together {e.both:.2f}× of {BASE}; "
                f"{e.product:.2f}× if the two were independent."
                f"{_claim(group, cost, e) if claimed else ''}"
            )
    if not ratios:
        return "AMP and adapters", [
            "The effects of AMP and of the adapter can't be separated here: that takes full "
            "fine-tuning and an adapter, each with AMP and without."
        ]
    return f"AMP by itself takes full fine-tuning to {' and '.join(ratios)}", sentences


def _claim(group: Group, cost: Objective, e: Effects) -> str:
    """A sentence on whether the paper's claim is reached, by the intervals of these data."""
    base = group.baseline
    pairs = [
        (setting, gap)
        for setting in group.usual
        if base
        and (setting.mode, setting.layers, setting.amp) == (e.mode, e.layers, e.amp)
        and not setting.unfreezes
        and (gap := compare(group, cost, setting, base))
    ]
    ends = [gap.ends() or (gap.value, gap.value) for _, gap in pairs]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    few = [len(setting.ok) for setting, gap in pairs if gap.ends() is None]

    def reached(limit: float) -> str:
        if high <= limit:
            return "is reached here"
        if low > limit:
            return "is not reached here"
        return "is reached at some ranks" if few else "can't be decided from these intervals"

    alone = f" ({no_interval(*few, len(base.ok))})" if base and few else ""
    if cost == "memory":
        rss = group.memory_column == "peak_rss_mib"
        of_rss = " in RSS, which counts more than a GPU's memory does" if rss else ""
        return f" The paper's claim, half the CUDA memory, {reached(PAPER_MEMORY)}{of_rss}{alone}."
    speed, time = PAPER_TIMES
    return (
        f" The paper's claim, 60% faster, {reached(speed)} if it means 1.6 times the speed (at "
        f"most {speed:.3f}× the time), and {reached(time)} if it means 60% less time "
        f"({time}×){alone}."
    )


def _table(by_cost: dict[Objective, list[Effects]]) -> Table:
    """AMP alone, the adapter alone, and both, against full fine-tuning in fp32."""
    rows = [
        [
            cost, e.mode, e.layers, e.amp, str(e.ranks),
            *(f"{value:.2f}" for value in (e.amp_alone, e.adapter_alone, e.both, e.product)),
        ]
        for cost, every in by_cost.items() for e in every
    ]  # fmt: skip
    heads = [
        Head("cost", "cost"), Head("mode", "mode"), Head("layers", "layers"), Head("amp", "AMP"),
        Head("ranks", "ranks", "ranks averaged", True),
        Head("amp_alone", "AMP alone", "full fine-tuning with AMP, against fp32", True),
        Head("adapter_alone", "adapter alone", "the adapter in fp32", True),
        Head("both", "both", "the adapter with AMP", True),
        Head("product", "if independent", "AMP alone times adapter alone", True),
    ]  # fmt: skip
    caption = "Ratios to full fine-tuning in fp32, the geometric mean over ranks."
    return Table(heads, rows, caption)
