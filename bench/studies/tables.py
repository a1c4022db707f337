"""The tables of studies, whose columns `columns.toml` declares. Loads pandas."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

from bench.report.tables import DASH, Head, Table
from bench.report.text import clean, fixed, signed, span, with_span

_FORMS: Final[Mapping[str, Callable[[Any], str]]] = {
    "text": clean,
    "number": "{:,}".format,
    "fixed": fixed,
    "value": lambda interval: fixed(interval.value),
    "ends": span,
    "difference": lambda interval: signed(interval.value),
    "ends of difference": lambda interval: span(interval, signed),
    "difference with ends": lambda interval: with_span(interval, signed),
}
"""How columns show what their rows hold, by the names in `columns.toml`."""


@cache
def _declared() -> dict[str, dict[str, Any]]:
    return tomllib.loads(files("bench.studies").joinpath("columns.toml").read_text("utf-8"))


def table(
    name: str,
    rows: Sequence[Mapping[str, object]],
    caption: str,
    marks: Sequence[str] = (),
    *,
    folded: bool = False,
    **words: str,
) -> Table:
    """A table with those columns declared under a name that its rows have.

    Args:
        rows: at least one; its fields by name, None for a dash.
        words: what the names in braces in the declaration stand for.
    """
    columns = {
        key: column for key, column in _declared()[name].items() if column.get("of", key) in rows[0]
    }
    heads = [
        Head(key, column["text"].format(**words), column.get("about", ""), "numeric" in column)
        for key, column in columns.items()
    ]

    def text(row: Mapping[str, object], key: str) -> str:
        value = row[columns[key].get("of", key)]
        if value is None:
            return DASH
        form = columns[key].get("form")
        return str(value) if form is None else _FORMS[form](value) or DASH

    return Table(
        heads, [[text(row, key) for key in columns] for row in rows], caption, marks, folded
    )
