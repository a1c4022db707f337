"""The model card of an exported folder, README.md. Importing this loads pandas and matplotlib."""

import json
import re
from pathlib import Path
from typing import Final

from bench.analysis.groups import groups
from bench.common.messages import command_line, finite
from bench.export.formats import Format
from bench.export.formats.contents import model_type_of, why_not_scripted
from bench.export.trained import Trained
from bench.plan.cell import Cell
from bench.plan.columns import BY_NAME, format_value, group_names
from bench.plan.metrics import metric_of
from bench.report.commands import commands
from bench.report.pages import LISTED, markdown_environment
from bench.report.tables import Table, table
from bench.report.text import by_metric, plain, without_paths
from bench.results.exports import ADAPTER, BATCH, INT8, MERGED, ONNX, PIPED, Figures
from bench.results.facts import DataFacts

CARD: Final = "README.md"
_FORMS: Final = {
    ADAPTER: "adapter, on its base", MERGED: "whole model", ONNX: "ONNX", INT8: "ONNX, int8",
}  # fmt: skip


def card(
    trained: Trained,
    folder: Path,
    figures: Figures,
    facts: DataFacts | None,
    *,
    format: Format,  # noqa: A002
    compared: int | None,
) -> str:
    """The text of a model card, with facts on the data that the row was trained on, where known,
    and the number of settings `compared`, among which this one was chosen; None: it was named."""
    row, cell = trained.row, trained.job.cell
    group = groups([row])[0]
    paths = {row.data_digest: facts} if facts else {}
    forms = [form for form in figures.forms if form.format == format.name and not form.missing]
    folders = {path.name for path in folder.iterdir() if path.is_dir()}
    content = {
        "trained": trained, "row": row, "task": trained.task, "base": trained.base,
        "setting": group.settings[0].label, "figures": figures, "facts": facts,
        "compared": compared, "format": format, "form": forms[0] if forms else None,
        "why_not_scripted": why_not_scripted(cell, model_type_of(trained), trained.task.plugin),
        "form_names": _FORMS,
        # the last lines serve a command line
        "snippet": format.snippet.read_text(encoding="utf-8").partition("\n\n\nif __name__")[0],
        "costs": figures_table(figures),
        "int8": int8_line(figures),
        "counts": _counts(facts, trained.refitted),
        "settings": _settings(cell),
        "command": [
            command_line("export", row.cell_id, "--refit", "--to", "DIR")
            if trained.refitted
            else without_paths(commands(group, [], facts=paths)[-2])
        ],
        "files": sorted({path.name for path in folder.iterdir()} | {CARD}), "folders": folders,
        "listed": LISTED, "piped": min(PIPED, len(trained.dev)),
        "where": "training.json",
        "json": lambda value: json.dumps(finite(value, plain), ensure_ascii=False),
    }  # fmt: skip
    text = markdown_environment(__package__).get_template("card.md.jinja").render(content)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def figures_table(figures: Figures) -> Table:
    """What each form costs to use."""
    rows = [
        {
            "form": _FORMS[form.name], "format": form.format, "size": form.size_mb,
            "one": form.one_ms, "batch": form.batch_ms,
            "score": None if form.score is None else by_metric(figures.metric, form.score),
            "changed": (
                None if form.changed is None else f"{form.changed:,} of {figures.examples:,}"
            ),
            "gap": form.largest_difference,
            **{
                name: entities and f"{entities[1]:,} of {entities[0]:,}"
                for name in ("words", "text")
                for entities in [form.entities.get(name)]
            },
        }
        for form in figures.forms
    ]  # fmt: skip
    used = {name for row in rows for name, value in row.items() if value is not None}
    rows = [{name: row[name] for name in row if name in used} for row in rows]
    words = {"texts": str(BATCH), "metric": metric_of(figures.metric).label}
    return table("card_forms", rows, words=words)


def int8_line(figures: Figures) -> str:
    """What the score loses by weights of 8 bits; empty where there are none."""
    if figures.form(INT8) is None:
        return ""
    if (loss := figures.int8_loss) is None:
        return "what the score loses in int8 was not measured, since the model has no dev score"
    size, way = metric_of(figures.metric).size(abs(loss)), "better" if loss < 0 else "worse"
    return f"on dev, ONNX in int8 is {size} {way} than ONNX in fp32"


def _counts(facts: DataFacts | None, together: bool) -> Table | None:
    if facts is None or not facts.class_counts:
        return None
    sides = ("train", "dev") if facts.dev and not together else ("train",)
    return table("card_counts", (
        {"class": plain(name)} | dict(zip(sides, [sum(n)] if together else n, strict=False))
        for name, n in facts.class_counts.items()
    ))  # fmt: skip


def _settings(cell: Cell) -> Table:
    values = {name: getattr(cell, name) for name in group_names("axes") + group_names("settings")}
    return table("card_settings", (
        {"setting": name, "value": plain(without_paths(format_value(value))),
         "about": BY_NAME[name].meaning}
        for name, value in values.items()
        if value is not None and BY_NAME[name].applies(values)
    ))  # fmt: skip
