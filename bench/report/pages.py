"""The pages of a command in the folder of a grid's report: NAME.html, NAME.md, figures in NAME/.

They don't touch the report's own files, nor the report theirs. Importing this loads matplotlib.
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
    """The content that all pages have; their own templates may ask for more."""

    @property
    def title(self) -> str:
        """The heading."""

    @property
    def findings(self) -> Sequence[str]:
        """The first lines."""

    @property
    def drawings(self) -> Sequence[Drawing]:
        """All figures, in any section."""

    @property
    def command(self) -> str:
        """The command line that makes the pages again."""


@dataclass(frozen=True, kw_only=True)
class TableFacts:
    """The content of pages of figures and tables, one after the other.

    Attributes:
        how: the heading above the sentences `said` and the command, on how the pages were made.
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
    """Write the pages and their figures, delete older figures, and return the HTML page's path.

    Args:
        name: of the pages. Facts other than `TableFacts` need templates of that name, in the
            package of that name in `bench.studies`.

    Raises:
        InputError: if the folder can't be written.
        DiskFullError: if there is no space left.
    """
    pages = {f"{name}.md": markdown(name, facts), f"{name}.html": html(name, facts)}
    figures = {f"{drawing.stem}.svg": as_file(drawing) for drawing in facts.drawings}
    write_all(folder, pages, figures, name)
    return folder / f"{name}.html"


def html(name: str, facts: Facts) -> str:
    """The self-contained HTML page."""
    package, template = _templates(name, facts)
    page = html_environment(package).get_template(f"{template}.html.jinja")
    return page.render(facts=facts, generator=f"bench.{name}", style=Markup(style()))  # noqa: S704


def markdown(name: str, facts: Facts) -> str:
    """The page as Markdown, with its figures as separate files."""
    package, template = _templates(name, facts)
    page = markdown_environment(package).get_template(f"{template}.md.jinja")
    return page.render(facts=facts, name=name, listed=_LISTED, where="the HTML page")


def _templates(name: str, facts: Facts) -> tuple[str, str]:
    """The package of the templates, and the name of the templates."""
    return (REPORT, "tables") if isinstance(facts, TableFacts) else (f"bench.studies.{name}", name)
