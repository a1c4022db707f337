"""The model card: what it states, from what it states it, and that users' texts stay text."""

import html
import random
from dataclasses import replace
from pathlib import Path

import pytest

from bench.export.card import card
from bench.export.formats import FORMATS
from bench.export.trained import Trained
from bench.results.exports import ADAPTER, INT8, MERGED, ONNX, Figures, Form
from bench.results.facts import DataFacts
from tests.bench.export.small import base_folder, trained
from tests.bench.synthetic_rows import result_row

HOSTILE = ('"a: b', "<script>alert(1)</script>", "# x | y\n---\n![](http://x/y.png) {{ 7 * 7 }}")
FACTS = DataFacts(
    task="small", problem="single_label", source="reviews.csv", classes=("wrong", "right"),
    train=90, dev=15, class_counts={"wrong": (60, 10), "right": (30, 5)},
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
    metric="accuracy", examples=15, machine="Xeon 2.8 GHz", threads=2, at="2026-11-27T10:00:00Z",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_folder(tmp_path_factory.mktemp("base") / "small")


@pytest.fixture
def exported(base: Path) -> Trained:
    cell = trained(base)
    noise = random.Random(0)  # noqa: S311
    return replace(cell, row=result_row(cell.row.cell, noise, dev_metric="accuracy"))


def text_of(trained: Trained, folder: Path, figures: Figures = FIGURES, **more) -> str:
    options = {"format": FORMATS["peft"], "compared": 8, "facts": FACTS} | more
    return card(trained, folder, figures, options.pop("facts"), **options)


def test_it_states_what_was_measured_and_from_what(exported: Trained, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").touch()
    (tmp_path / "1_Pooling").mkdir()
    text = text_of(exported, tmp_path)
    row = exported.row
    for sentence in (
        '- It predicts which of 3 classes a text has: "wrong", "right", "maybe".',
        f"Its base is someone/small, on the Hugging Face hub, commit {'1f' * 20}; licence apache-2",
        exported.base.sha256,
        "This folder has the weights that trained, to be added to the base.",
        "Texts are cut after 16 tokens, by predict.py",
        "by which this setting was chosen among 8 settings, so they are optimistic",
        "| adapter, on its base | peft | 0.3 | 1.50 | 20.0 | 0.600 | 0 of 15 | 2.0e-06 |",
        "| ONNX, int8 | onnx | 23.0 | 1.50 | 20.0 | 0.500 | 2 of 15 | 2.0e-06 |",
        "ONNX was not measured: --format onnx needs onnx: pip install onnx",
        "on 2 threads of Xeon 2.8 GHz",
        "Data: small (reviews.csv); 90 training examples and 15 dev examples.",
        "| wrong | 60 | 10 |",
        "| rank | 4 | rank of the adapters |",
        f"Dev accuracy after the training, in its precision (fp32): {row.dev_score:.3f} (95%",
        f"{row.peak_rss_mib:,.0f} MiB of memory of the process",
        "with differences of up to 2.0e-06, and the same classes (peft 0.21, transformers 5.24)",
        "    python -m bench.grid --grid full --model someone/small",
        "--data reviews.csv",
        "- adapter\\_config.json: what PEFT needs",
        "- README.md: this card",
        "- 1\\_Pooling/: a module",
    ):
        assert sentence in text, text
    assert "not kept" not in text
    assert str(exported.base.folder.parent) not in text


def test_the_lines_that_load_are_those_of_the_snippet(exported: Trained, tmp_path: Path) -> None:
    for each in FORMATS.values():
        text = text_of(exported, tmp_path, format=each)
        quoted = text.partition("```python\n")[2].partition("```")[0]
        snippet = each.snippet.read_text(encoding="utf-8")
        assert all(line in snippet for line in quoted.splitlines())
        assert "def load(" in quoted
        assert "def logits(" in quoted
        compile(quoted, "card", "exec")
        used = {word for word in ("argparse", "def main") if word in quoted}
        assert not used


def test_the_metadata_are_yaml_whatever_classes_and_names_are(
    exported: Trained, tmp_path: Path
) -> None:
    yaml = pytest.importorskip("yaml")
    hostile = replace(
        exported, task=replace(exported.task, classes=HOSTILE, name='a: "b" #c\n---'),
        base=replace(exported.base, name='x/y: "z"', licence="mit\nfoo: bar"),
    )  # fmt: skip
    text = text_of(hostile, tmp_path)
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "mit foo: bar"
    assert front["base_model"] == 'x/y: "z"'
    assert front["base_model_relation"] == "adapter"
    assert front["library_name"] == "peft"
    [result] = front["model-index"][0]["results"]
    assert result["dataset"]["name"] == 'a: "b" #c ---'
    assert result["metrics"] == [{"type": "accuracy", "name": "dev accuracy", "value": 0.6}]


def test_markup_in_names_is_text(exported: Trained, tmp_path: Path) -> None:
    markdown = pytest.importorskip("markdown")
    (tmp_path / "<b>model.bin").touch()
    hostile = replace(
        exported, task=replace(exported.task, classes=HOSTILE),
        base=replace(exported.base, licence="<i>", name="<img src=x>"),
    )  # fmt: skip
    facts = FACTS.model_copy(
        update={"source": "<u>.csv", "class_counts": dict.fromkeys(HOSTILE, (1, 1))}
    )
    text = text_of(hostile, tmp_path, facts=facts)
    body = text.split("---\n", 2)[2]
    page = markdown.markdown(body, extensions=["tables", "fenced_code"])
    for tag in ("<script", "<img", "<i>", "<u>", "<b>model"):
        assert tag not in page
    assert "# x | y --- ![](http://x/y.png) {{ 7 * 7 }}" in page.replace("&#124;", "|")


def test_names_with_commas_and_quotes_can_be_distinguished(
    exported: Trained, tmp_path: Path
) -> None:
    markdown = pytest.importorskip("markdown")
    classes = ("a, b", 'c", "d', "e")
    text = text_of(replace(exported, task=replace(exported.task, classes=classes)), tmp_path)
    shown = html.unescape(markdown.markdown(text.split("---\n", 2)[2]))
    assert r'a text has: "a, b", "c\", \"d", "e".' in shown


def test_it_states_what_cuts_texts(exported: Trained, tmp_path: Path) -> None:
    for name in FORMATS:
        text = text_of(exported, tmp_path, format=FORMATS[name])
        (line,) = [line for line in text.splitlines() if "Texts are cut after" in line]
        assert ("truncation=True" in line) is (name in ("peft", "transformers"))
        assert ("by encode" in line) is (name == "sentence-transformers")


def test_a_refitted_model_has_no_score(exported: Trained, tmp_path: Path) -> None:
    forms = [form.model_copy(update={"score": None}) for form in FIGURES.forms]
    figures = FIGURES.model_copy(update={"forms": tuple(forms)})
    text = text_of(replace(exported, refitted=True), tmp_path, figures)
    assert "The score of this model is not measured: it was trained on all examples" in text
    assert "Data: small (reviews.csv); all 105 examples, those of dev included." in text
    assert "model-index" not in text
    assert "accuracy" not in text.lower()


def test_a_cell_that_was_trained_again_is_named_as_such(exported: Trained, tmp_path: Path) -> None:
    text = text_of(replace(exported, again=True), tmp_path, compared=None)
    assert "it was trained again for this folder; the scores are those of the new training" in text
    assert "optimistic" not in text


def test_other_tasks_and_bases(base: Path, tmp_path: Path) -> None:
    number = trained(base, "full", kind="regression", pairs=True, on_hub=False)
    form = Form(name=MERGED, format="transformers", size_mb=1.0, **MEASURED | {"changed": None})
    figures = FIGURES.model_copy(update={"forms": (form,), "metric": "pearson"})
    text = text_of(number, tmp_path, figures, format=FORMATS["transformers"], facts=None)
    assert "It predicts a number for a pair of texts, in the unit of the labels" in text
    assert "Its base is small, a local checkpoint; licence apache-2.0" in text
    assert "base_model" not in text
    assert '    python predict.py "a text" "its second text"' in text
    assert 'labels(folder, logits(load(folder), [("a text", "its second text")]))' in text
    assert "other predictions" not in text
    local = trained(base, on_hub=False)
    assert '    python predict.py --base BASE "a text"' in text_of(local, tmp_path)
    assert 'load(folder, "BASE")' in text_of(local, tmp_path)
    labels = trained(base, "head", kind="multi_label")
    text = text_of(labels, tmp_path, format=FORMATS["transformers"])
    assert 'It predicts which of 3 labels a text has: "wrong", "right", "maybe".' in text
    assert "Its setting is head, fp32, seed 0. This folder has the whole model." in text
