"""What a claims file and its verdicts say: lines of a terminal, JSON, and a section of a report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.analysis.claims import LEVEL, Judged, judge_file
from bench.common.errors import InputError
from bench.plan.claimsfile import SCORE
from bench.report.pages import Section, phrase, sentences
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
    return clean(phrase("claims", "reason", judged))


def lines(judged: Sequence[Judged]) -> list[str]:
    return sentences("verdicts", judged=judged, measured=measured, reason=reason, levels=levels)


def levels(judged: Sequence[Judged]) -> str:
    return phrase("claims", "levels", sum(one.claim.primary for one in judged), LEVEL)


def claims_section(runs: Sequence[Path]) -> list[Section]:
    """The claims of a file beside results that names these; none without one."""
    if not runs or not is_file(path := runs[0].with_name("claims.toml")):
        return []
    try:
        every = judge_file(path)
    except InputError as error:
        return [Section("claims", "Claims", "The claims can't be judged", [clean(str(error))])]
    files = {run.resolve() for run in runs}
    own = [j for j in every if files & {file.resolve() for file in j.claim.files(path.parent)}]
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
