"""The model card of an exported folder, README.md: what the model is, what was measured, and how it
was trained.

Importing this loads pandas and matplotlib.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from bench.analysis.groups import groups
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
        "about": list(_about(trained, exported, format, setting)),
        "snippet": Markup(_quoted(format.snippet)),  # noqa: S704 (a file of this project)
        "usage": _usage(trained, exported),
        "limits": list(_limits(trained, compared)),
        "figures": figures_table(figures),
        "figures_notes": list(_figures_notes(figures)),
        "trained": list(_trained(trained, facts)),
        "counts": _counts(facts, trained.refitted),
        "settings": _settings(trained.job.cell),
        "script": _script(trained),
        "command": [
            f"python -m bench.export {row.cell_id} --refit --to DIR"
            if trained.refitted
            else without_paths(commands(group, [], facts=paths)[-2])
        ],
        "measured": list(_measured(trained, figures, exported)),
        "files": _files(folder),
        "listed": LISTED,
        "where": "training.json",
    }
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


def _about(
    trained: Trained,
    form: Form | None,
    format: Format,  # noqa: A002
    setting: str,
) -> Iterator[str]:
    """Sentences on what the model is."""
    task, base = trained.task, trained.base
    text = "a pair of texts" if _pairs(trained) else "a text"
    names = ", ".join(json.dumps(plain(name), ensure_ascii=False) for name in task.classes)
    if task.multi_label:
        yield f"It predicts which of {count(len(task.classes), 'label')} {text} has: {names}."
    elif task.classes:
        yield (
            f"It predicts which of {count(len(task.classes), 'class', 'classes')} {text} has: "
            f"{names}."
        )
    else:
        yield f"It predicts a number for {text}, in the unit of the labels that it was trained on."
    revision = f", commit {base.revision}" if base.revision else ""
    where = "on the Hugging Face hub" if base.on_hub else "a local checkpoint"
    yield (
        f"Its base is {plain(base.name)}, {where}{revision}; licence "
        f"{plain(base.licence) if base.licence else 'not known'}. The SHA-256 of its {base.file} "
        f"is {base.sha256}."
    )
    is_adapter = form is not None and form.name == ADAPTER
    kept = "the weights that trained, to be added to the base" if is_adapter else "the whole model"
    yield f"Its setting is {setting}, seed {trained.row.seed}. This folder has {kept}."
    yield f"Texts are cut after {trained.job.cell.max_length:,} tokens, {_CUT[format.name]}."


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


def _limits(trained: Trained, compared: int | None) -> Iterator[str]:
    """Sentences on what the figures don't show."""
    if trained.refitted:
        yield (
            "The score of this model is not measured: it was trained on all examples, those of dev "
            "included, so none are left to measure it on."
        )
        return
    if compared is None:
        yield "Scores are on the dev examples."
    else:
        yield (
            "Scores are on the dev examples, by which this setting was chosen among "
            f"{count(compared, 'setting')}, so they are optimistic: other texts may score lower."
        )
        if origin_of(trained.row) != "tuned":
            yield "With learning rates tuned for each setting, another may have been chosen."
    if trained.again:
        yield (
            "The weights of the cell were not kept, so it was trained again for this folder; the "
            "scores are those of the new training."
        )
    for note in trained.task.notes:
        yield f"{note[:1].upper()}{note[1:]}."


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


def _figures_notes(figures: Figures) -> Iterator[str]:
    """Sentences on how the figures were measured, and why some weren't."""
    yield (
        "Size is that of the files of weights. Times are medians on "
        f"{count(figures.threads, 'thread')} of {plain(figures.machine)}, tokenising included, in "
        f"a process of their own, on {figures.at[:10]}."
    )
    yield (
        "Predictions and logits are compared with those of the trained model in fp32, on all "
        f"{figures.examples:,} dev examples."
    )
    for form in figures.forms:
        if form.missing:
            yield f"{_FORMS[form.name]} was not measured: {without_paths(plain(form.missing))}"


def _trained(trained: Trained, facts: DataFacts | None) -> Iterator[str]:
    """The data and the method of the training."""
    row = trained.row
    name = (
        f"{plain(row.task)} ({plain(facts.source)})" if facts and facts.source else plain(row.task)
    )
    if trained.refitted:
        number = f" {facts.train + facts.dev:,}" if facts else ""
        yield f"Data: {name}; all{number} examples, those of dev included."
    elif facts is None:
        yield f"Data: {name}; {len(trained.dev):,} dev examples."
    elif facts.dev:
        yield f"Data: {name}; {facts.train:,} training examples and {facts.dev:,} dev examples."
    else:
        yield (
            f"Data: {name}; {facts.train:,} examples in {row.folds} folds, of which fold "
            f"{row.fold} is dev."
        )
    yield f"It was trained for {trained_for(row)}."
    if row.train_s is not None:
        yield f"The training took {num(row.train_s)} s on {_machine(trained)}."


def _script(trained: Trained) -> str:
    """A sentence on training the same without this project."""
    if trained.refitted:
        return "It was trained with the settings of a cell, on the examples of training and of dev."
    if why_not := why_not_scripted(trained.job.cell):
        return f"{why_not}, so this folder has none."
    return (
        "With transformers and PEFT alone, train.py trains the same: python train.py TRAIN.jsonl "
        "--to DIR; its first lines describe TRAIN.jsonl, which python -m bench.data --write writes."
    )


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
        [name, plain(without_paths(format_value(value))), BY_NAME[name].about]
        for name, value in values.items()
        if value is not None and BY_NAME[name].applies(values)
    ]
    heads = [Head("setting", "setting"), Head("value", "value"), Head("about", "meaning")]
    return Table(heads, rows)


def _measured(trained: Trained, figures: Figures, form: Form | None) -> Iterator[str]:
    """The costs and the score of the training, and the check of this folder."""
    row = trained.row
    memory = row.peak_cuda_allocated_mib or row.peak_rss_mib
    if memory is not None:
        kind = "GPU memory" if row.peak_cuda_allocated_mib else "memory of the process (peak RSS)"
        speed = row.ms_per_1k_tokens
        time = "" if speed is None else f"; {num(speed)} ms for 1,000 tokens"
        yield (
            f"Training, on {_machine(trained)}, torch {plain(row.torch_version)}: {num(memory)} "
            f"MiB of {kind}{time}."
        )
    if row.dev_score is not None and not trained.refitted:
        ends = [by_metric(row.dev_metric, end) for end in (row.dev_ci_low, row.dev_ci_high)
                if end is not None]  # fmt: skip
        interval = f" (95% interval {' to '.join(ends)})" if len(ends) == 2 else ""
        yield (
            f"Dev {metric_of(row.dev_metric).label} after the training, in its precision "
            f"({'fp32' if row.amp == 'off' else row.amp}): "
            f"{by_metric(row.dev_metric, row.dev_score)}{interval}."
        )
    if form is not None and form.largest_difference is not None:
        libraries = ", ".join(f"{name} {version}" for name, version in form.libraries.items())
        yield (
            "Checked: in a process without minbert-bench, predict.py gave the logits of the "
            f"trained model on all {figures.examples:,} dev examples, with differences of up to "
            f"{form.largest_difference:.1e}, and the same classes ({libraries})."
        )


def _files(folder: Path) -> Sequence[tuple[str, str]]:
    """The files of a folder and its folders, each with what it is."""
    names = {path.name for path in folder.iterdir()} | {CARD}
    modules = {path.name for path in folder.iterdir() if path.is_dir()}
    return [
        (f"{name}/", "a module") if name in modules else (name, _FILES.get(name, ""))
        for name in sorted(names)
    ]
