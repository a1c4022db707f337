"""The pages of a command that stand beside a grid's report: NAME.html, NAME.md, and figures in a
folder NAME.

The report has its own files in the same folder; neither touches the other's. Importing this loads
matplotlib.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from markupsafe import Markup

from bench.report.drawing import Drawing, as_file
from bench.report.files import write_all
from bench.report.markup import REPORT, html_environment, markdown_environment, style
from bench.report.tables import Table

_LISTED: Final = 500
"""Rows of a table that the Markdown lists."""


class Facts(Protocol):
    """Everything that pages say: what all of them do, and what their own templates ask for."""

    @property
    def title(self) -> str:
        """Their heading."""

    @property
    def findings(self) -> Sequence[str]:
        """The first lines."""

    @property
    def drawings(self) -> Sequence[Drawing]:
        """All figures, wherever they stand."""

    @property
    def command(self) -> str:
        """The line that makes them again."""


@dataclass(frozen=True, kw_only=True)
class TableFacts:
    """What pages say that are figures and tables, one after the other.

    Attributes:
        how: heading of what is said of how they were made, `said`, above the command.
    """

    title: str
    findings: Sequence[str]
    problems: Sequence[str]
    tables: Sequence[Table]
    drawings: Sequence[Drawing]
    how: str
    said: Sequence[str]
    command: str


def write_pages(folder: Path, name: str, facts: Facts) -> Path:
    """Write the pages and their figures, and drop figures that they had before; the HTML page.

    Args:
        name: theirs. Facts that are not `TableFacts` need templates of that name, in the package
            of that name in `bench`.

    Raises:
        InputError: if the folder can't be written.
        DiskFullError: if there is no space left.
    """
    pages = {f"{name}.md": markdown(name, facts), f"{name}.html": html(name, facts)}
    figures = {f"{drawing.stem}.svg": as_file(drawing) for drawing in facts.drawings}
    write_all(folder, pages, figures, name)
    return folder / f"{name}.html"


def html(name: str, facts: Facts) -> str:
    """The page, with everything that it needs inside."""
    package, template = _templates(name, facts)
    page = html_environment(package).get_template(f"{template}.html.jinja")
    return page.render(facts=facts, generator=f"bench.{name}", style=Markup(style()))  # noqa: S704


def markdown(name: str, facts: Facts) -> str:
    """The page as Markdown, its figures as files beside it."""
    package, template = _templates(name, facts)
    page = markdown_environment(package).get_template(f"{template}.md.jinja")
    return page.render(facts=facts, name=name, listed=_LISTED, where="the HTML page")


def _templates(name: str, facts: Facts) -> tuple[str, str]:
    """The package of the templates, and their name."""
    return (REPORT, "tables") if isinstance(facts, TableFacts) else (f"bench.studies.{name}", name)
