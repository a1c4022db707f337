"""The verdicts of a group in sentences: who wins, by how much, and whether that is proven."""

from statistics import median
from typing import Final

from bench.analysis.groups import Group
from bench.analysis.metrics import metric_of
from bench.analysis.setting import Setting
from bench.analysis.verdicts import (
    OBJECTIVES,
    Objective,
    Verdict,
    column,
    compare,
    keeps_score,
    not_worse,
    score_spread,
    verdict,
)
from bench.report.text import BASE, count, fixed, no_interval, num, signed, span, times, x_label


def sentence(group: Group, found: Verdict) -> str:
    """A verdict: the number, what it is against full fine-tuning, its interval, and its worth."""
    said = _value(group, found) + _against(group, found)
    return said + _company(found) + _doubts(found.winner)


def _value(group: Group, found: Verdict) -> str:
    value = found.value
    if found.objective == "score":
        ends = f" (95% interval {span(value)})" if value.ends() else ""
        return f"scores {fixed(value.value)} {group.metric}{ends} on dev"
    unit = x_label(group, found.objective)
    verb = "peaks at" if found.objective == "memory" else "takes"
    name, _, _ = unit.partition(", MiB")
    said = f"{num(value.value)} MiB ({name})" if "MiB" in unit else f"{num(value.value)} {unit}"
    return f"{verb} {said}"


def _against(group: Group, found: Verdict) -> str:
    base = group.baseline
    if base is None:
        return f"; {BASE} was not measured beside it, so there is no ratio."
    if base is found.winner:
        return f", and that is {BASE} itself."
    versus, own = found.against, base.estimate(column(group, found.objective))
    if versus is None or own is None:
        return f"; {BASE} has no figure to compare with."
    if found.objective == "score":
        said = f", {signed(versus.value)} against {BASE} ({fixed(own.value)}"
        ends = f"; 95% interval of the difference {span(versus, signed)})"
    else:
        unit = "MiB" if found.objective == "memory" else "ms"
        said = f", {times(versus.value)}× {BASE} ({num(own.value)} {unit}"
        ends = f"; 95% interval of the ratio {span(versus, times)})"
    if versus.ends() is None:
        of_score, both = found.objective == "score", (found.winner, base)
        ends = f"; {no_interval(*(len(s.scored if of_score else s.ok) for s in both))})"
    said += ends
    return said + ("." if found.proven is not False else ". The difference is not proven.")


def _company(found: Verdict) -> str:
    if not found.tied:
        return ""
    said = f" {count(found.tied, 'other setting')} can't be told from it"
    if found.objective == "score" and found.of > 2:
        return f"{said}; as the best of {found.of} it owes some of its lead to luck."
    return said + "."


def _doubts(setting: Setting) -> str:
    flags = sorted({flag for row in setting.ok for flag in str(row.get("flags") or "").split()})
    return f" Flagged {', '.join(flags)}." if flags else ""


_NAMED: Final = 4
"""Settings that a sentence names; of more it gives the number."""

_NAMES: Final[dict[Objective, str]] = {"memory": "Least memory", "time": "Least time"}


def card_title(objective: Objective, metric: str) -> str:
    """What an objective's winner wins."""
    if objective != "score":
        return _NAMES[objective]
    return f"Best {metric_of(metric).short}"


def big(found: Verdict) -> str:
    """A verdict's number alone."""
    if found.objective == "score":
        return fixed(found.value.value)
    return f"{found.against.value:.2f}×" if found.against else num(found.value.value)


def winners_heading(group: Group) -> str:
    """Who wins what, in a heading: costs alone where scores can't be weighed against them."""
    found: dict[str, list[str]] = {}
    for objective in OBJECTIVES:
        best = verdict(group, objective)
        if best is not None:
            found.setdefault(best.winner.label, []).append(
                card_title(objective, group.metric).lower()
            )
    said = "; ".join(f"{' and '.join(won)}: {label}" for label, won in found.items())
    if said and group.has_quality and not group.learned:
        return f"Costs alone: {said}"
    return said[:1].upper() + said[1:] or "Nothing wins"


def no_verdict(group: Group, objective: Objective) -> str:
    """Why an objective has no winner."""
    if not group.ok:
        return "No cell ended ok."
    if objective == "score" and group.shared("init") != "pretrained":
        return "Not measured: the weights are random, so only memory and time mean something."
    return "Not measured."


def left_out(group: Group) -> list[str]:
    """A sentence on the settings that can't win because they learned nothing, if there are any."""
    flagged = group.unlearned
    if not flagged:
        return []
    if not group.learned:
        every = len(flagged) == sum(bool(setting.ok) for setting in group.settings)
        who = "No setting is" if every else "No setting but full fine-tuning is"
        return [
            f"{who} shown to have learned anything: {'all' if every else 'the others'} are flagged "
            "not_learned. So scores are not compared, and least memory and least time say what is "
            "cheap here, not what is good."
        ]
    names = [setting.label for setting in flagged[:_NAMED]]
    more = f" and {len(flagged) - _NAMED} more" if len(flagged) > _NAMED else ""
    verb = "is" if len(flagged) == 1 else "are"
    return [
        f"{len(flagged)} of {count(len(group.settings), 'setting')} {verb} flagged not_learned and "
        f"can't win: {'; '.join(names)}{more}."
    ]


def adapter_winner(group: Group, objective: Objective, found: Verdict) -> str:
    """The best setting that trains more than the head, where the head alone wins."""
    if found.winner.mode != "head":
        return ""
    other = verdict(group, objective, among=lambda setting: setting.mode != "head")
    if other is None:
        return ""
    return f" Of those that train the encoder, {other.winner.label} {sentence(group, other)}"


def frugal_sentence(group: Group) -> str | None:
    """The setting of least memory that keeps the score; None where there is nothing to keep."""
    if not group.has_quality or not group.learned or group.baseline is None:
        return None
    near = f"within {group.scoring.size(group.scoring.margin)} of {BASE}"
    kept = verdict(group, "memory", among=lambda setting: keeps_score(group, setting))
    if kept and kept.winner is not group.baseline:
        said = f"The least memory that is shown to score {near}"
        return f"{said}: {_bargain(group, kept)}."
    said = f"No setting that needs less memory is shown to score {near}"
    said += f": {_how_wide(group)}."
    loose = verdict(group, "memory", among=lambda setting: not_worse(group, setting))
    if loose is None or loose.against is None or loose.against.value >= 1:
        return said
    weaker = "The least memory that is not proven to score worse, which is a weaker claim"
    return f"{said} {weaker}: {_bargain(group, loose)}."


def seeds_sentence(group: Group) -> list[str]:
    """How many seeds would show a difference of the metric's margin, if that is known."""
    base = group.baseline
    best = verdict(group, "score", among=lambda setting: setting is not base)
    if base is None or best is None:
        return []
    found = score_spread(best.winner, base)
    if found is None:
        return []
    known = f"±{fixed(found.half_width())}"
    said = f"The difference of scores between {best.winner.label} and {BASE} is known to {known}"
    if found.of_seeds is None:
        return [
            f"{said}, over {found.examples:,} dev examples and one seed. How much seeds matter one "
            "seed can't show: run --seeds 3 or more before believing a difference."
        ]
    said += f", over {found.examples:,} dev examples and {count(found.seeds, 'seed')}"
    margin = group.scoring.margin
    size, needed = group.scoring.size(margin), found.seeds_for(margin)
    if needed is None:
        return [f"{said}. No number of seeds shows {size}: that takes more dev examples."]
    if needed <= found.seeds:
        return [f"{said}: enough to show a difference of {size}."]
    more = count(needed - found.seeds, "more seed")
    return [f"{said}. To show one of {size}, four times out of five, takes about {more}."]


def _how_wide(group: Group) -> str:
    """How well differences of scores are known, which may be too badly to show anything."""
    base = group.baseline
    gaps = [
        ends
        for setting in group.judged
        if base and setting is not base and (gap := compare(group, "score", setting, base))
        and (ends := gap.ends())
    ]  # fmt: skip
    if not gaps:
        return "the differences have no intervals"
    half = median((high - low) / 2 for low, high in gaps)
    more = "more seeds narrow it" if half > group.scoring.margin / 2 else "the losses are real"
    return f"a difference of scores is known to about ±{fixed(half)} here, and {more}"


def _bargain(group: Group, found: Verdict) -> str:
    gap = compare(group, "score", found.winner, group.baseline) if group.baseline else None
    said = found.winner.label
    if found.against:
        said += f", {found.against.value:.2f}× the memory"
    if gap:
        said += f" and {signed(gap.value)} in score (95% interval {span(gap, signed)})"
    return said
