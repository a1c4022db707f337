"""What a claims file and its verdicts say: lines of a terminal, JSON, and a section of a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.analysis.claims import LEVEL, Judged, Verdict, judge_file
from bench.common.errors import InputError
from bench.plan.claimsfile import SCORE
from bench.report.pages import Section
from bench.report.tables import table
from bench.report.text import clean, fixed, signed, with_span
from minbert.files import is_file


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
        if judged.more is None:
            needed = "no number of trainings is known to decide; more dev examples would"
        elif judged.more < 1000:
            needed = f"{judged.more:.1f} times the trainings would decide: {judged.claim.command}"
        else:
            needed = "over 1,000 times the trainings would be needed"
        return clean(f"if the estimate is true, {needed}")
    return "" if judged.verdict is judged.alone else f"by Holm; by its bounds {judged.alone}"


def lines(judged: Sequence[Judged]) -> list[str]:
    result = []
    for one in judged:
        claim, kind = one.claim, "" if one.claim.primary else " (not primary)"
        result.append(f"{claim.id}{kind}: {one.verdict}. {claim.hypothesis}")
        texts = f"claimed is {claim.direction} {claim.margin}", measured(one), reason(one)
        result.append(f"  {'; '.join(filter(None, texts))}")
    return [*result, levels(judged)]


def levels(judged: Sequence[Judged]) -> str:
    number = sum(one.claim.primary for one in judged)
    if not number:
        return "Each claim is judged alone, its interval at 95%."
    return (
        f"With a probability of 95% no verdict on the {number} primary claims is wrong, if they "
        f"are judged once (Holm, each direction at {LEVEL / 2:.1%}). Their intervals are at "
        f"{1 - LEVEL / number:.2%} (Bonferroni), those of other claims at 95% each."
    )


def claims_section(runs: Sequence[Path]) -> list[Section]:
    """The claims of a file beside results that names these; none without one."""
    if not runs or not is_file(path := runs[0].with_name("claims.toml")):
        return []
    try:
        every = judge_file(path)
    except InputError as error:
        return [Section("claims", "Claims", "The claims can't be judged", [clean(str(error))])]
    files = {run.resolve() for run in runs}
    own = [j for j in every if files & {(path.parent / name).resolve() for name in j.claim.runs}]
    rows = [
        {"hypothesis": j.claim.hypothesis, "claimed": f"{j.claim.direction} {j.claim.margin}",
         "verdict": str(j.verdict), "measured": measured(j), "reason": reason(j)}
        for j in own
    ]  # fmt: skip
    heading = "Are the claims about these results supported?"
    tables = [table("claims", rows)]
    return [Section("claims", "Claims", heading, [levels(every)], [], tables)] if own else []


def to_json(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    return [
        one.claim.model_dump() | vars(one) | {"claim": one.claim.id, "reason": reason(one)}
        | {"interval": one.interval and vars(one.interval)}
        for one in judged
    ]  # fmt: skip
