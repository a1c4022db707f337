"""What the figures say, in sentences: verdicts and groups in, plain text out."""

import re
import shlex
from collections import Counter
from typing import Final

from bench.groups import Group, Setting, differing
from bench.schema import STATUSES, Row, Value
from bench.stats import Interval
from bench.verdicts import (
    AIMS, MARGIN, PAPER_MEMORY, PAPER_TIMES, Aim, Verdict, column, compare, effects, frugal,
    pareto, rank_effect, verdict,
)  # fmt: skip

MEMORY: Final = {
    "peak_cuda_allocated_mib": "peak CUDA memory allocated, MiB",
    "peak_rss_mib": "peak RSS, MiB",
}
TIME: Final = {
    "ms_per_1k_tokens": "ms for 1,000 tokens",
    "step_ms_median": "ms for a step",
}
BASE: Final = "full fine-tuning in fp32"


def num(value: float | None) -> str:
    """A quantity to three or four digits."""
    if value is None:
        return "not measured"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3g}"


def span(interval: Interval, shape: str = ".3f") -> str:
    """Both ends of an interval, or an empty text."""
    ends = interval.ends()
    return "" if ends is None else f"{ends[0]:{shape}} to {ends[1]:{shape}}"


def count(number: int, thing: str) -> str:
    """A number with its noun: `1 cell`, `2 cells`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def without_paths(text: str) -> str:
    """A text whose absolute paths are cut to their last part."""
    text = re.sub(r"(?<![\w.:/])/(?:[^\s/'\":,;()<>]+/)+(?=[^\s/'\":,;()<>])", "…/", text)
    return re.sub(r"(?<!\w)[A-Za-z]:\\(?:[^\s\\'\":]+\\)+(?=[^\s\\])", "…/", text)


def y_label(group: Group) -> str:
    """The dev metric as a figure's axis names it."""
    return "dev Pearson correlation" if group.metric == "pearson" else f"dev {group.metric}"


def x_label(group: Group, cost: Aim) -> str:
    """A cost as a figure's axis names it."""
    names = MEMORY if cost == "memory" else TIME
    return names[column(group, cost)]


def title(group: Group) -> str:
    """What was compared, as a heading."""
    return f"Fine-tuning {group.shared('model')} on {group.shared('task')}"


def lead(group: Group) -> list[str]:
    """The first lines: what was compared, on what, how much of it ended, under which caps."""
    modes = list(dict.fromkeys(setting.mode for setting in group.settings))
    init = "" if group.shared("init") == "pretrained" else " with random weights"
    scored = f", scored by {group.metric} on dev" if group.has_quality else ""
    first = (
        f"Compared: {', '.join(modes)} on the model {group.shared('model')}{init} and the task "
        f"{group.shared('task')}{scored}. {group.ok:,} of {count(len(group.rows), 'planned cell')} "
        f"ended ok, {count(group.seeds, 'seed')} for each setting."
    )
    machine = group.shared("machine") or group.shared("device_name") or "not recorded"
    device = str(group.shared("device") or "not recorded")
    card = f" ({group.shared('device_name')})" if device.startswith("cuda") else ""
    second = (
        f"Machine: {machine}; device {device}{card}; torch {group.shared('torch_version')}, "
        f"{group.shared('threads')} threads."
    )
    return [first, caps(group), second]


def caps(group: Group) -> str:
    """How much data and how many steps each cell had."""
    train, dev, steps = (group.shared(name) for name in ("max_train", "max_dev", "max_steps"))
    share = f"{train:,} of the task's examples" if train else "all of the task's training examples"
    epochs = group.shared("epochs")
    said = f"Trained on {share}" + (f", {count(int(epochs), 'epoch')}" if epochs else "")
    if steps:
        said += f", and for {count(int(steps), 'step')} at most"
    if dev:
        said += f"; scored on {dev:,} of its dev examples"
    if steps or train:
        said += ". Capped, so scores are lower than full training gives"
    return said + "."


def sentence(group: Group, found: Verdict) -> str:
    """A verdict: the number, what it is against full fine-tuning, its interval, and its worth."""
    said = _value(group, found) + _against(group, found)
    return said + _company(found) + _doubts(found.winner)


def _value(group: Group, found: Verdict) -> str:
    value = found.value
    if found.aim == "score":
        ends = f" (95% interval {span(value)})" if value.ends() else ""
        return f"scores {value.value:.3f} {group.metric}{ends} on dev"
    unit = x_label(group, found.aim)
    verb = "peaks at" if found.aim == "memory" else "takes"
    name, _, _ = unit.partition(", MiB")
    said = f"{num(value.value)} MiB ({name})" if "MiB" in unit else f"{num(value.value)} {unit}"
    return f"{verb} {said}"


def _against(group: Group, found: Verdict) -> str:
    base = group.baseline
    if base is None:
        return f"; {BASE} was not measured beside it, so there is no ratio."
    if base is found.winner:
        return f", and that is {BASE} itself."
    versus, own = found.against, base.estimate(column(group, found.aim))
    if versus is None or own is None:
        return f"; {BASE} has no figure to compare with."
    if found.aim == "score":
        said = f", {versus.value:+.3f} against {BASE} ({own.value:.3f}"
        ends = f"; 95% interval of the difference {span(versus, '+.3f')})"
    else:
        said = f", {versus.value:.2f}× {BASE} ({num(own.value)}"
        ends = f"; 95% interval of the ratio {span(versus, '.2f')})"
    said += ends if versus.ends() else "; one run each, so no interval)"
    return said + ("." if found.proven is not False else ". The difference is not proven.")


def _company(found: Verdict) -> str:
    if not found.tied:
        return ""
    said = f" {count(found.tied, 'other setting')} can't be told from it"
    if found.aim == "score" and found.of > 2:
        return f"{said}; as the best of {found.of} it owes some of its lead to luck."
    return said + "."


def _doubts(setting: Setting) -> str:
    flags = sorted({flag for row in setting.ok for flag in str(row.get("flags") or "").split()})
    return f" Flagged {', '.join(flags)}." if flags else ""


NAMES: Final = {"memory": "Least memory", "time": "Least time", "score": "Best score"}


def card_title(aim: Aim, metric: str) -> str:
    """What an aim's winner wins."""
    if aim != "score":
        return NAMES[aim]
    return "Best accuracy" if metric == "accuracy" else "Best correlation"


def big(found: Verdict) -> str:
    """A verdict's number alone."""
    if found.aim == "score":
        return f"{found.value.value:.3f}"
    return f"{found.against.value:.2f}×" if found.against else num(found.value.value)


def no_verdict(group: Group, aim: Aim) -> str:
    """Why an aim has no winner."""
    if not group.ok:
        return "No cell ended ok."
    if aim == "score" and group.shared("init") != "pretrained":
        return "Not measured: the weights are random, so only memory and time mean something."
    if aim == "score" and group.has_quality:
        return "No setting learned anything: all are flagged not_learned."
    return "Not measured."


def adapter_winner(group: Group, aim: Aim, found: Verdict) -> str:
    """The best setting that trains more than the head, where the head alone wins."""
    if found.winner.mode != "head":
        return ""
    other = verdict(group, aim, among=lambda setting: setting.mode != "head")
    if other is None:
        return ""
    return f" Of those that train the encoder, {other.winner.label} {sentence(group, other)}"


def frugal_sentence(group: Group) -> str | None:
    """The setting of least memory that keeps the score; None where there is nothing to keep."""
    if not group.has_quality or group.baseline is None:
        return None
    found = frugal(group)
    if found is None or found.winner is group.baseline:
        return (
            f"No setting that needs less memory is shown to score within {MARGIN} of {BASE}: "
            "the intervals are too wide, or the losses real."
        )
    gap = compare(group, "score", found.winner, group.baseline)
    lost = f", {gap.value:+.3f} in score ({span(gap, '+.3f')})" if gap else ""
    ratio = f"{found.against.value:.2f}× its memory" if found.against else "its memory"
    return (
        f"{found.winner.label} is the least memory shown to score within {MARGIN} of {BASE}: "
        f"{ratio}{lost}."
    )


def front_heading(group: Group) -> str:
    """How many settings are worth a look."""
    either = {id(s) for cost in ("memory", "time") for s in pareto(group, cost)}  # type: ignore[arg-type]
    total = sum(s.estimate("dev_score") is not None for s in group.settings)
    return f"Trade-off: {len(either)} of {total} settings are not beaten in both cost and score"


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
        f"Over {count(found.pairs, 'pair')} of settings that differ in nothing but rank, rank "
        f"{found.high} scores {found.mean:+.3f} against rank {found.low} on average; the interval "
        f"of the difference is above zero in {found.better} and below in {found.worse}. With no "
        f"difference at all, one in twenty would be outside by chance. The paper's claim is that "
        "rank 1 captures most of the update."
    )
    return heading, said


def cost_heading(group: Group) -> str:
    """The adapters' span of cost against full fine-tuning."""
    base = group.baseline
    parts = []
    for aim, word in (("memory", "memory"), ("time", "time")):
        ratios = [
            gap.value
            for setting in group.settings
            if base and setting.adapted and (gap := compare(group, aim, setting, base))
        ]  # type: ignore[arg-type]
        if ratios:
            parts.append(f"{min(ratios):.2f} to {max(ratios):.2f}× the {word}")
    if not parts:
        return "Memory and step time"
    return f"Adapters take {' and '.join(parts)} of {BASE}"


def memory_note(group: Group) -> str:
    """What the headline of memory counts."""
    if group.memory_column == "peak_cuda_allocated_mib":
        return (
            "Memory is the peak that torch's tensors had allocated on the card; what its allocator "
            "reserves and the driver takes comes on top."
        )
    return (
        "Memory is the worker's peak resident set (RSS). It counts Python and the imported "
        "libraries too, and the checkpoint's mapped file; how much that is before training starts "
        "is not recorded, so ratios understate what a mode saves."
    )


def amp_sentences(group: Group) -> tuple[str, list[str]]:
    """AMP's effect told from the adapter's: a heading, and a sentence for each cost."""
    said = []
    heads = []
    for aim in AIMS[:2]:
        found = effects(group, aim)
        if not found:
            continue
        word = "memory" if aim == "memory" else "time"
        # The paper's claim is for LoRA on all linear layers.
        best = next((e for e in found if (e.mode, e.layers) == ("lora", "all-lin-only")), found[0])
        heads.append(f"{best.amp_alone:.2f}× the {word}")
        said.append(
            f"{word.capitalize()}, {best.mode} on {best.layers} with {best.amp}: AMP alone (full "
            f"fine-tuning with it) {best.amp_alone:.2f}×, the adapter alone (in fp32) "
            f"{best.adapter_alone:.2f}×, both together {best.both:.2f}× of {BASE}; "
            f"{best.product:.2f}× if neither touched the other. {_claim(aim, best.both)}"
        )
    if not heads:
        return "AMP and adapters", [
            "AMP's effect can't be told from the adapter's here: that takes full fine-tuning and "
            "an adapter, each with AMP and without."
        ]
    return f"AMP by itself takes full fine-tuning to {' and '.join(heads)}", said


def _claim(aim: Aim, both: float) -> str:
    if aim == "memory":
        verb = "is reached" if both <= PAPER_MEMORY else "is not reached"
        return f"The paper's claim, half the memory, {verb} here."
    speed, time = PAPER_TIMES
    if both <= time:
        return "The paper's claim, 60% faster, is reached here in both of its readings."
    if both <= speed:
        return (
            f"The paper's claim, 60% faster, is reached here as 1.6 times the speed "
            f"({speed:.3f}×) and not as 60% less time ({time}×)."
        )
    return f"The paper's claim, 60% faster (at most {speed:.3f}× the time), is not reached here."


def failures_heading(rows: list[Row]) -> str:
    """How many cells did not end ok, by status."""
    kinds = Counter(row.get("status") or "not run" for row in rows)
    failed = [f"{number:,} {kind}" for kind, number in kinds.items() if kind != "ok"]
    total = sum(kinds.values()) - kinds["ok"]
    if not failed:
        return "Every cell ended ok" if rows else "Nothing was run"
    return f"{total:,} of {count(len(rows), 'cell')} did not end ok: {', '.join(failed)}"


def status_meaning(status: str) -> str:
    """What a status means; that of a planned cell without a row included."""
    return STATUSES.get(status, "planned, and without a result so far")


def differs(group: Group, first: Group) -> str:
    """What sets a group apart from the first, in a sentence."""
    parts = [
        f"{name} ({_said(group.shared(name))} instead of {_said(first.shared(name))})"
        for name in differing(group, first)
    ]
    return f"Not comparable with the group above, from which it differs in {', '.join(parts)}."


def _said(value: Value) -> str:
    return "none" if value is None else str(value)


def commands(group: Group, sources: list[str]) -> list[str]:
    """Command lines that repeat a group, one of its cells, and this report."""
    values = {name: group.shared(name) for name in ("model", "init", "task", "epochs")}
    values |= {name: group.shared(name) for name in ("max_steps", "max_train", "max_dev")}
    options = [
        f"--{name.replace('_', '-')} {shlex.quote(_line(str(value)))}"
        for name, value in values.items()
        if value is not None
    ]
    seeds = {row.get("seed") for row in group.rows}
    options.append(f"--seeds {len(seeds)}")
    device = str(group.shared("device") or "auto")
    grid = shlex.quote(_line(str(group.shared("grid") or "full")))
    run = f"python -m bench.grid --grid {grid} {' '.join(options)} --device {shlex.quote(device)}"
    row = group.first
    axes = [f"{name}={row[name]}" for name in ("mode", "rank", "layers", "amp") if row.get(name)]
    select = shlex.quote(_line(" ".join([*axes, f"seed={row.get('seed') or 0}"])))
    runs = " ".join(shlex.quote(_line(name)) for name in sources) or "runs.csv"
    return [
        run, f"{run} --select {select} --rerun ok",
        f"python -m bench.report --runs {runs} --reports reports/",
    ]  # fmt: skip


def _line(text: str) -> str:
    return " ".join(text.split())


TERMS: Final = (
    ("mode", "What trains. full: everything. head: only the task head. lora, dora: an adapter on "
     "frozen linear layers, and the head."),
    ("layer set", "Where adapters sit: attn… on query, key and value; all-lin… on every linear "
     "layer of the encoder. With -only everything else in the encoder is frozen, without it the "
     "rest trains too."),
    ("rank, alpha", "An adapter adds (alpha / rank) · B A to a weight, A and B of that rank."),
    ("AMP", "Automatic mixed precision: weights stay in fp32, computing is in bf16 or fp16. "
     "fp32 means AMP off."),
    ("setting, cell", "A setting is a mode, rank, layer set and kind of AMP; a cell is a setting "
     "with one seed, run in a process of its own."),
    ("dev score", "Accuracy, or Pearson correlation, on the development set after the last epoch."),
    ("95% interval", "Of one run: Wilson's for an accuracy, Fisher's for a correlation, a "
     "bootstrap of the median for step times, all for what is drawn within that run. Of several "
     "seeds: Student's t over the seeds, which shows the spread of seeds and not that of the dev "
     "examples. Memory of one run has none."),
    ("proven", "A difference or ratio whose 95% interval leaves out no difference; paired over "
     "seeds where there are two or more, else from both intervals as if the runs were independent "
     "(wider than it need be, as all are scored on the same examples). Nothing is corrected for "
     "the number of comparisons."),
    ("Pareto front", "The settings that no other beats in both cost and score. It follows the "
     "point estimates, not their intervals."),
    ("× full fine-tuning", "The ratio to full fine-tuning in fp32 in the same group; 0.50× is "
     "half."),
    ("group", "Cells under equal conditions and with equal settings, but for what a mode "
     "brings with it (learning rates, alpha). Nothing is compared across groups."),
    ("– and not measured", "– stands where a column does not apply; not measured where it does "
     "and has no value."),
)  # fmt: skip
