"""Committed pages of docs/ with the tables that an experiment measured."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def with_tables(text: str, folder: Path, **facts: object) -> str:
    """The text of a page in which each part between two equal marks `<!-- NAME -->` is what the
    template NAME.md.jinja of a folder makes of some facts."""
    environment = Environment(  # noqa: S701 (Markdown of our own figures)
        loader=FileSystemLoader(folder), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    for template in environment.list_templates(["jinja"]):
        mark = f"<!-- {template.removesuffix('.md.jinja')} -->\n"
        if mark in text:
            before, _, after = text.split(mark)
            text = mark.join([before, environment.get_template(template).render(facts), after])
    return text
