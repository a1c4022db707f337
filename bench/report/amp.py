"""The report's section on AMP: its effect and the adapter's, separately, and the paper's claim."""

from dataclasses import asdict
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
from bench.report.pages import phrase, sentences
from bench.report.sections import Section
from bench.report.tables import MOST_DRAWN, kind, table

_CLAIMED: Final = (("lora", "all-lin-only"), ("lora", "all-lin"))
"""The settings of the paper's claim: LoRA on all linear layers."""


def amp_section(group: Group) -> list[Section]:
    """The section on AMP; none where no cell ended ok."""
    if not group.ok:
        return []
    by_cost = {cost: effects(group, cost) for cost in COSTS}
    main = []
    for cost, every in by_cost.items():
        claimed = [e for e in every if (e.mode, e.layers) in _CLAIMED]
        main += [(cost, e, _claim(group, cost, e) if claimed else None)
                 for e in (claimed or every)[:1]]  # fmt: skip
    heading, *lines = sentences(
        "amp", group=group, every=main, paper_memory=PAPER_MEMORY, paper_times=PAPER_TIMES
    )
    drawings = [
        figures.gaps(
            rows, f"{cost} with AMP, × the same in fp32", f"amp-{cost}",
            phrase("captions", "amp", group, cost, MOST_DRAWN),
        )
        for cost in COSTS if not (rows := amp_frame(group, cost)).empty
    ]  # fmt: skip
    fields = [
        {"cost": cost, **asdict(e), "product": e.product}
        for cost, every in by_cost.items()
        for e in every
    ]
    tables = [table("amp", fields)] if fields else []
    return [Section("amp", "AMP", heading, lines, drawings, tables)]


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


def _claim(group: Group, cost: Objective, e: Effects) -> tuple[float, float, bool, list[int]]:
    """What decides whether the paper's claim is reached: the ends of all intervals, whether some
    settings have none, and the numbers of runs of these and of the baseline."""
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
    few = [len(setting.ok) for setting, gap in pairs if gap.ends() is None]
    runs = [*few, len(base.ok)] if base else few
    return min(end[0] for end in ends), max(end[1] for end in ends), bool(few), runs
