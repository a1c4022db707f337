"""A comparison as pages: peers.md, peers.html, and its figures in a folder beside them.

The report of a grid has its own files in the same folder; neither touches the other's. Importing
this loads matplotlib.
"""

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.errors import DiskFullError, InputError
from bench.files import write_atomically
from bench.peers import figures
from bench.peers.rows import Row
from bench.report.figures import Drawing, inline
from bench.report.render import escape_markdown
from bench.report.tables import Table

MARKDOWN: Final = "peers.md"
PAGE: Final = "peers.html"
FIGURES: Final = "peers"
"""Their folder. What a grid's report draws is elsewhere."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Facts:
    """Everything that the pages say."""

    title: str
    said: Sequence[str]
    findings: Sequence[str]
    problems: Sequence[str]
    tables: Sequence[Table]
    command: str


def drawings(
    rows: Sequence[Row], curves: Mapping[str, Mapping[str, Sequence[float]]], whole: bool
) -> list[Drawing]:
    """The figures of some rows and loss curves."""
    name, label = (
        ("seconds", "seconds from process start to dev score")
        if whole
        else ("ms_per_1k_tokens", "ms for 1,000 real tokens")
    )
    caption = "With 95% intervals over rounds."
    if not whole:
        caption += " Dashed: the limit, what the required matrix products alone take."
    found = []
    if any(row[name] is not None for row in rows):
        found.append(figures.times(rows, name, label, "times", caption))
    found += [
        figures.losses(setting, of, f"losses-{number}")
        for number, (setting, of) in enumerate(curves.items(), start=1)
    ]
    return found


def write_pages(folder: Path, facts: Facts, drawn: Sequence[Drawing]) -> Path:
    """Write the pages and their figures, and drop figures of an older comparison; the page.

    Raises:
        InputError: if the folder can't be written.
        DiskFullError: if there is no space left.
    """
    place = folder / FIGURES
    try:
        place.mkdir(parents=True, exist_ok=True)
        for path in place.glob("*.svg"):
            if path.stem not in {drawing.stem for drawing in drawn}:
                path.unlink()
        for drawing in drawn:
            text = f'<?xml version="1.0" encoding="utf-8"?>\n{drawing.svg}'
            write_atomically(place / f"{drawing.stem}.svg", text.encode())
        write_atomically(folder / MARKDOWN, markdown(facts, drawn).encode())
        write_atomically(folder / PAGE, html(facts, drawn).encode())
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(f"{folder}: no space left for the pages") from error
        raise InputError(
            f"--reports: {folder} can't be written ({error.strerror or error}); name another"
        ) from error
    return folder / PAGE


def html(facts: Facts, drawn: Sequence[Drawing]) -> str:
    """The page, with everything that it needs inside."""
    environment = _environment(autoescape=True)
    environment.globals["inline"] = lambda drawing: Markup(inline(drawing))  # noqa: S704
    style = files("bench.report").joinpath("style.css").read_text("utf-8")
    return environment.get_template("peers.html.jinja").render(
        facts=facts, drawn=drawn, style=Markup(style)  # noqa: S704
    )  # fmt: skip


def markdown(facts: Facts, drawn: Sequence[Drawing]) -> str:
    """The page as Markdown, its figures as files beside it."""
    environment = _environment(finalize=escape_markdown)
    return environment.get_template("peers.md.jinja").render(
        facts=facts, drawn=drawn, command=Markup(facts.command)  # noqa: S704
    )  # fmt: skip


def _environment(**options: Any) -> Environment:
    return Environment(  # noqa: S701 (pages escape; Markdown is escaped by finalize)
        loader=ChoiceLoader([PackageLoader("bench.peers"), PackageLoader("bench.report")]),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options,
    )  # fmt: skip
