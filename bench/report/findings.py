"""The first lines on a group, and the headings and sentences of its sections."""

from collections import Counter
from collections.abc import Sequence
from statistics import median

import pandas as pd

from bench.analysis.effects import Effects, effects
from bench.analysis.groups import Group, differing
from bench.analysis.setting import number
from bench.analysis.verdicts import (
    COSTS,
    PAPER_MEMORY,
    PAPER_TIMES,
    Objective,
    compare,
    pareto,
    rank_effect,
)
from bench.plan.cell import MULTITASK, SEARCHED
from bench.plan.columns import CORRELATED, PART_SCORES
from bench.plan.rows import STATUSES, Row
from bench.report.provenance import elsewhere, repeats, spread_over
from bench.report.text import (
    BASE,
    count,
    counted,
    no_interval,
    num,
    one_of,
    setting_value,
    signed,
    times,
)
from bench.results.overhead import times_of
from minbert.data.tasks import TASKS

_CLAIMED = (("lora", "all-lin-only"), ("lora", "all-lin"))
"""The settings of the paper's claim: LoRA on all linear layers."""


def title(group: Group) -> str:
    """The report's heading: the model and the task that were compared."""
    return f"Fine-tuning {known(group, 'model')} on {known(group, 'task')}"


def lead(group: Group) -> list[str]:
    """The first lines: the modes, model and task, how many cells ended ok, and the caps."""
    modes = list(dict.fromkeys(setting.mode for setting in group.settings))
    init = "" if group.shared("init") == "pretrained" else " with random weights"
    scored = f", scored by {group.metric} on dev" if group.has_quality else ""
    first = (
        f"Compared: {', '.join(modes)} on the model {known(group, 'model')}{init} and the task "
        f"{known(group, 'task')}{scored}. {group.ok:,} of {counted(group.rows)} "
        f"ended ok, {count(group.seeds, 'seed')} for each setting{repeats(group)}"
        f"{spread_over(group)}."
    )
    device = known(group, "device")
    gpu = f" ({known(group, 'device_name')})" if device.startswith("cuda") else ""
    second = (
        f"Machine: {known(group, 'machine')}; device {device}{gpu}; "
        f"torch {known(group, 'torch_version')}, threads {known(group, 'threads')}."
    )
    task = TASKS.get(str(group.shared("task")))
    notes = [f"{note[:1].upper()}{note[1:]}." for note in (task.notes if task else ())]
    return [first, *_overall(group), caps(group), *_cut(group), *notes, second, *elsewhere(group)]


def _overall(group: Group) -> list[str]:
    """The mean that a score over several parts is."""
    scores = [
        f"(1 + r) / 2 of the correlation r on {part}"
        if part in CORRELATED
        else f"the accuracy on {part}"
        for part, column in PART_SCORES.items()
        if group.shared(column) is not None
    ]
    return [f"Overall is the mean of {', '.join(scores)}."] if scores else []


def known(group: Group, column: str) -> str:
    """The value that a group's rows share in a column, as text."""
    value = group.shared(column)
    return "not recorded" if value is None else str(value)


def caps(group: Group) -> str:
    """A sentence on how much data and how many steps each cell had."""
    train, dev, steps = (group.shared(name) for name in ("max_train", "max_dev", "max_steps"))
    whose, its = ("the task's", "its")
    if group.shared("task") == MULTITASK:
        whose = its = "each part's"
    share = f"{train:,} of {whose} examples" if train else "all of the task's training examples"
    epochs = group.shared("epochs")
    sentence = f"Trained on {share}" + (f", {count(int(epochs), 'epoch')}" if epochs else "")
    if steps:
        batch = group.shared("batch_size")
        examples = f" of {batch} examples" if batch else ""
        sentence += f", and for {count(int(steps), 'step')}{examples} at most"
    if dev:
        sentence += f"; scored on {dev:,} of {its} dev examples"
    if group.has_quality and (steps or train):
        sentence += ". Capped, so scores may be lower than those of full training"
    return sentence + "."


def _cut(group: Group) -> list[str]:
    """A sentence on how many texts were cut, if some were."""
    texts, share = number(group.shared("texts_cut")), number(group.shared("tokens_cut"))
    if not texts:
        return []
    lost = "" if share is None else f"; {share:.2%} of tokens cut"
    verb = "text is" if texts == 1 else "texts are"
    return [f"{texts:,.0f} {verb} longer than max_length {known(group, 'max_length')}{lost}."]


def front_heading(group: Group) -> str:
    """A heading with the number of settings on a Pareto front."""
    on_front = {id(s) for cost in COSTS for s in pareto(group, cost)}
    if not on_front:
        return "Trade-off: no setting has both a cost and a score"
    total = sum(s.learned and s.estimate("dev_score") is not None for s in group.settings)
    what = "settings that learned" if group.unlearned else "settings"
    return f"Trade-off: for {len(on_front)} of {total} {what} no other is both cheaper and better"


def rank_heading(group: Group) -> tuple[str, str]:
    """The effect of a higher rank on the score, as a heading and a sentence."""
    effect = rank_effect(group)
    if effect is None:
        return "Rank and score", "Fewer than two ranks were scored, so their effect is not known."
    heading = (
        f"Rank {effect.high} is significantly better than rank {effect.low} "
        f"in {effect.better} of {count(effect.pairs, 'pair')}"
    )
    return heading, (
        f"Over {count(effect.pairs, 'pair')} of settings that differ in rank{_with_rank(group)}, "
        f"rank {effect.high} scores {signed(effect.mean)} against rank {effect.low} on average; "
        f"the interval of the difference is above zero in {effect.better} and below in "
        f"{effect.worse}. Intervals are not corrected for the number of pairs. The paper's "
        "claim is that rank 1 captures most of the update."
    )


def _with_rank(group: Group) -> str:
    """The settings that differ along with the rank, as the end of a clause."""
    rows = [row for row in group.rows if row.rank is not None]
    ranks, scales = (len({row[name] for row in rows}) for name in ("rank", "scale"))
    also = ["in scale (alpha / rank)"] if ranks > 1 and scales > 1 else []
    if any(row.learning_rate_source == SEARCHED for row in rows):
        also.append("in the rates that a search found for each")
    return f", and with it {' and '.join(also)}" if also else ""


def rate_heading(rows: pd.DataFrame) -> tuple[str, str]:
    """The learning rate that scores best, as a heading and a sentence.

    Args:
        rows: the scored settings of `tables.frame`.
    """
    best = rows[rows["best"]]["rate"]
    rate, often = Counter(best).most_common(1)[0]
    heading = (
        f"Of {rows['rate'].nunique()} rates {rate:g} scores best, "
        f"in {often} of {count(len(best), 'setting')}"
    )
    sentences = (
        "Each mode, layer set and rank has a rate of its own at which it scores best, so a "
        "comparison at one rate for all also compares rates."
    )
    ends = {"highest": rows["rate"].max(), "lowest": rows["rate"].min()}
    beyond = [f"the {name} in {n}" for name, end in ends.items() if (n := int((best == end).sum()))]
    if beyond:
        sentences += (
            f" The best rate is at an end of those tried, {' and '.join(beyond)}: "
            "a rate beyond that end may be better."
        )
    return heading, sentences


def cost_heading(group: Group) -> str:
    """A heading with the adapters' range of costs, relative to full fine-tuning."""
    ranges = []
    for amp in dict.fromkeys(setting.amp for setting in group.settings):
        full = group.full(amp)
        parts = []
        for cost in COSTS:
            ratios = [
                gap.value
                for setting in group.usual
                if full and setting.adapted and setting.amp == amp
                and (gap := compare(group, cost, setting, full))
            ]  # fmt: skip
            if ratios:
                parts.append(f"{times(min(ratios))} to {times(max(ratios))}× the {cost}")
        if parts:
            ranges.append(f"in {'fp32' if amp == 'off' else amp} {' and '.join(parts)}")
    if not ranges:
        return "Memory and step time"
    return f"Against full fine-tuning in the same precision, adapters take {'; '.join(ranges)}"


def memory_note(group: Group) -> str:
    """Sentences on what the memory column counts."""
    if group.memory_column == "peak_cuda_allocated_mib":
        return (
            "Memory is the peak that torch's tensors had allocated on the GPU; what its allocator "
            "reserves and the driver takes comes on top."
        )
    imports = [value for s in group.settings for value in s.by_run("imports_anon_mib").values()]
    share = (
        f"Python and the imported libraries alone take {num(median(imports))} MiB of it (the "
        "median of imports_anon_mib, without mapped files)"
        if imports
        else "how much Python and the libraries alone take is not recorded here"
    )
    return (
        "Memory is the worker's peak resident set (RSS). It counts Python and the imported "
        f"libraries too, and the checkpoint's mapped file; {share}. So ratios understate what a "
        "mode saves."
    )


def time_note(group: Group) -> list[str]:
    """A sentence on where the time of the cells went, if it was measured."""
    times = times_of(group.rows)
    return [] if times is None else [f"{count(times.cells, one_of(group.rows))} took {times}."]


def amp_sentences(group: Group) -> tuple[str, list[str]]:
    """The effects of AMP and of the adapter, separated: a heading, and a sentence for each cost."""
    sentences = []
    ratios = []
    for cost in COSTS:
        all_effects = effects(group, cost)
        if not all_effects:
            continue
        claimed = [e for e in all_effects if (e.mode, e.layers) in _CLAIMED]
        best = (claimed or all_effects)[0]
        ratios.append(f"{best.amp_alone:.2f}× the {cost}")
        sentences.append(
            f"{cost.capitalize()}, {best.mode} on {best.layers} with {best.amp}: AMP alone (full "
            f"fine-tuning with it) {best.amp_alone:.2f}×, the adapter alone (in fp32) "
            f"{best.adapter_alone:.2f}×, both together {best.both:.2f}× of {BASE}; "
            f"{best.product:.2f}× if the two were independent."
            f"{_claim(group, cost, best) if claimed else ''}"
        )
    if not ratios:
        return "AMP and adapters", [
            "The effects of AMP and of the adapter can't be separated here: that takes full "
            "fine-tuning and an adapter, each with AMP and without."
        ]
    return f"AMP by itself takes full fine-tuning to {' and '.join(ratios)}", sentences


def _claim(group: Group, cost: Objective, effects: Effects) -> str:
    """A sentence on whether the paper's claim is reached, by the intervals of these data."""
    base = group.baseline
    pairs = [
        (setting, gap)
        for setting in group.usual
        if base
        and (setting.mode, setting.layers, setting.amp)
        == (effects.mode, effects.layers, effects.amp)
        and not setting.unfreezes
        and (gap := compare(group, cost, setting, base))
    ]
    ends = [gap.ends() or (gap.value, gap.value) for _, gap in pairs]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    few = [len(setting.ok) for setting, gap in pairs if gap.ends() is None]
    alone = f" ({no_interval(*few, len(base.ok))})" if base and few else ""
    if cost == "memory":
        rss = group.memory_column == "peak_rss_mib"
        kind = " in RSS, which counts more than a GPU's memory does" if rss else ""
        return (
            " The paper's claim, half the CUDA memory, "
            f"{_reached(low, high, PAPER_MEMORY, few)}{kind}{alone}."
        )
    speed, time = PAPER_TIMES
    return (
        f" The paper's claim, 60% faster, {_reached(low, high, speed, few)} if it means 1.6 times "
        f"the speed (at most {speed:.3f}× the time), and {_reached(low, high, time, few)} if it "
        f"means 60% less time ({time}×){alone}."
    )


def _reached(low: float, high: float, limit: float, no_intervals: Sequence[int]) -> str:
    if high <= limit:
        return "is reached here"
    if low > limit:
        return "is not reached here"
    return "is reached at some ranks" if no_intervals else "can't be decided from these intervals"


def failures_heading(rows: list[Row]) -> str:
    """A heading with the number of cells or runs that did not end ok, by status."""
    statuses = Counter(row.status or "not run" for row in rows)
    failed = [f"{number:,} {status}" for status, number in statuses.items() if status != "ok"]
    if not failed:
        flagged = sum(bool(row.flags) for row in rows)
        doubts = f", {flagged:,} of them flagged" if flagged else ""
        return f"Every {one_of(rows)} ended ok{doubts}" if rows else "No cell was run"
    return f"{len(rows) - statuses['ok']:,} of {counted(rows)} did not end ok: {', '.join(failed)}"


def status_meaning(status: str) -> str:
    """The meaning of a status; the empty one is that of a planned cell without a row."""
    return STATUSES.get(status, "planned, and without a result so far")


def differs(group: Group, first: Group) -> str:
    """A sentence on the columns in which a group differs from the first."""
    parts = []
    for name in differing(group, first):
        here, there = (setting_value(one.shared(name)) for one in (group, first))
        parts.append(f"{name} ({here} instead of {there})")
    return f"Not comparable with the first group, from which it differs in {', '.join(parts)}."
