"""Pages in HTML and Markdown, from templates that escape every value, and their files.

The pages of another command stand in the folder of a grid's report: NAME.html, NAME.md, figures in
NAME/, and sometimes NAME.json. They don't touch the report's own files, nor the report theirs.
Importing this loads matplotlib.
"""

import json
import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment
from markupsafe import Markup

from bench.common.errors import DiskFullError, InputError
from bench.common.files import NO_SPACE, no_link, text_or_empty, write_atomically
from bench.common.messages import command_line
from bench.report import text
from bench.report.drawing import MARK, Drawing, inline
from bench.report.tables import Table
from bench.report.text import phrase as phrase
from bench.report.text import sentences as sentences

LISTED: Final = 500
"""Rows of a table that the Markdown lists; web hosts cut off a longer file soon after."""
_XML: Final = '<?xml version="1.0" encoding="utf-8"?>'
_MARKDOWN: Final = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "$": "&#36;", "~": "&#126;"}
    | {mark: f"\\{mark}" for mark in "\\`*_[]#"}
    | {"@": "@&#8203;"}  # a zero-width space, or the name after it would be notified on GitHub
)


@dataclass(frozen=True)
class Section:
    """A section of a page; `short` is its name in the table of contents."""

    anchor: str
    short: str
    heading: str
    lines: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The content of a command's pages. The last section has the heading `how`, sentences on how
    the pages were made, and the command line that makes them again."""

    title: str
    findings: Sequence[str]  # the first lines
    sections: Sequence[Section]
    notes: Sequence[str]
    command: str
    how: str = "How it was made"


def called(name: str) -> str:
    """The command line of this process, `bench.NAME`, without folders of this machine."""
    return text.without_paths(command_line(name, *sys.argv[1:]))


def sections_of(
    problems: Sequence[str], tables: Sequence[Table], drawings: Sequence[Drawing]
) -> list[Section]:
    """Sections of problems, figures and tables, where there are any."""
    every = [
        Section("problems", "Problems", "What is wrong with it", problems),
        Section("figures", "Figures", "In pictures", drawings=drawings),
        Section("tables", "Tables", "In numbers", tables=tables),
    ]
    return [section for section in every if section.lines or section.drawings or section.tables]


def write_pages(
    folder: Path, name: str, facts: Facts, *, data: Mapping[str, Any] | None = None, text: str = ""
) -> Path:
    """Write the pages and their figures, delete older figures, and return the HTML page's path.
    `data` is the content of NAME.json, if there is such a file; `text` the Markdown, if it is not
    that of the facts. Errors are those of `write_all`."""
    pages = {}
    if data is not None:
        lines = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
        pages[f"{name}.json"] = f"{lines}\n"
    pages[f"{name}.md"] = text or markdown(name, facts)
    pages[f"{name}.html"] = html(facts)
    drawings = [drawing for section in facts.sections for drawing in section.drawings]
    write_all(folder, pages, drawings, name)
    return folder / f"{name}.html"


def html(facts: Facts) -> str:
    page = html_environment().get_template("page.html.jinja")
    module = " ".join(facts.command.split()[2:3])  # of `python -m MODULE`
    style = Markup(read("style.css"))  # noqa: S704
    return page.render(facts=facts, generator=module, style=style)


def markdown(name: str, facts: Facts) -> str:
    """The page as Markdown, with its figures as separate files."""
    page = markdown_environment().get_template("page.md.jinja")
    return page.render(facts=facts, name=name, listed=LISTED, where="the HTML page")


def html_environment() -> Environment:
    environment = text.environment(autoescape=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.globals["policy"] = policy
    environment.globals["inline"] = lambda drawing: Markup(inline(drawing))  # noqa: S704
    return environment


def policy(*scripts: str) -> str:
    """The Content-Security-Policy of a page that runs these scripts alone and loads nothing; styles
    stand in attributes of its figures too, which have no hash."""
    digests = (b64encode(sha256(script.encode()).digest()).decode() for script in scripts)
    sources = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def markdown_environment(package: str = "bench.report") -> Environment:
    """The environment of Markdown templates, those of a package and those that pages share."""
    environment = text.environment(package, finalize=escape_markdown)
    environment.filters["code"] = _code
    return environment


@cache
def read(name: str) -> str:
    """The text of a file of this room."""
    return files("bench.report").joinpath(name).read_text("utf-8")


def escape_markdown(value: object) -> object:
    """A value on one line, escaped so that Markdown shows it unchanged; Markup stays."""
    if isinstance(value, Markup):
        return value
    return " ".join(str(value).split()).translate(_MARKDOWN)


def _code(lines: Sequence[str]) -> Markup:
    """Lines as an indented code block, in which Markdown has no meaning."""
    whole = [part for line in lines for part in line.splitlines() or [""]]
    return Markup("\n".join(f"    {line}" for line in whole))  # noqa: S704


def write_all(
    folder: Path, pages: Mapping[str, str], drawings: Sequence[Drawing], place: str = "figures"
) -> None:
    """Write each file atomically: figures, in their place inside the folder, then pages; then
    delete figures of an older report. InputError if the folder can't be written, DiskFullError if
    there is no space left."""
    figures = {f"{drawing.stem}.svg": f"{_XML}\n{drawing.svg}" for drawing in drawings}
    figures_folder = folder / place
    try:
        for each in (folder, figures_folder):
            no_link(each)
        figures_folder.mkdir(parents=True, exist_ok=True)
        for name, content in figures.items():
            write_atomically(figures_folder / name, content.encode())
        for name, content in pages.items():
            write_atomically(folder / name, content.encode())
        for path in sorted(figures_folder.glob("*.svg")):
            with suppress(FileNotFoundError):  # another process may be rendering, too
                is_old = path.name not in figures and path.is_file()
                if is_old and MARK in text_or_empty(path)[:2000]:
                    path.unlink()
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFullError(f"{folder}: no space left for the report") from error
        raise InputError(
            f"{folder}: the report can't be written there ({error.strerror or error}); "
            "name another folder with --reports"
        ) from error
