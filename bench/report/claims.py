"""What a claims file and its verdicts say: lines of a terminal, JSON, and a section of a report."""

from collections.abc import Sequence
from typing import Any

from bench.analysis.claims import LEVEL, Judged, Verdict
from bench.plan.claimsfile import SCORE
from bench.report.text import clean, fixed, signed, with_span


def measured(judged: Judged) -> str:
    """The estimate with its bounds, such as `+0.3 points (−0.2 to +0.8)`; empty without one."""
    if judged.interval is None:
        return ""
    if judged.claim.column != SCORE:
        return f"{with_span(judged.interval, lambda end: fixed(end, 2))} times"
    return f"{with_span(judged.interval, lambda end: signed(100 * end, 2))} points"


def reason(judged: Judged) -> str:
    """Why a claim is undecided and what would decide it, or where Holm and the bounds differ."""
    if judged.why:
        return clean(f"{judged.why}; to decide: {judged.claim.command}")
    if judged.verdict is Verdict.UNDECIDED:
        more = judged.more
        needed = f"{more:.1f} times the trainings" if more and more < 1000 else "no number of them"
        return clean(f"if the estimate is true, {needed} would decide: {judged.claim.command}")
    return "" if judged.verdict is judged.alone else f"by Holm; by its bounds {judged.alone}"


def lines(judged: Sequence[Judged]) -> list[str]:
    result = []
    for one in judged:
        claim, kind = one.claim, "" if one.claim.primary else " (not primary)"
        found = [f"{measured(one)}; " if one.interval else "", f"{claim.direction} {claim.margin}"]
        result.append(f"{claim.id}{kind}: {one.verdict}. {claim.hypothesis}")
        result += filter(None, [f"  {''.join(found)} is claimed", f"  {reason(one)}".rstrip()])
    return [*result, levels(judged)]


def levels(judged: Sequence[Judged]) -> str:
    number = sum(one.claim.primary for one in judged)
    return (
        f"With a probability of 95% no verdict on the {number} primary claims is wrong (Holm, each "
        f"direction at {LEVEL / 2:.0%}). Their intervals are at {1 - LEVEL / max(number, 1):.2%} "
        "(Bonferroni), those of other claims at 95% each."
    )


def to_json(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    return [
        {
            **one.claim.model_dump(include={"id", "hypothesis", "primary", "column", "direction",
                                            "margin", "command"}),
            "verdict": one.verdict, "by_bounds": one.alone, "level": one.level,
            "value": one.interval and one.interval.value, "low": one.interval and one.interval.low,
            "high": one.interval and one.interval.high, "reason": reason(one),
        }
        for one in judged
    ]  # fmt: skip
