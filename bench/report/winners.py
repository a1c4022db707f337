"""The verdicts of a group in sentences: the winner, its lead, and whether it is significant."""

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


def sentence(group: Group, best: Verdict) -> str:
    """A verdict: its number, the comparison with full fine-tuning, ties and flags."""
    return _value(group, best) + _against(group, best) + _ties(best) + _flags(best.winner)


def _value(group: Group, best: Verdict) -> str:
    value = best.value
    if best.objective == "score":
        ends = f" (95% interval {span(value)})" if value.ends() else ""
        return f"scores {fixed(value.value)} {group.metric}{ends} on dev"
    unit = x_label(group, best.objective)
    verb = "peaks at" if best.objective == "memory" else "takes"
    name, _, _ = unit.partition(", MiB")
    number = num(value.value)
    return f"{verb} {number} MiB ({name})" if "MiB" in unit else f"{verb} {number} {unit}"


def _against(group: Group, best: Verdict) -> str:
    base = group.baseline
    if base is None:
        return f"; {BASE} was not measured with it, so there is no ratio."
    if base is best.winner:
        return f", and that is {BASE} itself."
    versus, own = best.against, base.estimate(column(group, best.objective))
    if versus is None or own is None:
        return f"; {BASE} has no figure to compare with."
    if best.objective == "score":
        comparison = f", {signed(versus.value)} against {BASE} ({fixed(own.value)}"
        ends = f"; 95% interval of the difference {span(versus, signed)})"
    else:
        unit = "MiB" if best.objective == "memory" else "ms"
        comparison = f", {times(versus.value)}× {BASE} ({num(own.value)} {unit}"
        ends = f"; 95% interval of the ratio {span(versus, times)})"
    if versus.ends() is None:
        of_score, both = best.objective == "score", (best.winner, base)
        ends = f"; {no_interval(*(len(s.scored if of_score else s.ok) for s in both))})"
    doubt = " The difference is not significant." if best.proven is False else ""
    return f"{comparison}{ends}.{doubt}"


def _ties(best: Verdict) -> str:
    if not best.tied:
        return ""
    verb = "is" if best.tied == 1 else "are"
    ties = f" {count(best.tied, 'other setting')} {verb} not distinguishable from it"
    if best.objective == "score" and best.of > 2:
        return f"{ties}; as the best of {best.of} it owes some of its lead to luck."
    return ties + "."


def _flags(setting: Setting) -> str:
    flags = sorted({flag for row in setting.ok for flag in row.flag_names})
    return f" Flagged {', '.join(flags)}." if flags else ""


_MOST_NAMED: Final = 4
"""Settings that a sentence names; it counts the others."""
_TITLES: Final[dict[Objective, str]] = {"memory": "Least memory", "time": "Least time"}


def card_title(objective: Objective, metric: str) -> str:
    """The title of an objective's winner."""
    if objective != "score":
        return _TITLES[objective]
    return f"Best {metric_of(metric).short}"


def big(best: Verdict) -> str:
    """A verdict's number alone."""
    if best.objective == "score":
        return fixed(best.value.value)
    return f"{best.against.value:.2f}×" if best.against else num(best.value.value)


def winners_heading(group: Group) -> str:
    """A heading with the winner of each objective; of costs alone where nothing learned."""
    titles: dict[str, list[str]] = {}
    for objective in OBJECTIVES:
        best = verdict(group, objective)
        if best is not None:
            title = card_title(objective, group.metric).lower()
            titles.setdefault(best.winner.label, []).append(title)
    heading = "; ".join(f"{' and '.join(won)}: {label}" for label, won in titles.items())
    if heading and group.has_quality and not group.learned:
        return f"Costs alone: {heading}"
    return heading[:1].upper() + heading[1:] or "No winner"


def no_verdict(group: Group, objective: Objective) -> str:
    """The reason why an objective has no winner."""
    if not group.ok:
        return "No cell ended ok."
    if objective == "score" and group.shared("init") != "pretrained":
        return "Not measured: the weights are random, so only memory and time are meaningful."
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
            "not_learned. So scores are not compared, and least memory and least time show what is "
            "cheap here, not what is good."
        ]
    names = [setting.label for setting in flagged[:_MOST_NAMED]]
    more = f" and {len(flagged) - _MOST_NAMED} more" if len(flagged) > _MOST_NAMED else ""
    verb = "is" if len(flagged) == 1 else "are"
    return [
        f"{len(flagged)} of {count(len(group.settings), 'setting')} {verb} flagged not_learned and "
        f"can't win: {'; '.join(names)}{more}."
    ]


def adapter_winner(group: Group, objective: Objective, best: Verdict) -> str:
    """A sentence on the best setting that trains the encoder, if the head alone wins."""
    if best.winner.mode != "head":
        return ""
    other = verdict(group, objective, among=lambda setting: setting.mode != "head")
    if other is None:
        return ""
    return f" Of those that train the encoder, {other.winner.label} {sentence(group, other)}"


def frugal_sentence(group: Group) -> str | None:
    """A sentence on the setting of least memory that keeps the score; None without a score."""
    if not group.has_quality or not group.learned or group.baseline is None:
        return None
    near = f"within {group.scoring.size(group.scoring.margin)} of {BASE}"
    kept = verdict(group, "memory", among=lambda setting: keeps_score(group, setting))
    if kept and kept.winner is not group.baseline:
        return f"The least memory that is shown to score {near}: {_tradeoff(group, kept)}."
    none = f"No setting that needs less memory is shown to score {near}: {_precision(group)}."
    loose = verdict(group, "memory", among=lambda setting: not_worse(group, setting))
    if loose is None or loose.against is None or loose.against.value >= 1:
        return none
    weaker = "The least memory that does not score significantly worse, which is a weaker claim"
    return f"{none} {weaker}: {_tradeoff(group, loose)}."


def seeds_sentence(group: Group) -> list[str]:
    """A sentence on how many seeds would show a difference of the metric's margin, if known."""
    base = group.baseline
    best = verdict(group, "score", among=lambda setting: setting is not base)
    if base is None or best is None:
        return []
    spread = score_spread(best.winner, base)
    if spread is None:
        return []
    width = f"±{fixed(spread.half_width())}"
    known = f"The difference of scores between {best.winner.label} and {BASE} is known to {width}"
    if spread.of_seeds is None:
        return [
            f"{known}, over {spread.examples:,} dev examples and one seed. One seed can't "
            "show how much seeds matter: run --seeds 3 or more before believing a difference."
        ]
    known += f", over {spread.examples:,} dev examples and {count(spread.seeds, 'seed')}"
    margin = group.scoring.margin
    size, needed = group.scoring.size(margin), spread.seeds_for(margin)
    if needed is None:
        return [f"{known}. No number of seeds shows {size}: that takes more dev examples."]
    if needed <= spread.seeds:
        return [f"{known}: enough to show a difference of {size}."]
    more = count(needed - spread.seeds, "more seed")
    return [f"{known}. Showing one of {size}, four times out of five, takes about {more}."]


def _precision(group: Group) -> str:
    """How precisely differences of scores are known: perhaps too badly to show anything."""
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


def _tradeoff(group: Group, best: Verdict) -> str:
    gap = compare(group, "score", best.winner, group.baseline) if group.baseline else None
    text = best.winner.label
    if best.against:
        text += f", {best.against.value:.2f}× the memory"
    if gap:
        text += f" and {signed(gap.value)} in score (95% interval {span(gap, signed)})"
    return text
