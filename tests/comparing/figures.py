"""The committed figures, and the table of docs/comparing.md that shows them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.stats.intervals import wilson

_DOCS: Final = Path(__file__).parents[2] / "docs"
PAGE: Final = _DOCS / "comparing.md"
FIGURES: Final = _DOCS / "comparing.json"
REPEATS: Final = _DOCS / "repeats.csv"
GRID: Final = _DOCS / "repeats.toml"
PARTS: Final = ("aa", "work", "slow")
MARK: Final = "<!-- comparing -->\n"
_HEAD: Final = (
    "| data | comparisons | regression reported | any change reported |",
    "|---|---|---|---|",
)
_NOTES: Final = """
The shares are of comparisons with at least one such result, in brackets with their 95% interval.
A regression is one beyond the default limits; any change is significant, of any size and direction.
The real repeats are [repeats.csv](repeats.csv), measured by `python -m bench.grid --grid
docs/repeats.toml --repeats 12` ([measurement version](results.md#measurement-versions) 6). More
work is a matrix product more in each layer, a slower step one that waits for a tenth of its own
time, both in the processes of NEW alone (`python -m tests.comparing`)."""

Figures = Mapping[str, Sequence[Mapping[str, Any]]]


def read_figures(path: Path = FIGURES) -> Figures:
    """Figures by part."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def page(text: str, figures: Figures) -> str:
    """The text of docs/comparing.md with the table of some figures."""
    before, _, after = text.split(MARK)
    return MARK.join([before, "\n".join([*_HEAD, *_rows(figures), _NOTES, ""]), after])


def _rows(figures: Figures) -> list[str]:
    rows = []
    for one in figures["aa"]:
        low, high = wilson(one["alarms"], one["draws"])
        share = f"{one['alarms'] / one['draws']:.1%} ({low:.1%} to {high:.1%})"
        changes = f"{one['changes'] / one['draws']:.1%}"
        rows.append(f"| no change: {one['name']} | {one['draws']} | {share} | {changes} |")
    work, slow = figures["work"], figures["slow"]
    least, most = (f"{end(one['gflop'] for one in work) - 1:.1%}" for end in (min, max))
    rows.append(
        f"| {least} to {most} more work in a step, one run of each side, by counts "
        f"| {len(work)} | {sum(bool(one['found']) for one in work)} of {len(work)} | |"
    )
    rounds, ratio = (median(one[name] for one in slow) for name in ("rounds", "change"))
    rows.append(
        f"| a step made 10% slower, measured in alternation for {rounds:g} rounds (median; ratio "
        f"{ratio:.2f}), by time | {len(slow)} "
        f"| {sum(one['found'] for one in slow)} of {len(slow)} | |"
    )
    return rows
