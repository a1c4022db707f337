"""The winners of a group on memory, time and score, in cards and sentences."""

from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Final

from bench.analysis.groups import Group
from bench.analysis.setting import Setting
from bench.analysis.verdicts import (
    COSTS,
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
from bench.report.text import (
    BASE,
    count,
    no_interval,
    num,
    score,
    score_gap,
    span,
    times,
    x_label,
)

_MOST_NAMED: Final = 4
"""Settings that a sentence names; it counts the others."""


@dataclass(frozen=True)
class Card:
    """The winner of one objective: a title, the number alone, the setting, and a sentence."""

    title: str
    big: str
    unit: str
    winner: str
    said: str


def cards(group: Group) -> list[Card]:
    """The winners on memory, time and score."""
    weighed = group.learned or not group.has_quality
    return [_card(group, objective) for objective in (OBJECTIVES if weighed else COSTS)]


def _card(group: Group, objective: Objective) -> Card:
    title, best = _title(group, objective), verdict(group, objective)
    if best is None:
        return Card(title, "–", "", "", _no_verdict(group, objective))
    if objective == "score":
        big, unit = score(group, best.value.value), group.scoring.label
    elif best.against:
        big, unit = f"{best.against.value:.2f}×", f"of {BASE}"
    else:
        big, unit = num(best.value.value), x_label(group, objective)
    sentences = _sentence(group, best)
    if best.winner.mode == "head":
        other = verdict(group, objective, among=lambda setting: setting.mode != "head")
        if other is not None:
            label, rest = other.winner.label, _sentence(group, other)
            sentences += f" Of those that train the encoder, {label} {rest}"
    return Card(title, big, unit, best.winner.label, _capital(sentences))


def _title(group: Group, objective: Objective) -> str:
    if objective == "score":
        return f"Best {group.scoring.label}"
    return f"Least {objective}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _uncapital(text: str) -> str:
    return text[:1].lower() + text[1:]


def _sentence(group: Group, best: Verdict) -> str:
    """A verdict: its number, the comparison with full fine-tuning, ties and flags."""
    flags = sorted({flag for row in best.winner.ok for flag in row.flag_names})
    if best.winner.folds is not None and best.winner.learned:  # all folds together
        flags = [flag for flag in flags if flag != "not_learned"]
    flagged = f" Flagged {', '.join(flags)}." if flags else ""
    return _value(group, best) + _against(group, best) + _ties(best) + flagged


def _value(group: Group, best: Verdict) -> str:
    value = best.value
    if best.objective == "score":
        ends = f" (95% interval {span(value, partial(score, group))})" if value.ends() else ""
        return f"scores {score(group, value.value)} {group.scoring.label}{ends} on dev"
    unit = x_label(group, best.objective)
    if best.objective == "memory":
        return f"peaks at {num(value.value)} MiB ({unit.removesuffix(', MiB')})"
    return f"takes {num(value.value)} {unit}"


def _against(group: Group, best: Verdict) -> str:
    base = group.baseline
    if base is None:
        return f"; {BASE} was not measured with it, so there is no ratio."
    if base is best.winner:
        return f", and that is {BASE} itself."
    versus, own = best.against, base.estimate(column(group, best.objective))
    if versus is None or own is None:
        return f"; {BASE} has no figure to compare with."
    both, gap = (best.winner, base), partial(score_gap, group)
    if best.objective == "score":
        comparison = f"{gap(versus.value)} against {BASE} ({score(group, own.value)}"
        ends = f"95% interval of the difference {span(versus, gap)}"
        runs = [len(setting.scored) for setting in both]
    else:
        unit = "MiB" if best.objective == "memory" else "ms"
        comparison = f"{times(versus.value)}× {BASE} ({num(own.value)} {unit}"
        ends = f"95% interval of the ratio {span(versus, times)}"
        runs = [len(setting.ok) for setting in both]
    doubt = " The difference is not significant." if best.proven is False else ""
    return f", {comparison}; {ends if versus.ends() else no_interval(*runs)}).{doubt}"


def _ties(best: Verdict) -> str:
    if not best.tied:
        return ""
    verb = "is" if best.tied == 1 else "are"
    ties = f" {count(best.tied, 'other setting')} {verb} not distinguishable from it"
    if best.objective == "score" and best.of > 2:
        return f"{ties}; as the best of {best.of} it owes some of its lead to luck."
    return ties + "."


def winners_heading(group: Group) -> str:
    """A heading with the winner of each objective; of costs alone where nothing learned."""
    titles: dict[str, list[str]] = {}
    for objective in OBJECTIVES:
        if best := verdict(group, objective):
            titles.setdefault(best.winner.label, []).append(_uncapital(_title(group, objective)))
    heading = "; ".join(f"{' and '.join(won)}: {label}" for label, won in titles.items())
    if len([setting for setting in group.settings if setting.ok]) == 1:
        return f"One setting: {', '.join(titles)}"
    if heading and group.has_quality and not group.learned:
        return f"Costs alone: {heading}"
    return _capital(heading) or "No winner"


def _no_verdict(group: Group, objective: Objective) -> str:
    if not group.ok:
        return "No cell ended ok."
    if objective == "score" and group.shared("init") != "pretrained":
        return "Not measured: the weights are random, so only memory and time are meaningful."
    if objective == "score" and group.folds is not None:
        return f"No setting has a score of all {group.folds} folds yet."
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


def frugal_sentence(group: Group) -> list[str]:
    """A sentence on the setting of least memory that keeps the score, if scores are compared."""
    if not group.has_quality or not group.learned or group.baseline is None:
        return []
    if len(group.settings) == 1:
        return []
    near = f"within {group.scoring.size(group.margin, BASE)}"
    kept = verdict(group, "memory", among=lambda setting: keeps_score(group, setting))
    if kept and kept.winner is not group.baseline:
        return [f"The least memory that is shown to score {near}: {_tradeoff(group, kept)}."]
    none = f"No setting that needs less memory is shown to score {near}: {_precision(group)}."
    loose = verdict(group, "memory", among=lambda setting: not_worse(group, setting))
    if loose is None or loose.against is None or loose.against.value >= 1:
        return [none]
    weaker = "The least memory that does not score significantly worse, which is a weaker claim"
    return [f"{none} {weaker}: {_tradeoff(group, loose)}."]


def _tradeoff(group: Group, best: Verdict) -> str:
    gap = compare(group, "score", best.winner, group.baseline) if group.baseline else None
    text = best.winner.label
    if best.against:
        text += f", {best.against.value:.2f}× the memory"
    if gap:
        form, short = partial(score_gap, group), "score"
        if not group.scoring.higher_is_better:
            short = f"{group.scoring.label}, where less is better"
        text += f" and {form(gap.value)} in {short} (95% interval {span(gap, form)})"
    return text


def _precision(group: Group) -> str:
    """How precisely differences of scores are known: perhaps too badly to show anything."""
    others: list[Setting] = [s for s in group.judged if s is not group.baseline]
    gaps = [compare(group, "score", s, group.baseline) for s in others if group.baseline]
    ends = [pair for gap in gaps if gap and (pair := gap.ends())]
    if not ends:
        return "the differences have no intervals"
    half = median((high - low) / 2 for low, high in ends)
    more = "more seeds narrow it" if half > group.margin / 2 else "the losses are real"
    return f"a difference of scores is known to about ±{score(group, half)} here, and {more}"


def seeds_sentence(group: Group) -> list[str]:
    """A sentence on how many seeds would show a difference of the metric's margin, if known."""
    base = group.baseline
    best = verdict(group, "score", among=lambda setting: setting is not base)
    spread = score_spread(best.winner, base) if best and base else None
    if best is None or spread is None:
        return []
    known = (
        f"The difference of scores between {best.winner.label} and {BASE} is known to "
        f"±{score(group, spread.half_width())}, over {spread.examples:,} dev examples and "
    )
    if spread.of_seeds is None:
        return [
            f"{known}one seed. One seed can't show how much seeds matter: run --seeds 3 or more "
            "before believing a difference."
        ]
    known += count(spread.seeds, "seed")
    size, needed = group.scoring.size(group.margin), spread.seeds_for(group.margin)
    if needed is None:
        return [f"{known}. No number of seeds shows {size}: that takes more dev examples."]
    if needed <= spread.seeds:
        return [f"{known}: enough to show a difference of {size}."]
    more = count(needed - spread.seeds, "more seed")
    return [f"{known}. Showing one of {size}, four times out of five, takes about {more}."]
