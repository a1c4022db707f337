"""The model card of an exported folder, README.md: what the model is, what was measured, and how it
was trained.

Importing this loads pandas and matplotlib.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from bench.analysis.groups import groups
from bench.common.messages import command_line
from bench.export.formats import Format
from bench.export.trained import Trained
from bench.export.training import why_not_scripted
from bench.plan.cell import Cell
from bench.plan.columns import BY_NAME, format_value, group_names
from bench.plan.learning_rates import origin_of
from bench.plan.metrics import metric_of
from bench.report.commands import commands
from bench.report.pages import LISTED, markdown_environment
from bench.report.tables import DASH, Head, Table
from bench.report.text import by_metric, count, num, plain, trained_for, without_paths
from bench.results.exports import ADAPTER, BATCH, INT8, MERGED, ONNX, Figures, Form
from bench.results.facts import DataFacts

CARD: Final = "README.md"
_FORMS: Final = {
    ADAPTER: "adapter, on its base", MERGED: "whole model", ONNX: "ONNX", INT8: "ONNX, int8",
}  # fmt: skip
_BY_TOKENIZER: Final = "by predict.py; transformers' tokenizers and pipelines take truncation=True"
_CUT: Final = {
    "peft": _BY_TOKENIZER,
    "transformers": _BY_TOKENIZER,
    "sentence-transformers": "by encode",
    "onnx": "by predict.py",
}
"""What cuts texts."""
_FILES: Final = {
    CARD: "this card",
    "answers.py": "names of the classes for logits, and the command line of predict.py",
    "adapter_config.json": "what PEFT needs to know of the adapters",
    "adapter_model.safetensors": "the weights that trained",
    "base.json": "the base, and the SHA-256 of its weights",
    "config.json": "the architecture, and the names of the classes",
    "config_sentence_transformers.json": "the names of the classes",
    "model-int8.onnx": "the model with weights of 8 bits",
    "model.onnx": "the model",
    "model.safetensors": "the weights",
    "modules.json": "the order of the modules",
    "sentence_bert_config.json": "settings of the first module",
    "predict.py": "predictions on a command line; the check ran this file",
    "tokenizer.json": "the tokenizer",
    "tokenizer_config.json": "the length at which texts are cut, and the special tokens",
    "train.py": "the training, with transformers and PEFT alone",
    "training.json": "its settings",
}


def card(
    trained: Trained,
    folder: Path,
    figures: Figures,
    facts: DataFacts | None,
    *,
    format: Format,  # noqa: A002
    compared: int | None,
) -> str:
    """The text of a model card.

    Args:
        folder: the exported model.
        figures: what its forms cost to use.
        facts: on the data that the row was trained on, where known.
        format: the model's format.
        compared: the number of settings among which this one was chosen; None: it was named.
    """
    row, task, base = trained.row, trained.task, trained.base
    group = groups([row])[0]
    setting = group.settings[0].label
    exported = _exported(figures, format)
    paths = {row.data_digest: facts} if facts else {}
    title = f"{base.name.rpartition('/')[2]} for {task.name}: {setting}"
    content = {
        "front": _front(trained, figures, exported, format, title),
        "title": title,
        "trained": trained, "row": row, "task": task, "base": base, "setting": setting,
        "figures": figures, "facts": facts, "compared": compared, "form": exported,
        "text": "a pair of texts" if _pairs(trained) else "a text",
        "names": ", ".join(json.dumps(plain(n), ensure_ascii=False) for n in task.classes),
        "is_adapter": exported is not None and exported.name == ADAPTER,
        "cut": _CUT[format.name], "dev": len(trained.dev), "machine": _machine(trained),
        "why_not_scripted": why_not_scripted(trained.job.cell), "form_names": _FORMS,
        "snippet": Markup(_quoted(format.snippet)),  # noqa: S704 (a file of this project)
        "usage": _usage(trained, exported),
        "costs": figures_table(figures),
        "counts": _counts(facts, trained.refitted),
        "settings": _settings(trained.job.cell),
        "command": [
            command_line("export", row.cell_id, "--refit", "--to", "DIR")
            if trained.refitted
            else without_paths(commands(group, [], facts=paths)[-2])
        ],
        "files": _files(folder),
        "listed": LISTED,
        "where": "training.json",
        "plain": plain, "count": count, "num": num, "by_metric": by_metric,
        "metric_of": metric_of, "origin_of": origin_of, "trained_for": trained_for,
        "without_paths": without_paths,
    }  # fmt: skip
    environment = markdown_environment(__package__)
    text = environment.get_template("card.md.jinja").render(content)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _pairs(trained: Trained) -> bool:
    return trained.dev.text_b is not None


def _exported(figures: Figures, format: Format) -> Form | None:  # noqa: A002
    """The form that the folder has, if it was measured."""
    return next(
        (form for form in figures.forms if form.format == format.name and not form.missing), None
    )


def _front(
    trained: Trained,
    figures: Figures,
    form: Form | None,
    format: Format,  # noqa: A002
    title: str,
) -> Markup:
    """The metadata in YAML, every value of which is JSON."""
    base, task, cell = trained.base, trained.task, trained.row.cell
    front: dict[str, Any] = {"license": base.licence or "unknown"}
    if base.on_hub:
        is_adapter = form is not None and form.name == ADAPTER
        front["base_model"] = base.name
        front["base_model_relation"] = "adapter" if is_adapter else "finetune"
    front["library_name"] = format.name
    front["pipeline_tag"] = "text-classification"
    front["tags"] = ["minbert-bench", cell.mode, task.kind.replace("_", "-")]
    if form is not None and form.score is not None:
        metric = {"type": figures.metric, "name": f"dev {metric_of(figures.metric).label}",
                  "value": round(form.score, 4)}  # fmt: skip
        result = {
            "task": {"type": "text-classification"},
            "dataset": {"type": task.name, "name": task.name, "split": "dev"},
            "metrics": [metric],
        }
        front["model-index"] = [{"name": title, "results": [result]}]
    values = {name: json.dumps(_plain(value), ensure_ascii=False) for name, value in front.items()}
    return Markup("\n".join(f"{name}: {value}" for name, value in values.items()))  # noqa: S704


def _plain(value: Any) -> Any:
    """A value of JSON whose texts have no control characters."""
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return plain(value) if isinstance(value, str) else value


def _quoted(snippet: Path) -> str:
    """A snippet but its last lines, which serve a command line."""
    return snippet.read_text(encoding="utf-8").partition("\n\n\nif __name__")[0]


def _usage(trained: Trained, form: Form | None) -> Sequence[str]:
    """Lines of Python that predict a text, and the command that does the same."""
    texts = '"a text" "its second text"' if _pairs(trained) else '"a text"'
    one = '("a text", "its second text")' if _pairs(trained) else '"a text"'
    has_base = form is not None and form.name == ADAPTER and not trained.base.on_hub
    base, option = (', "BASE"', "--base BASE ") if has_base else ("", "")
    return [
        "from pathlib import Path",
        "from answers import labels",
        "from predict import load, logits",
        "folder = Path()  # this one",
        f"labels(folder, logits(load(folder{base}), [{one}]))",
        "",
        f"python predict.py {option}{texts}",
    ]


def figures_table(figures: Figures) -> Table:
    """A table of what each form costs to use."""
    heads = [
        Head("form", "form"), Head("format", "format"), Head("size", "size, MB", "", True),
        Head("one", "one text, ms", "", True), Head("batch", f"{BATCH} texts, ms", "", True),
        Head("score", f"dev {metric_of(figures.metric).label}", "", True),
        Head("changed", "other predictions", "", True),
        Head("gap", "largest difference of a logit", "", True),
    ]  # fmt: skip
    rows = [
        [
            _FORMS[form.name], form.format,
            *map(_number, (form.size_mb, form.one_ms, form.batch_ms)),
            DASH if form.score is None else by_metric(figures.metric, form.score),
            DASH if form.changed is None else f"{form.changed:,} of {figures.examples:,}",
            DASH if form.largest_difference is None else f"{form.largest_difference:.1e}",
        ]
        for form in figures.forms
    ]  # fmt: skip
    shown = [i for i in range(len(heads)) if any(row[i] != DASH for row in rows)]
    return Table([heads[i] for i in shown], [[row[i] for i in shown] for row in rows])


def _number(value: float | None) -> str:
    return DASH if value is None else num(value)


def _machine(trained: Trained) -> str:
    row = trained.row
    is_gpu = str(row.device).startswith("cuda")
    gpu = f"{plain(row.device_name)}, in " if is_gpu and row.device_name else ""
    return f"{gpu}{plain(row.machine or 'a machine that is not recorded')}"


def _counts(facts: DataFacts | None, together: bool) -> Table | None:
    """The number of examples of each class, by side or in all."""
    if facts is None or not facts.class_counts:
        return None
    heads = [Head("class", "class"), Head("train", "training examples", "", True)]
    heads += [Head("dev", "dev examples", "", True)] if facts.dev and not together else []
    rows = [
        [
            plain(name),
            *(f"{n:,}" for n in ([sum(counts)] if together else counts[: len(heads) - 1])),
        ]
        for name, counts in facts.class_counts.items()
    ]
    return Table(heads, rows)


def _settings(cell: Cell) -> Table:
    """Every setting that applies."""
    names = [*group_names("axes"), *group_names("settings")]
    values = {name: getattr(cell, name) for name in names}
    rows = [
        [name, plain(without_paths(format_value(value))), BY_NAME[name].meaning]
        for name, value in values.items()
        if value is not None and BY_NAME[name].applies(values)
    ]
    heads = [Head("setting", "setting"), Head("value", "value"), Head("about", "meaning")]
    return Table(heads, rows)


def _files(folder: Path) -> Sequence[tuple[str, str]]:
    """The files of a folder and its folders, each with what it is."""
    names = {path.name for path in folder.iterdir()} | {CARD}
    modules = {path.name for path in folder.iterdir() if path.is_dir()}
    return [
        (f"{name}/", "a module") if name in modules else (name, _FILES.get(name, ""))
        for name in sorted(names)
    ]
