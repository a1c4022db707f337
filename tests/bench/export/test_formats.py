"""What formats express and refuse, and what plain libraries make of their folders."""

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from bench.common.errors import InputError
from bench.export.card import card
from bench.export.check import check, texts_of
from bench.export.exporting import measure
from bench.export.formats import FORMATS, SNIPPET, default_format, refusal
from bench.export.snippets import answers
from bench.plan.metrics import WORDS
from bench.results.exports import MERGED, PIPED
from minbert.data.tokenizer import Tokenizer
from tests.bench.export import small
from tests.bench.synthetic_rows import cell
from tests.experiments.export.matrix import Case, declared, docs_tables, in_docs, observed

DOCS = Path(__file__).parents[3] / "docs" / "export.md"


def test_the_tables_in_the_docs_are_what_the_formats_say():
    assert in_docs(DOCS.read_text(encoding="utf-8")) == docs_tables()


@pytest.mark.parametrize(("case", "name", "kind", "pairs"), [
    (Case("dora", "all-lin", "pooler", "linear"), "peft", "multi_label", True),
    (Case("lora", "attn", "pooler", "linear"), "peft", "regression", False),
    (Case("full", None, "pooler", "linear"), "transformers", "multi_label", True),
    (Case("dora", "attn-only", "pooler", "linear"), "transformers", "regression", True),
    (Case("dora", "attn-only", "pooler", "nonlinear"), "sentence-transformers", "regression", True),
    (Case("bitfit", None, "cls", "nonlinear"), "sentence-transformers", "regression", False),
    (Case("head", None, "mean", "conv"), "onnx", "regression", True),
])  # fmt: skip
def test_a_sample_of_the_table_holds(base, shallow, case, name, kind, pairs):
    own = case.trained(shallow if name == "onnx" else base, kind, pairs)
    assert observed(own, name) == declared(case.cell, name) in ("adapter", "merged", "whole")


def test_a_refusal_names_the_format_that_can(base, tmp_path):
    assert refusal("peft", cell("lora", 4, "attn-only", "off", pooling="mean")) == (
        "peft has no place for mean pooling; use --format sentence-transformers"
    )
    frozen = cell("dora", 4, "attn-only", "off", pooling="pooler")
    trains = cell("dora", 4, "attn", "off", pooling="pooler")
    assert default_format(frozen, merge=False) == "peft"
    assert default_format(frozen, merge=True) == default_format(trains, merge=False)
    assert default_format(trains, merge=False) == "transformers"
    tags = small.trained(base, "full", kind=WORDS)
    with pytest.raises(InputError, match="no place for tags of words"):
        small.exported(tags, "sentence-transformers", tmp_path / "out")


def test_normalisation_of_the_base_is_kept(tmp_path):
    """transformers would otherwise build a tokenizer for BERT with its own defaults."""
    from transformers import AutoTokenizer

    base = small.base_folder(tmp_path / "base")
    lower = Tokenizer.from_folder(base).encode(["The film É"], None, small.MAX_LENGTH)
    (base / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    own = small.trained(base)
    folder = small.exported(own, "transformers", tmp_path / "out")
    ours = own.tokenizer.encode(["The film É"], None, small.MAX_LENGTH).input_ids.tolist()
    assert AutoTokenizer.from_pretrained(folder)("The film É")["input_ids"] == ours
    assert ours != lower.input_ids.tolist()


def test_a_cross_encoder_gives_the_numbers_of_a_regression(exports):
    small.need_libraries("sentence-transformers")
    own, folder = exports("transformers", kind="regression", pairs=True)
    from sentence_transformers import CrossEncoder

    numbers = CrossEncoder(str(folder), device="cpu").predict(texts_of(own.dev))
    np.testing.assert_allclose(numbers, small.expected_logits(own)[:, 0], atol=1e-4, rtol=0)


def test_onnx_files_have_no_paths_of_this_machine(exports):
    _, folder = exports("onnx")
    for name in ("model.onnx", "model-int8.onnx"):
        content = (folder / name).read_bytes()
        for path in (DOCS.parents[1], Path.home(), sys.prefix, "bench/export", ".py"):
            assert str(path).encode() not in content


def test_int8_weights_have_a_scale_for_each_output_and_no_products_that_overflow(exports):
    _, folder = exports("onnx")
    onnx = pytest.importorskip("onnx")
    stored = onnx.load(folder / "model-int8.onnx").graph.initializer
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in stored}
    weights = {name: of for name, of in arrays.items() if of.dtype == np.int8 and of.ndim == 2}
    assert len(weights) == 6  # queries, keys and values together, three more, pooler and head
    for name, of in weights.items():
        assert arrays[name.replace("_quantized", "_scale")].shape == of.shape[1:]
        # two, with activations of 8 bits, are added in 16 by processors without VNNI
        assert 2 * 255 * np.abs(of.astype(int)).max() < 2**15


def test_an_error_of_onnx_is_one_line(tmp_path, base, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such operator\nin version 18")

    small.need_libraries("onnx")
    monkeypatch.setattr("torch.onnx.export", fail)
    with pytest.raises(InputError, match=r"as ONNX \(no such operator in version 18\)"):
        small.exported(small.trained(base), "onnx", tmp_path / "out")


@pytest.mark.parametrize("name", ["peft", "sentence-transformers", "onnx"])
def test_transformers_does_not_load_another_model_from_a_folder(exports, name):
    _, folder = exports(name)
    from transformers import AutoModelForSequenceClassification

    with warnings.catch_warnings(action="ignore"), pytest.raises((OSError, ValueError)):
        AutoModelForSequenceClassification.from_pretrained(folder)
    assert (folder / SNIPPET).exists()


@pytest.mark.parametrize(("name", "mode", "layers"), [
    ("peft", "dora", "all-lin-only"), ("transformers", "full", None), ("onnx", "lora", "attn"),
])  # fmt: skip
@pytest.mark.usefixtures("here")
def test_other_libraries_give_the_logits_of_every_word(shallow, tmp_path, name, mode, layers):
    """In windows over long texts and, from the same folder without a stride, of texts cut."""
    own = small.trained(shallow, mode, layers, kind=WORDS)
    windowed = replace(own, job=replace(own.job, cell=replace(own.job.cell, window_stride=3)))
    out = small.exported(windowed, name, tmp_path / "out")
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["window_stride"] == 3
    assert config["architectures"] == ["BertForTokenClassification"]
    assert config["label2id"] == {tag: number for number, tag in enumerate(small.TAGS)}
    if name == "peft":
        assert json.loads((out / "adapter_config.json").read_text())["task_type"] == "TOKEN_CLS"
    cut, expected = small.expected_logits(own), small.expected_logits(windowed)
    assert expected.shape == cut.shape == (own.dev.words, len(small.TAGS))
    assert np.abs(expected[:1] - expected[1:]).max() > 0.01
    assert expected.any(axis=1).sum() > cut.any(axis=1).sum()
    assert check(windowed, out, expected).labels == [small.TAGS[row.argmax()] for row in expected]
    with pytest.raises(InputError, match="logits differ"):
        check(windowed, out, np.concatenate([cut[:-1], expected[-1:]]))
    del config["window_stride"]
    (out / "config.json").write_text(json.dumps(config))
    assert check(own, out, cut).logits.shape == cut.shape
    with pytest.raises(InputError, match=r"logits differ by up to 1 in .* dev words, first in"):
        check(own, out, cut + 1)


def test_the_pipeline_of_transformers_is_compared(exports):
    own, out = exports("transformers", mode="full", layers=None, kind=WORDS)
    expected = small.expected_logits(own)
    with mock.patch("bench.export.exporting.missing_library", lambda form: (
        "not here" if form.name == "onnx" else ""
    )):  # fmt: skip
        figures = measure(own, out, FORMATS["transformers"], expected, lambda *_: None)
    assert {form.name for form in figures.forms if form.entities} == {MERGED}
    entities = figures.form(MERGED).entities
    spans, at = 0, 0
    for words in texts_of(own.dev)[:PIPED]:
        ends = [(n, n + 1) for n in range(len(words))]
        spans += len(answers.spans(out, ends, expected[at : at + len(words)]))
        at += len(words)
    for kind, (theirs, same, ours) in entities.items():
        assert 0 < same <= min(theirs, ours), kind
    assert entities["words"][2] == spans
    text = card(own, out, figures, None, format=FORMATS["transformers"], compared=None)
    assert f"{entities['text'][1]} of {entities['text'][0]}" in text
    assert f"compared on the first {len(own.dev)} dev texts" in text


@pytest.mark.parametrize(("kind", "name"), [("roberta", "peft"), ("distilbert", "transformers")])
def test_words_of_engine_transformers(encoders, tmp_path, kind, name):
    own = small.trained_by_library(encoders(kind), kind=WORDS)
    expected = small.expected_logits(own)
    out = small.exported(own, name, tmp_path / "out")
    answer = small.answer_here(out, texts_of(own.dev), base=own.base)
    np.testing.assert_allclose(answer.logits, expected, atol=1e-4, rtol=0)


def test_entities_have_ends_types_and_scores(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({
        "id2label": dict(enumerate(("O", "B-a", "I-a", "B-b", "I-b"))),
        "problem_type": "single_label_classification",
        "architectures": ["BertForTokenClassification"],
    }))  # fmt: skip
    assert answers.by_word(tmp_path)
    text = "Ann-Marie (42)   saw it"
    words = answers.words_in(text)
    assert [text[a:b] for a, b in words] == ["Ann", "-", "Marie", "(", "42", ")", "saw", "it"]
    tags = [1, 2, 2, 4, 3, 0, 2, 1]
    spans = answers.spans(tmp_path, words, np.where(np.eye(5)[tags] == 1, 2.0, 0.0))
    assert [(one["begin"], one["end"], one["type"]) for one in spans] == [
        (0, 9, "a"), (11, 13, "b"), (21, 23, "a")
    ]  # fmt: skip
    share = np.exp(2) / (np.exp(2) + 4)
    assert all(one["score"] == pytest.approx(share) for one in spans)
    config = json.loads((tmp_path / "config.json").read_text())
    names = dict(enumerate(("NOUN", "VERB")))
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": names}))
    spans = answers.spans(tmp_path, words[:3], np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]]))
    assert [(one["begin"], one["type"]) for one in spans] == [(0, "NOUN"), (4, "VERB")]
