"""The model card: what it states, from what it states it, and that users' texts stay text."""

import html
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench.export.card import card
from bench.export.formats import FORMATS
from bench.plan.metrics import WORDS
from bench.results.exports import ADAPTER, INT8, MERGED, ONNX, Figures, Form
from bench.results.facts import DataFacts
from tests.bench.export.small import trained
from tests.bench.synthetic_rows import result_row

CARDS = Path(__file__).parent / "cards"
HOSTILE = ('"a: b', "<script>alert(1)</script>", "# x | y\n---\n![](http://x/y.png) {{ 7 * 7 }}")
FACTS = DataFacts(
    task="small", problem="single_label", source="reviews.csv", given={"path": "reviews.csv"},
    classes=("wrong", "right"), train=90, dev=15,
    class_counts={"wrong": (60, 10), "right": (30, 5)},
)  # fmt: skip
MEASURED = {"one_ms": 1.5, "batch_ms": 20.0, "largest_difference": 2e-6, "changed": 0,
            "libraries": {"peft": "0.21", "transformers": "5.24"}}  # fmt: skip
FIGURES = Figures(
    forms=(
        Form(name=ADAPTER, format="peft", size_mb=0.3, score=0.6, **MEASURED),
        Form(name=MERGED, format="transformers", size_mb=91.0, score=0.6, **MEASURED),
        Form(name=ONNX, format="onnx", missing="--format onnx needs onnx: pip install onnx"),
        Form(name=INT8, format="onnx", size_mb=23.0, score=0.5, **MEASURED | {"changed": 2}),
    ),
    metric="accuracy", int8_loss=0.1, examples=15, machine="Xeon 2.8 GHz", threads=2,
    at="2026-11-27T10:00:00Z",
)  # fmt: skip
UNSCORED = tuple(form.model_copy(update={"score": None}) for form in FIGURES.forms)
ONE = Form(name=MERGED, format="transformers", size_mb=1.0, **MEASURED | {"changed": None})


def cell(base, *how, **changes):
    """A trained cell with a row of results, and a base whose digest is always the same."""
    own = trained(base, *how, **changes)
    row = result_row(own.row.cell, dev_metric=own.task.metric)
    return replace(own, row=row, base=replace(own.base, sha256="ab" * 32))


def text_of(trained, folder, figures=FIGURES, **more):
    options = {"format": FORMATS["peft"], "compared": 8, "facts": FACTS} | more
    return card(trained, folder, figures, options.pop("facts"), **options)


def shortened(text):
    """A card without the quoted snippet and the meanings of settings."""
    text = re.sub(r"(?s)(```python\n).*?(```)", r"\1\2", text)
    before, head, settings = text.partition("| setting | value | meaning |")
    return before + head + re.sub(r"(?m)^(\| [\w\\]+ \| [^|]* \|) .* \|$", r"\1", settings)


@pytest.mark.parametrize("name", ["adapter", "local", "labels", "number", "refitted"])
def test_a_card_states_what_was_measured_and_from_what(base, tmp_path, name):
    """As in the files in `cards`; `number` was trained again for the export."""
    (tmp_path / "adapter_config.json").touch()
    (tmp_path / "1_Pooling").mkdir()
    one = FIGURES.model_copy(update={"forms": (ONE,), "metric": "pearson", "int8_loss": None})
    unscored = FIGURES.model_copy(update={"forms": UNSCORED, "int8_loss": None})
    whole = {"format": FORMATS["transformers"]}
    own, figures, more = {
        "adapter": lambda: (cell(base), FIGURES, {}),
        "local": lambda: (cell(base, on_hub=False), FIGURES, {}),
        "labels": lambda: (cell(base, "head", kind="multi_label"), FIGURES, whole),
        "number": lambda: (
            replace(cell(base, "full", kind="regression", pairs=True, on_hub=False), again=True),
            one, whole | {"compared": None, "facts": None},
        ),
        "refitted": lambda: (replace(cell(base), refitted=True), unscored, {}),
    }[name]()  # fmt: skip
    text = text_of(own, tmp_path, figures, **more)
    assert ("| rank | 4 | rank of the adapters |" in text) == (own.row.rank == 4)
    assert str(base.parent) not in text
    assert shortened(text) == (CARDS / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FORMATS)
def test_a_card_quotes_the_snippet_and_states_what_cuts_texts(base, tmp_path, name):
    text = text_of(cell(base), tmp_path, format=FORMATS[name])
    quoted = text.partition("```python\n")[2].partition("```")[0]
    snippet = FORMATS[name].snippet.read_text(encoding="utf-8")
    assert all(line in snippet for line in quoted.splitlines())
    assert "def load(" in quoted
    assert "def logits(" in quoted
    assert "def main" not in quoted
    compile(quoted, "card", "exec")
    (line,) = [line for line in text.splitlines() if "Texts are cut after" in line]
    assert ("truncation=True" in line) is (name in ("peft", "transformers"))
    assert ("by encode" in line) is (name == "sentence-transformers")


def test_names_are_text_in_the_metadata_as_the_hub_reads_it_and_on_the_page(base, tmp_path):
    hub, markdown = map(pytest.importorskip, ("huggingface_hub", "markdown"))
    (tmp_path / "<b>model.bin").touch()
    classes, own = (*HOSTILE, "a, b", 'c", "d'), cell(base)
    hostile = replace(
        own, task=replace(own.task, classes=classes, name='a: "b" #c\n---'),
        base=replace(own.base, name='<img src="x">: z', licence="mit\n<i>: bar"),
    )  # fmt: skip
    counts = {"source": "<u>.csv", "class_counts": dict.fromkeys(HOSTILE, (1, 1))}
    text = text_of(hostile, tmp_path, facts=FACTS.model_copy(update=counts))
    data = hub.ModelCard(text).data
    of = (data.license, data.base_model, data.library_name)
    assert of == ("mit <i>: bar", '<img src="x">: z', "peft")
    [result] = data.eval_results
    assert (result.task_type, result.dataset_split) == ("text-classification", "dev")
    assert result.dataset_name == result.dataset_type == 'a: "b" #c ---'
    known = (result.metric_type, result.metric_name, result.metric_value)
    assert known == ("accuracy", "dev accuracy", 0.6)

    page = markdown.markdown(text.split("---\n", 2)[2], extensions=["tables", "fenced_code"])
    for tag in ("<script", "<img", "<i>", "<u>", "<b>model"):
        assert tag not in page
    assert "# x | y --- ![](http://x/y.png) {{ 7 * 7 }}" in page.replace("&#124;", "|")
    assert r'"a, b", "c\", \"d".' in html.unescape(page)


def test_a_card_of_tags_says_how_to_call_it_and_train_it(base, tmp_path):
    own, whole = cell(base, "full", kind=WORDS), {"format": FORMATS["transformers"]}
    text = text_of(own, tmp_path, **whole)
    assert "labels(folder, predictor(folder, logits, tokens)(load(folder), [words]))" in text
    assert 'a tag for each word of a text, among "O", "B-film", "I-film".' in text
    assert f"- Texts are cut after {own.job.cell.max_length} tokens, by predict.py" in text
    windows = replace(own.job.cell, window_stride=3, max_train=None)
    (tmp_path / "train.py").touch()
    text = text_of(replace(own, job=replace(own.job, cell=windows)), tmp_path, **whole)
    assert "tokens are read by predict.py in windows, of which two share 3 tokens" in text
    assert "train.py trains the same: python train.py TRAIN.jsonl --to DIR" in text
