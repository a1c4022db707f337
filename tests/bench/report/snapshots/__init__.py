"""What reports say, compared whole with the text files of this folder.

After an intended change write them again, and read what `git diff` shows:
`MINBERT_BENCH_SNAPSHOTS=write python -m pytest tests/bench/report`."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.report.pages import Section
from bench.report.recommendation import Advice
from bench.report.tables import Table


def check_snapshot(name: str, parts: Mapping[str, object]) -> None:
    """Compare the texts of some parts, by their titles, with those of a file."""
    text = "\n".join(f"==== {title}\n{as_text(part)}\n" for title, part in parts.items())
    path = Path(__file__).with_name(f"{name}.txt")
    if os.environ.get("MINBERT_BENCH_SNAPSHOTS") == "write":
        path.write_text(text, encoding="utf-8")
    assert text.splitlines() == path.read_text(encoding="utf-8").splitlines()


def as_text(part: object) -> str:
    """A text, a section, a table, a recommendation, or several of them, as lines."""
    if isinstance(part, Table):
        heads = [f"{head.text}{' >' if head.numeric else ''}" for head in part.heads]
        return as_text([part.caption, *(" | ".join(row) for row in [heads, *part.rows])])
    if isinstance(part, Section):
        drawings = [f"[{one.stem}] {one.alt}\n{one.caption}" for one in part.drawings]
        return as_text([f"## {part.heading}", *part.lines, *drawings, *part.tables])
    if isinstance(part, Advice):
        commands = [f"{title}: {command}" for command, title in part.commands.items()]
        return as_text([f"## {part.heading}", *part.sentences, part.table or "", *commands])
    if isinstance(part, Iterable) and not isinstance(part, str):
        return "\n".join(filter(None, map(as_text, part)))
    return str(part)
