"""The pages of bench.fit: what fits, and memory and time by length and batch."""

import sys
from collections.abc import Sequence
from pathlib import Path

from bench.common.messages import command_line
from bench.fit.answers import Answer
from bench.report.lengths import lengths_section
from bench.report.pages import Facts, Section, write_pages
from bench.report.tables import table
from bench.report.text import without_paths
from bench.results.curves import Curves

_HOW = (
    "One training step and one evaluation of each setting ran on tensors without values. Their "
    "sizes, as formulae of the batch size and of the length, give the memory of any other."
)


def write_page(folder: Path, curves: Curves, answers: Sequence[Answer]) -> Path:
    """Write fit.md, fit.html and fit.json, and return the path of the HTML page."""
    [lengths] = lengths_section(curves)
    others = curves.curves[1:]
    answer = next((n for n, one in enumerate(others) if one.layers == "attn-only"), 0)
    rows = [
        {"setting": one.label, "length": one.length, "batch": one.batch, "peak": one.peak_mib,
         "ms": one.ms_per_1k_tokens, "times_full": one.times_full}
        for one in answers
    ]  # fmt: skip
    fits = Section("fits", "What fits", "The largest batch that fits", tables=[table("fit", rows)])
    facts = Facts(
        title=f"What fits of {curves.model}, and where an adapter saves memory",
        findings=lengths.lines[answer : answer + 1] if others else [],
        sections=[fits, lengths],
        notes=[_HOW, *curves.notes],
        command=without_paths(command_line("fit", *sys.argv[1:])),
    )
    data = curves.model_dump(mode="json") | {"answers": [one.to_json() for one in answers]}
    return write_pages(folder, "fit", facts, data=data)
