"""Committed pages of docs/ with the tables that an experiment measured."""

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def _environment(folder):
    return Environment(  # noqa: S701 (Markdown of our own figures)
        loader=FileSystemLoader(folder), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def with_tables(text, module, **facts):
    """The text of a page in which each part between two equal marks `<!-- NAME -->` is what the
    template NAME.md.jinja beside a module makes of some facts."""
    environment = _environment(Path(module).parent)
    for template in environment.list_templates(["jinja"]):
        mark = f"<!-- {template.removesuffix('.md.jinja')} -->\n"
        if mark in text:
            before, _, after = text.split(mark)
            text = mark.join([before, environment.get_template(template).render(facts), after])
    return text


def made(template, /, **facts):
    """The text of a whole page, which the template of a name makes of some facts."""
    return _environment(Path(__file__).with_suffix("")).get_template(template).render(facts)


def rewrite(path, page, *facts):
    path.write_text(page(path.read_text("utf-8"), *facts), "utf-8")


def markdown_table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def read_json(path):
    return json.loads(path.read_text("utf-8"))


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
