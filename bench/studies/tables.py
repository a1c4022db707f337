"""The tables of studies, whose columns `columns.toml` declares. Loads pandas."""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from bench.report.tables import DASH, Head, Table


@cache
def _declared() -> dict[str, dict[str, Any]]:
    return tomllib.loads(files("bench.studies").joinpath("columns.toml").read_text("utf-8"))


def table(
    name: str,
    rows: Sequence[Mapping[str, str | None]],
    caption: str,
    marks: Sequence[str] = (),
    *,
    folded: bool = False,
    **words: str,
) -> Table:
    """A table with those columns declared under a name that its rows have.

    Args:
        rows: at least one; the texts of its fields by column, None for a dash.
        words: what the names in braces in the declaration stand for.
    """
    heads = [
        Head(key, head["text"].format(**words), head.get("about", ""), head.get("numeric", False))
        for key, head in _declared()[name].items()
        if key in rows[0]
    ]
    lines = [[DASH if (text := row[h.key]) is None else text for h in heads] for row in rows]
    return Table(heads, lines, caption, marks, folded)
