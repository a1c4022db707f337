"""Templates for HTML and for Markdown, which escape every value that they print."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Final

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.report.drawing import Drawing
from bench.report.drawing import inline as to_inline

REPORT: Final = "bench.report"
_MARKDOWN: Final = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "$": "&#36;", "~": "&#126;"}
    | {mark: f"\\{mark}" for mark in "\\`*_[]#"}
)


def html_environment(package: str = REPORT) -> Environment:
    """The environment of HTML templates, from a package and from the report."""
    environment = Environment(
        loader=_loader(package), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals["inline"] = _inline
    return environment


def markdown_environment(package: str = REPORT) -> Environment:
    """The environment of Markdown templates, from a package and from the report."""
    environment = Environment(  # noqa: S701 (escaped for Markdown, by finalize)
        loader=_loader(package), undefined=StrictUndefined, finalize=escape_markdown,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["code"] = _code
    return environment


@cache
def style() -> str:
    """The style sheet of all pages."""
    return files(REPORT).joinpath("style.css").read_text("utf-8")


def escape_markdown(value: object) -> object:
    """A value on one line, escaped so that Markdown shows it unchanged; Markup stays."""
    if isinstance(value, Markup):
        return value
    return " ".join(str(value).split()).translate(_MARKDOWN)


def _loader(package: str) -> BaseLoader:
    return ChoiceLoader([PackageLoader(name) for name in dict.fromkeys([package, REPORT])])


def _inline(drawing: Drawing) -> Markup:
    return Markup(to_inline(drawing))  # noqa: S704


def _code(lines: Sequence[str]) -> Markup:
    """Lines as an indented code block, in which Markdown has no meaning."""
    whole = [part for line in lines for part in line.splitlines() or [""]]
    return Markup("\n".join(f"    {line}" for line in whole))  # noqa: S704
