"""The committed figures, and the tables of docs/comparing.md and docs/measuring.md with them."""

import json
from collections.abc import Mapping, Sequence
from math import log, sqrt
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.common.grouping import grouped
from bench.compare.alternating import look_rounds
from bench.stats.comparing import nominal_level
from bench.stats.intervals import quantile, wilson

_DOCS: Final = Path(__file__).parents[3] / "docs"
PAGES: Final = (_DOCS / "comparing.md", _DOCS / "measuring.md")
FIGURES: Final = _DOCS / "comparing.json"
REPEATS: Final = _DOCS / "repeats.csv"
GRID: Final = _DOCS / "repeats.toml"
PARTS: Final = ("aa", "power", "needed", "history", "repeats", "within", "work", "slow")
_HEAD: Final = (
    "| data, of equal sides unless stated | comparisons | regression reported | any change |",
    "|---|---|---|---|",
)
_NOTES: Final = """
The shares are of comparisons with at least one such result, in brackets with their 95% interval.
A regression is one beyond the default limits; any change is significant, of any size and direction.
The real repeats are [repeats.csv](repeats.csv), measured by `python -m bench.grid --grid
docs/repeats.toml --repeats 12` ([measurement version](results.md#measurement-versions) 6). With
`--run`, a setting ends at the look that decides it, as in the command. More work is a matrix
product more in each layer, a slower step one that waits for a tenth of its own time, both in the
processes of NEW alone (`python -m tests.experiments.comparing`)."""

Figures = Mapping[str, Sequence[Mapping[str, Any]]]


def read_figures(path: Path = FIGURES) -> Figures:
    """Figures by part."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def page(text: str, figures: Figures) -> str:
    """The text of a page with the tables of some figures between their marks."""
    tables = {"comparing": _alarms, "power": _power, "history": _history, "times": _times}
    for name, table in tables.items():
        mark = f"<!-- {name} -->\n"
        if mark in text:
            before, _, after = text.split(mark)
            text = mark.join([before, "\n".join([*table(figures), ""]), after])
    return text


def _alarms(figures: Figures) -> list[str]:
    return [*_HEAD, *_rows(figures), _NOTES]


def _power(figures: Figures) -> list[str]:
    power, needed = figures["power"], figures["needed"]
    columns = list(dict.fromkeys((one["slowdown"], one["rounds"]) for one in power))
    lines = [
        "| std of a process | "
        + " | ".join(f"{slowdown:.0%} slower, {rounds} rounds" for slowdown, rounds in columns)
        + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for scatter, of_scatter in grouped(power, lambda one: one["scatter"]).items():
        cells = [f"{one['found'] / one['draws']:.0%}" for one in of_scatter]
        lines.append(f"| {scatter:.0%} | {' | '.join(cells)} |")
    shares = [one["decided"] / one["draws"] for one in needed]
    medians = [
        f"{min(numbers):.0f} to {max(numbers):.0f} at {scatter:.0%}"
        for scatter, of_scatter in grouped(needed, lambda one: one["scatter"]).items()
        for numbers in [[one["needed"] for one in of_scatter]]
    ]
    low, high = (100 * end(_std(one) for one in figures["slow"]) for end in (min, max))
    middle = 100 * median(_std(one) for one in figures["slow"])
    return [
        *lines,
        "",
        f"Of {power[0]['draws']} simulated comparisons of one setting each, these found the slower "
        "step, by the default limit of 5% and with the looks of `--run`.",
        "The number of repeats that the page names as needed, read after 4 or 8 repeats, decided "
        f"{min(shares):.0%} to {max(shares):.0%} of simulated settings; in the median it was "
        f"{', '.join(medians)}.",
        f"In the {len(figures['slow'])} measured trials of the table above, the std of a process "
        f"was {middle:.1f}% in the median by their intervals ({low:.1f}% to {high:.1f}%), less "
        "than in most of this table; that is why they found the slower step so often.",
    ]


def _std(trial: Mapping[str, Any]) -> float:
    """The std of a process's log time, from the interval of a trial: one of three comparisons."""
    rounds = trial["rounds"]
    level = nominal_level(0.05 / 3, len(look_rounds(24)))
    half = log(trial["high"] / trial["low"]) / 2
    return float(half * sqrt(rounds / 2) / quantile(level, rounds - 1))


def _history(figures: Figures) -> list[str]:
    stds = ("1%", "2%")
    lines = [
        "| settings, versions | correlation of neighbours | noise alone | "
        + " | ".join(f"10% slower, noise of {std}" for std in stds)
        + " |",
        "|---" * (3 + len(stds)) + "|",
    ]
    for one in figures["history"]:
        shares = [one[name] / one["draws"] for name in ("alarms", *(f"found_{s}" for s in stds))]
        cells = [f"{one['correlation']:g}", *(f"{share:.0%}" for share in shares)]
        lines.append(f"| {one['settings']}, {one['versions']} | {' | '.join(cells)} |")
    return lines


def _times(figures: Figures) -> list[str]:
    lines = [
        "| setting of repeats.csv | within one process | one process | three successive ones |",
        "|---|---|---|---|",
    ]
    for one in figures["repeats"]:
        cells = [f"{one[name]} of {one[f'{name}_of']}" for name in ("within", "one", "three")]
        lines.append(f"| {one['setting']} | {' | '.join(cells)} |")
    within = figures["within"]
    memories = list(dict.fromkeys(one["memory"] for one in within))
    names = [f"noise of {memory} steps" if memory else "independent steps" for memory in memories]
    lines += ["", f"| simulated steps | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for steps, of_steps in grouped(within, lambda one: one["steps"]).items():
        cells = [f"{one['covered'] / one['draws']:.0%}" for one in of_steps]
        lines.append(f"| {steps} | {' | '.join(cells)} |")
    return lines


def _rows(figures: Figures) -> list[str]:
    rows = []
    for one in figures["aa"]:
        low, high = wilson(one["alarms"], one["draws"])
        share = f"{one['alarms'] / one['draws']:.1%} ({low:.1%} to {high:.1%})"
        changes = f"{one['changes'] / one['draws']:.1%}"
        rows.append(f"| {one['name']} | {one['draws']} | {share} | {changes} |")
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
