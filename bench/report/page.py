"""A page beside a grid's report: NAME.md, NAME.html, and its figures in a folder NAME.

The report has its own files in the same folder; neither touches the other's. Importing this loads
matplotlib.
"""

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.errors import DiskFullError, InputError
from bench.files import write_atomically
from bench.report.figures import Drawing, inline
from bench.report.render import escape_markdown
from bench.report.tables import Table

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that a page says.

    Attributes:
        name: of the command that makes it, of the page's files and of the folder of its figures.
        how: heading of what is said of how it was made, `said`, above the command.
    """

    name: str
    title: str
    findings: Sequence[str]
    problems: Sequence[str]
    tables: Sequence[Table]
    how: str
    said: Sequence[str]
    command: str


def write_pages(folder: Path, facts: Facts, drawn: Sequence[Drawing]) -> Path:
    """Write the pages and their figures, and drop figures of an older page; the HTML page.

    Raises:
        InputError: if the folder can't be written.
        DiskFullError: if there is no space left.
    """
    place, page = folder / facts.name, folder / f"{facts.name}.html"
    try:
        place.mkdir(parents=True, exist_ok=True)
        for path in place.glob("*.svg"):
            if path.stem not in {drawing.stem for drawing in drawn}:
                path.unlink()
        for drawing in drawn:
            text = f'<?xml version="1.0" encoding="utf-8"?>\n{drawing.svg}'
            write_atomically(place / f"{drawing.stem}.svg", text.encode())
        write_atomically(folder / f"{facts.name}.md", markdown(facts, drawn).encode())
        write_atomically(page, html(facts, drawn).encode())
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(f"{folder}: no space left for the pages") from error
        raise InputError(
            f"--reports: {folder} can't be written ({error.strerror or error}); name another"
        ) from error
    return page


def html(facts: Facts, drawn: Sequence[Drawing]) -> str:
    """The page, with everything that it needs inside."""
    environment = _environment(autoescape=True)
    environment.globals["inline"] = lambda drawing: Markup(inline(drawing))  # noqa: S704
    style = files("bench.report").joinpath("style.css").read_text("utf-8")
    return environment.get_template("page.html.jinja").render(
        facts=facts, drawn=drawn, style=Markup(style)  # noqa: S704
    )  # fmt: skip


def markdown(facts: Facts, drawn: Sequence[Drawing]) -> str:
    """The page as Markdown, its figures as files beside it."""
    environment = _environment(finalize=escape_markdown)
    return environment.get_template("page.md.jinja").render(
        facts=facts, drawn=drawn, command=Markup(facts.command)  # noqa: S704
    )  # fmt: skip


def _environment(**options: Any) -> Environment:
    return Environment(  # noqa: S701 (pages escape; Markdown is escaped by finalize)
        loader=PackageLoader("bench.report"), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, **options,
    )  # fmt: skip
