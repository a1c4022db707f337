"""The recommendation in words: a heading, sentences, alternatives by need, and the commands that
would settle what is open."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from types import MappingProxyType
from typing import Any, Final

from bench.analysis.costs import NEEDS, Need
from bench.analysis.groups import Group
from bench.analysis.recommendation import Candidates, Recommendation, Resolution
from bench.analysis.setting import Setting
from bench.analysis.verdicts import compare
from bench.report.commands import narrowed
from bench.report.tables import DASH, Head, Table
from bench.report.text import count, num, score, score_gap, times
from bench.results.facts import DataFacts

BASE: Final = "full fine-tuning in fp32"
_FEWEST_SEEDS: Final = 3
_MOST_SEEDS: Final = 30
"""More seeds than these are not suggested."""
_NAMES: Final = {"memory": "least memory", "time": "least time", "size": "smallest file",
                 "parameters": "fewest parameters", "score": "best score"}  # fmt: skip


@dataclass(frozen=True)
class Advice:
    """The recommendation of a group in words.

    Attributes:
        heading: the answer in a sentence.
        said: what it gains and loses, how sure that is, and what is missing.
        table: the alternatives by need.
        commands: command lines that supply what is missing.
    """

    recommended: Recommendation
    heading: str
    said: Sequence[str]
    table: Table | None
    commands: Sequence[str]


def advice(
    recommended: Recommendation, facts: Mapping[str, DataFacts] = MappingProxyType({})
) -> Advice:
    """A group's recommendation in words."""
    group = recommended.candidates.group
    said, selections = _missing(recommended)
    pick, best, table = recommended.pick, recommended.reference, None
    if pick is not None and best is not None:
        said = [*_sureness(recommended, pick, best), *said]
        table = _table(recommended, pick)
    lines = [narrowed(group, facts, **selection) for selection in selections]
    return Advice(
        recommended,
        _heading(recommended),
        said,
        table,
        list(dict.fromkeys(lines)),
    )


def form_cost(need: Need, value: float) -> str:
    """A cost with its unit."""
    if need == "time":
        return f"{value:.0f} s" if value < 100 else f"{value / 60:.1f} min"
    if need == "parameters":
        return f"{value / 1e6:.3g}M" if value >= 1e6 else f"{value / 1e3:.3g}k"
    return f"{num(value)} {'MiB' if need == 'memory' else 'MB'}"


def margin_text(known: Candidates) -> str:
    """The margin with its unit, such as `2 points of accuracy`."""
    return known.group.scoring.size(known.margin)


def _heading(recommended: Recommendation) -> str:
    known, pick = recommended.candidates, recommended.pick
    if pick is None:
        return "Nothing to recommend yet"
    label, brief = known.settings[pick].label, in_brief(known, pick, recommended.honest_score)
    if recommended.decided:
        return f"Use {label}: {brief}"
    return f"Not decided; the best by score so far is {label}: {brief}"


def in_brief(known: Candidates, i: int, measured: float | None = None) -> str:
    """What a setting costs against full fine-tuning in fp32, and its score.

    Args:
        measured: the score, if it is not the mean over seeds.
    """
    group, setting = known.group, known.settings[i]
    value = known.value(i, "score") if measured is None else measured
    scored = f"{group.scoring.label} {score(group, value)}"
    if setting is group.baseline:
        return f"it is {BASE}, {scored}"
    gaps = {cost: compare(group, cost, setting, group.baseline) for cost in ("memory", "time")
            if group.baseline}  # fmt: skip
    parts = [f"{times(gap.value)}× the {cost}" for cost, gap in gaps.items() if gap]
    if not parts:
        costs = {need: known.costs[need][i] for need in ("memory", "time")}
        parts = [form_cost(n, v) for n, v in costs.items() if v == v]  # type: ignore[arg-type]
        return ", ".join([*parts, scored])
    return f"{' and '.join(parts)} of {BASE}, {scored}"


def _sureness(recommended: Recommendation, pick: int, best: int) -> list[str]:
    """How the pick compares with the best and with full fine-tuning, and how sure that is."""
    known = recommended.candidates
    group, total = known.group, len(recommended.among)
    within = " that meet the limits" if recommended.limits else ""
    of = f"the {count(total, 'setting')}{within}"
    seeds = max(len(sample.scores) for sample in known.samples)
    over = count(seeds, "seed") if known.comparison.shows_seeds else "one seed"
    over += f" and {known.examples:,} dev examples" if known.examples else ""
    lines = []
    if pick in recommended.shown and total > 1:
        rank = f"It scores best of {of}, and the margin"
        if pick != best:
            loss = max(-float(known.comparison.lower[pick, best]), 0.0)
            rank = (
                f"It is at most {_size(known, loss)} worse than the best of {of}, "
                f"{known.settings[best].label} ({_score(known, best)}), and the margin"
            )
        lines.append(
            f"{rank} is {margin_text(known)}. Bounds hold for all pairs together with 95% "
            f"confidence, over {over}."
        )
    if difference := against_base(known, pick):
        lines.append(difference)
    if (honest := recommended.honest_score) is not None and pick in recommended.shown:
        lines.append(
            f"The {group.scoring.label} of {score(group, honest)} is measured on examples that "
            f"took no part in choosing; on all dev examples it is {_score(known, pick)}."
        )
    if total > 1:
        out = total - len(recommended.could_be)
        excluded = count(out, "setting") if out else "No setting"
        verb = "is" if out < 2 else "are"
        lines.append(
            f"{excluded} of {total} {verb} shown to be worse than another by more than the margin; "
            f"{'the other' if out else 'all'} {len(recommended.could_be)} could be the best."
        )
    return lines


def _size(known: Candidates, difference: float) -> str:
    """A difference of scores with two digits and its unit."""
    return known.group.scoring.size(float(f"{difference:.2g}"))


def _score(known: Candidates, i: int) -> str:
    return score(known.group, known.group.scoring.gain(float(known.scores[i])))


def against_base(known: Candidates, i: int) -> str:
    """A setting's difference of scores from full fine-tuning in fp32, with simultaneous bounds, in
    a sentence; empty for that itself, or where it has no score."""
    group, compared = known.group, known.comparison
    if group.baseline not in known.settings or group.baseline is known.settings[i]:
        return ""
    base, gain = known.settings.index(group.baseline), group.scoring.gain
    form = partial(score_gap, group)
    ends = sorted(gain(float(end[i, base])) for end in (compared.lower, compared.upper))
    value = gain(float(compared.difference[i, base]))
    if value != value:
        return f"It has no seed in common with {BASE}, so their scores are not compared."
    bounds = f" ({form(ends[0])} to {form(ends[1])})" if isfinite(ends[1] - ends[0]) else ""
    seeds = int(compared.seeds[i, base])
    is_less = seeds < max(len(known.samples[k].scores) for k in (i, base))
    over = f", over the {count(seeds, 'seed')} that both have" if is_less else ""
    return (
        f"Against {BASE} ({_score(known, base)}) the {group.scoring.label} differs by "
        f"{form(value)}{bounds}{over}."
    )


def _missing(recommended: Recommendation) -> tuple[list[str], list[dict[str, Any]]]:
    """What is missing for a decision or a comparison, and the narrowed commands that supply it."""
    known = recommended.candidates
    group = known.group
    said, selections = obstacle_of(recommended)
    if group.baseline is None and known.settings:
        said.append(f"What it saves against {BASE} is not known: that was not run, or not ok.")
        selections.append({"select": "mode=full amp=off"})
    if known.settings and not known.kept:
        missing = sum(not sample.values for sample in known.samples)
        said.append(
            f"The predictions of {count(missing, 'setting')} are not kept, so scores are compared "
            "by counts of examples, with wider bounds; cells that run again keep them."
        )
        selections.append({"rerun": True})
    if recommended.could_be and recommended.among and (finest := recommended.finest):
        size, needed = finest
        if size > 0.01 and group.scoring.in_points:
            said.append(
                f"On {known.examples:,} dev examples no number of seeds shows a difference of 1 "
                f"point between typical settings: the smallest is about {100 * size:.2g} points, "
                f"and 1 point takes about {_rounded(needed):,} dev examples."
            )
    return said, selections


def obstacle_of(recommended: Recommendation) -> tuple[list[str], list[dict[str, Any]]]:
    """Why nothing is recommended, and the narrowed commands that supply what is missing."""
    known, obstacles = recommended.candidates, recommended.obstacles
    group = known.group
    said: list[str] = []
    selections: list[dict[str, Any]] = []
    if "no score" in obstacles:
        return _no_score(group)
    if "one seed" in obstacles:
        said.append("One seed can't show how much of a score is luck.")
        selections.append({"seeds": _FEWEST_SEEDS})
    if "no head" in obstacles:
        said.append("The head alone was not run, so nothing shows that training the encoder helps.")
        selections.append({"select": "mode=head"})
    elif "not learned" in obstacles:
        said.append(_not_learned(known.settings[int(known.scores.argmax())]))
        selections.append({"epochs": 2 * int(group.shared("epochs") or 1)})
    if recommended.nearest is not None:
        said.append(_nearest(recommended, recommended.nearest))
    if "precision" in obstacles and recommended.resolution is not None:
        return _precision(known, recommended.resolution)
    return said, selections


def _no_score(group: Group) -> tuple[list[str], list[dict[str, Any]]]:
    if not group.ok:
        return ["No cell ended ok; the reasons are under “Failures”."], [{}]
    if group.shared("init") != "pretrained":
        text = "The weights are random, so there are costs but no scores."
        return [text], [{"init": "pretrained"}]
    all_folds = "" if group.folds is None else f" of all {group.folds} folds"
    return [f"No setting has a dev score{all_folds} yet."], [{}]


def _not_learned(best: Setting) -> str:
    if best.mode == "head":
        return (
            "The head alone scores best, so nothing shows that training the encoder helps; longer "
            "training may."
        )
    rival = "the head alone" if best.learned else "the majority class"
    return (
        f"The best setting, {best.label}, is not shown to score better than {rival}, so nothing "
        "shows what the others lose; longer training or more data may."
    )


def _nearest(recommended: Recommendation, i: int) -> str:
    known, group = recommended.candidates, recommended.candidates.group
    limits = " ".join(limit.text for limit in recommended.limits)
    values = []
    for limit in recommended.limits:
        value = known.value(i, limit.name)
        if value != value:
            values.append(f"{limit.name} not measured")
        elif limit.shortfall(value) > 0:
            form = form_cost(limit.name, value) if limit.name != "score" else score(group, value)
            values.append(f"{limit.name} {form}")
    near = f"The nearest is {known.settings[i].label}, with {' and '.join(values)}."
    return f"No setting meets {limits}. {near}"


def _precision(known: Candidates, found: Resolution) -> tuple[list[str], list[dict[str, Any]]]:
    """Which part of the uncertainty keeps the rule from a decision, and what would remove it."""
    name = known.settings[found.closest].label
    said = [
        f"No setting is shown to be no worse than the best by more than {margin_text(known)}. The "
        f"nearest to it is {name}, which is shown to be at most {_size(known, found.margin)} worse."
    ]
    if found.bottleneck == "margin":
        said.append(
            "The bottleneck is the margin: the measured difference is about as large, and more "
            "seeds or dev examples would not change that."
        )
        return said, []
    parts = {"seeds": "the number of seeds", "examples": "the number of dev examples"}
    ways = []
    if found.seeds is not None and found.seeds <= _MOST_SEEDS:
        ways.append(f"{found.seeds} seeds")
    if found.examples is not None:
        ways.append(f"{_rounded(found.examples):,} dev examples")
    if not ways and found.factor is not None:
        ways.append(f"about {max(2, round(found.factor))} times as many seeds and dev examples")
    said.append(
        f"The bottleneck is {parts[found.bottleneck]}: with {' or with '.join(ways)} it would be "
        "shown four times out of five, if its measured difference is the true one."
    )
    seeds = found.seeds is not None and found.seeds <= _MOST_SEEDS
    return said, [{"seeds": found.seeds}] if seeds else []


def _rounded(number: int) -> int:
    """A number with two digits."""
    return int(float(f"{number:.2g}"))


def _table(recommended: Recommendation, pick: int) -> Table:
    """The pick, the alternatives by need and full fine-tuning in fp32, a row for each setting."""
    known = recommended.candidates
    group, needs = known.group, dict[int, list[str]]()
    needs[pick] = ["recommended" if recommended.decided else "best so far"]
    for need, i in recommended.alternatives.items():
        if need != "parameters" or recommended.prefer == "parameters":
            needs.setdefault(i, []).append(_NAMES[need])
    if group.baseline in known.settings:
        needs.setdefault(known.settings.index(group.baseline), []).append(BASE)
    heads = [
        Head("need", ""), Head("setting", "setting"), Head("memory", "memory", "", True),
        Head("time", "time", "", True), Head("size", "file", "", True),
        Head("parameters", "trainable", "", True),
        Head("score", f"dev {group.scoring.label}", "", True),
        Head("loss", "worse by at most", "than the best, by a simultaneous 95% bound", True),
    ]  # fmt: skip
    rows = [
        [", ".join(names), known.settings[i].label, *(_cost(known, need, i) for need in NEEDS),
         _score(known, i), _at_most(recommended, i)]
        for i, names in needs.items()
    ]  # fmt: skip
    caption = "By need, of the settings shown to be no worse than the best by more than the margin."
    if not recommended.shown:
        caption = "By need, of the settings that could be the best."
    marks = ["baseline" if known.settings[i] is group.baseline else "" for i in needs]
    return Table(heads, rows, caption, marks)


def _cost(known: Candidates, need: Need, i: int) -> str:
    value = float(known.costs[need][i])
    return form_cost(need, value) if value == value else DASH


def _at_most(recommended: Recommendation, i: int) -> str:
    """The simultaneous bound of a setting against the best within the limits."""
    known, best = recommended.candidates, recommended.reference
    if best is None or i == best:
        return DASH
    loss = max(-float(known.comparison.lower[i, best]), 0.0)
    return score(known.group, loss) if loss < float("inf") else DASH


def as_json(said: Advice) -> dict[str, Any]:
    """The recommendation as data."""
    recommended = said.recommended
    known = recommended.candidates
    return {
        "decided": recommended.decided,
        "obstacles": list(recommended.obstacles),
        "recommended": _setting(known, recommended.pick) if recommended.decided else None,
        "until_decided": None if recommended.decided else _setting(known, recommended.pick),
        "score_on_examples_that_took_no_part_in_choosing": recommended.honest_score,
        "best": _setting(known, recommended.reference),
        "baseline": _baseline(known),
        "alternatives": {n: _setting(known, i) for n, i in recommended.alternatives.items()},
        "could_be": [known.settings[i].label for i in recommended.could_be],
        "settings": len(recommended.among),
        "prefer": recommended.prefer,
        "where": " ".join(limit.text for limit in recommended.limits),
        "margin": known.margin,
        "metric": known.group.metric,
        "nearest": _setting(known, recommended.nearest),
        "heading": said.heading,
        "sentences": list(said.said),
        "commands": list(said.commands),
    }


def _setting(known: Candidates, i: int | None) -> dict[str, Any] | None:
    if i is None:
        return None
    setting = known.settings[i]
    costs = {n: None if (v := float(known.costs[n][i])) != v else v for n in NEEDS}
    return {
        "label": setting.label,
        **{name: getattr(setting, name) for name in ("mode", "rank", "layers", "amp")},
        "frozen_dtype": setting.frozen,
        "cells": sorted({str(row.cell_id) for row in setting.ok}),
        "score": known.value(i, "score"),
        "seeds": len(known.samples[i].scores),
        "memory_mib": costs["memory"], "time_s": costs["time"], "size_mb": costs["size"],
        "parameters": costs["parameters"],
    }  # fmt: skip


def _baseline(known: Candidates) -> dict[str, Any] | None:
    base: Setting | None = known.group.baseline
    return _setting(known, known.settings.index(base)) if base in known.settings else None


def lines(said: Advice) -> list[str]:
    """The recommendation as lines for a terminal."""
    every = [f"{said.heading}.", *said.said]
    if said.table is not None:
        every += [
            f"{row[0]}: {row[1]} ({row[2]}, {row[3]}, file {row[4]}, {row[6]})"
            for row in said.table.rows[1:]
        ]
    return [*every, *(f"  {command}" for command in said.commands)]


def subject(group: Group) -> str:
    """What a group is of: model and task."""
    return f"{group.shared('model')} on {group.shared('task')}"
