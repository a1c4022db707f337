"""A group's first lines and the headings of its sections, which say what was found."""

from collections import Counter
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
from bench.plan.cell import MULTITASK, SEARCHED, Row
from bench.plan.columns import CORRELATED, PART_SCORES, STATUSES
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
"""What the paper's claim is about: LoRA on all linear layers."""


def title(group: Group) -> str:
    """What was compared, as a heading."""
    return f"Fine-tuning {known(group, 'model')} on {known(group, 'task')}"


def lead(group: Group) -> list[str]:
    """The first lines: what was compared, on what, how much of it ended, under which caps."""
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
    """What a score over parts is the mean of."""
    counted = [
        f"(1 + r) / 2 of the correlation r on {part}"
        if part in CORRELATED
        else f"the accuracy on {part}"
        for part, column in PART_SCORES.items()
        if group.shared(column) is not None
    ]
    return [f"Overall is the mean of {', '.join(counted)}."] if counted else []


def known(group: Group, column: str) -> str:
    """What a group's rows share in a column."""
    value = group.shared(column)
    return "not recorded" if value is None else str(value)


def caps(group: Group) -> str:
    """How much data and how many steps each cell had."""
    train, dev, steps = (group.shared(name) for name in ("max_train", "max_dev", "max_steps"))
    has_parts = group.shared("task") == MULTITASK
    whose, its = ("each part's", "each part's") if has_parts else ("the task's", "its")
    share = f"{train:,} of {whose} examples" if train else "all of the task's training examples"
    epochs = group.shared("epochs")
    said = f"Trained on {share}" + (f", {count(int(epochs), 'epoch')}" if epochs else "")
    if steps:
        batch = group.shared("batch_size")
        seen = f" of {batch} examples" if batch else ""
        said += f", and for {count(int(steps), 'step')}{seen} at most"
    if dev:
        said += f"; scored on {dev:,} of {its} dev examples"
    if group.has_quality and (steps or train):
        said += ". Capped, so scores may be lower than full training gives"
    return said + "."


def _cut(group: Group) -> list[str]:
    """How many texts were cut, if some were."""
    texts, share = number(group.shared("texts_cut")), number(group.shared("tokens_cut"))
    if not texts:
        return []
    lost = "" if share is None else f"; {share:.2%} of tokens cut"
    verb = "text is" if texts == 1 else "texts are"
    return [f"{texts:,.0f} {verb} longer than max_length {known(group, 'max_length')}{lost}."]


def front_heading(group: Group) -> str:
    """How many settings are worth a look."""
    either = {id(s) for cost in COSTS for s in pareto(group, cost)}
    if not either:
        return "Trade-off: no setting has both a cost and a score"
    total = sum(s.learned and s.estimate("dev_score") is not None for s in group.settings)
    what = "settings that learned" if group.unlearned else "settings"
    return f"Trade-off: for {len(either)} of {total} {what} no other is both cheaper and better"


def rank_heading(group: Group) -> tuple[str, str]:
    """Whether a higher rank pays, as a heading and a sentence."""
    found = rank_effect(group)
    if found is None:
        return "Rank and score", "Fewer than two ranks were scored, so their effect is not known."
    heading = (
        f"Rank {found.high} is proven better than rank {found.low} "
        f"in {found.better} of {count(found.pairs, 'pair')}"
    )
    said = (
        f"Over {count(found.pairs, 'pair')} of settings that differ in rank{_with_rank(group)}, "
        f"rank {found.high} scores {signed(found.mean)} against rank {found.low} on average; the "
        f"interval of the difference is above zero in {found.better} and below in {found.worse}. "
        "Nothing is corrected for the number of pairs. The paper's claim is that rank 1 captures "
        "most of the update."
    )
    return heading, said


def _with_rank(group: Group) -> str:
    """What differs along with the rank."""
    rows = [row for row in group.rows if row.get("rank") is not None]
    ranks, scales = (len({row.get(name) for row in rows}) for name in ("rank", "scale"))
    also = ["in scale (alpha / rank)"] if ranks > 1 and scales > 1 else []
    if any(row.get("learning_rate_source") == SEARCHED for row in rows):
        also.append("in the rates that a search found for each")
    return f", and with it {' and '.join(also)}" if also else ""


def rate_heading(rows: pd.DataFrame) -> tuple[str, str]:
    """Which learning rate scores best, as a heading and a sentence.

    Args:
        rows: settings that were scored, as in `tables.frame`.
    """
    best = rows[rows["best"]]["rate"]
    rate, often = Counter(best).most_common(1)[0]
    heading = (
        f"Of {rows['rate'].nunique()} rates {rate:g} scores best, "
        f"in {often} of {count(len(best), 'setting')}"
    )
    said = (
        "Each mode, layer set and rank has a rate of its own at which it scores best, so a "
        "comparison at one rate for all is one of rates, too."
    )
    ends = {"highest": rows["rate"].max(), "lowest": rows["rate"].min()}
    beyond = [f"the {name} in {n}" for name, end in ends.items() if (n := int((best == end).sum()))]
    if beyond:
        said += (
            f" The best is an outermost of the rates that were tried, {' and '.join(beyond)}: "
            "there it may lie beyond."
        )
    return heading, said


def cost_heading(group: Group) -> str:
    """The adapters' span of cost against full fine-tuning in the same precision."""
    said = []
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
            said.append(f"in {'fp32' if amp == 'off' else amp} {' and '.join(parts)}")
    if not said:
        return "Memory and step time"
    return f"Against full fine-tuning in the same precision, adapters take {'; '.join(said)}"


def memory_note(group: Group) -> str:
    """What the headline of memory counts."""
    if group.memory_column == "peak_cuda_allocated_mib":
        return (
            "Memory is the peak that torch's tensors had allocated on the GPU; what its allocator "
            "reserves and the driver takes comes on top."
        )
    found = [value for s in group.settings for value in s.by_run("imports_anon_mib").values()]
    told = (
        f"Python and the imported libraries alone take {num(median(found))} MiB of it (the median "
        "of imports_anon_mib, without mapped files)"
        if found
        else "how much Python and the libraries alone take is not recorded here"
    )
    return (
        "Memory is the worker's peak resident set (RSS). It counts Python and the imported "
        f"libraries too, and the checkpoint's mapped file; {told}. So ratios understate what a "
        "mode saves."
    )


def time_note(group: Group) -> list[str]:
    """Where the time of the cells went, if it was measured."""
    found = times_of(group.rows)
    return [] if found is None else [f"{count(found.cells, one_of(group.rows))} took {found}."]


def amp_sentences(group: Group) -> tuple[str, list[str]]:
    """AMP's effect told from the adapter's: a heading, and a sentence for each cost."""
    said = []
    heads = []
    for cost in COSTS:
        found = effects(group, cost)
        if not found:
            continue
        claimed = [e for e in found if (e.mode, e.layers) in _CLAIMED]
        best = (claimed or found)[0]
        heads.append(f"{best.amp_alone:.2f}× the {cost}")
        said.append(
            f"{cost.capitalize()}, {best.mode} on {best.layers} with {best.amp}: AMP alone (full "
            f"fine-tuning with it) {best.amp_alone:.2f}×, the adapter alone (in fp32) "
            f"{best.adapter_alone:.2f}×, both together {best.both:.2f}× of {BASE}; "
            f"{best.product:.2f}× if neither touched the other."
            f"{_claim(group, cost, best) if claimed else ''}"
        )
    if not heads:
        return "AMP and adapters", [
            "AMP's effect can't be told from the adapter's here: that takes full fine-tuning and "
            "an adapter, each with AMP and without."
        ]
    return f"AMP by itself takes full fine-tuning to {' and '.join(heads)}", said


def _claim(group: Group, cost: Objective, effects: Effects) -> str:
    """Whether the paper's claim is reached, as far as the intervals tell."""
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
    bare = bool(few)
    alone = f" ({no_interval(*few, len(base.ok))})" if base and bare else ""
    if cost == "memory":
        rss = group.memory_column == "peak_rss_mib"
        kind = " in RSS, which counts more than a GPU's memory does" if rss else ""
        return (
            " The paper's claim, half the CUDA memory, "
            f"{_reached(low, high, PAPER_MEMORY, bare)}{kind}{alone}."
        )
    speed, time = PAPER_TIMES
    return (
        f" The paper's claim, 60% faster, {_reached(low, high, speed, bare)} if it means 1.6 times "
        f"the speed (at most {speed:.3f}× the time), and {_reached(low, high, time, bare)} if it "
        f"means 60% less time ({time}×){alone}."
    )


def _reached(low: float, high: float, limit: float, bare: bool) -> str:
    if high <= limit:
        return "is reached here"
    if low > limit:
        return "is not reached here"
    return "is reached at some ranks" if bare else "can't be decided from these intervals"


def failures_heading(rows: list[Row]) -> str:
    """How many cells or runs did not end ok, by status."""
    kinds = Counter(row.get("status") or "not run" for row in rows)
    failed = [f"{number:,} {kind}" for kind, number in kinds.items() if kind != "ok"]
    total = sum(kinds.values()) - kinds["ok"]
    if not failed:
        flagged = sum(bool(row.get("flags")) for row in rows)
        doubts = f", {flagged:,} of them flagged" if flagged else ""
        return f"Every {one_of(rows)} ended ok{doubts}" if rows else "No cell was run"
    return f"{total:,} of {counted(rows)} did not end ok: {', '.join(failed)}"


def status_meaning(status: str) -> str:
    """What a status means; that of a planned cell without a row included."""
    return STATUSES.get(status, "planned, and without a result so far")


def differs(group: Group, first: Group) -> str:
    """What sets a group apart from the first, in a sentence."""
    parts = []
    for name in differing(group, first):
        here, there = (setting_value(one.shared(name)) for one in (group, first))
        parts.append(f"{name} ({here} instead of {there})")
    return f"Not comparable with the first group, from which it differs in {', '.join(parts)}."
