"""What formats express and refuse, and what plain libraries make of their folders; also of models
that give a tag to each word."""

import csv
import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from bench.common.errors import InputError
from bench.export import predict
from bench.export.card import card
from bench.export.check import check, texts_of
from bench.export.figures import measure
from bench.export.formats import FORMATS, SNIPPET, default_format, format_in, refusal
from bench.export.snippets import answers
from bench.plan.metrics import WORDS
from bench.results.exports import MERGED, PIPED
from minbert.data.tokenizer import Tokenizer
from tests.bench.export.small import (
    CLASSES,
    MAX_LENGTH,
    TAGS,
    answer_here,
    base_folder,
    expected_logits,
    exported,
    need_libraries,
    trained,
    trained_by_library,
)
from tests.bench.export.test_card import FIGURES
from tests.bench.synthetic_rows import cell
from tests.experiments.export.matrix import Case, declared, docs_tables, in_docs, observed

DOCS = Path(__file__).parents[3] / "docs" / "export.md"


def test_the_tables_in_the_docs_are_what_the_formats_say():
    assert in_docs(DOCS.read_text(encoding="utf-8")) == docs_tables()


@pytest.mark.parametrize(
    ("case", "name", "kind", "pairs"),
    [
        (Case("dora", "all-lin", "pooler", "linear"), "peft", "multi_label", True),
        (Case("lora", "attn", "pooler", "linear"), "peft", "regression", False),
        (Case("full", None, "pooler", "linear"), "transformers", "multi_label", True),
        (Case("dora", "attn-only", "pooler", "linear"), "transformers", "regression", True),
        (Case("dora", "attn-only", "pooler", "nonlinear"), "sentence-transformers",
         "regression", True),
        (Case("bitfit", None, "cls", "nonlinear"), "sentence-transformers", "regression", False),
        (Case("head", None, "mean", "conv"), "onnx", "regression", True),
    ],
)  # fmt: skip
def test_a_sample_of_the_table_holds(base, case, name, kind, pairs):
    cell = case.trained(base, kind, pairs)
    assert observed(cell, name) == declared(case.cell, name)
    assert not declared(case.cell, name).startswith("—")


def test_a_pooler_that_the_base_lacks_is_saved(tmp_path):
    own = trained(base_folder(tmp_path / "base", pooler=False))
    folder = exported(own, "peft", tmp_path / "out")
    assert "bert.pooler.dense" in read(folder, "adapter_config.json")["modules_to_save"]
    answer = answer_here(folder, texts_of(own.dev), base=own.base)
    np.testing.assert_allclose(answer.logits, expected_logits(own), atol=1e-4, rtol=0)


def test_a_refusal_names_the_format_that_can():
    mean = cell("lora", 4, "attn-only", "off", pooling="mean")
    assert refusal("peft", mean) == (
        "peft has no place for mean pooling; use --format sentence-transformers"
    )
    frozen = cell("dora", 4, "attn-only", "off", pooling="pooler")
    trains = cell("dora", 4, "attn", "off", pooling="pooler")
    assert default_format(frozen, merge=False) == "peft"
    assert default_format(frozen, merge=True) == default_format(trains, merge=False)
    assert default_format(trains, merge=False) == "transformers"


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_has_its_format(exports, name):
    _, folder = exports(name)
    assert format_in(folder) is FORMATS[name]
    config = read(folder, FORMATS[name].config)
    assert list(config["id2label"].values()) == list(CLASSES)
    assert config["label2id"] == {label: number for number, label in enumerate(CLASSES)}
    assert config["problem_type"] == "single_label_classification"
    assert config["text_pairs"] is False


def test_normalisation_of_the_base_is_kept(tmp_path):
    """transformers would otherwise build a tokenizer for BERT with its own defaults."""
    from transformers import AutoTokenizer

    base = base_folder(tmp_path / "base")
    lower = Tokenizer.from_folder(base).encode(["The film É"], None, MAX_LENGTH)
    (base / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    own = trained(base)
    folder = exported(own, "transformers", tmp_path / "out")
    ours = own.tokenizer.encode(["The film É"], None, MAX_LENGTH).input_ids.tolist()
    assert AutoTokenizer.from_pretrained(folder)("The film É")["input_ids"] == ours
    assert ours != lower.input_ids.tolist()


def test_a_cross_encoder_gives_the_numbers_of_a_regression(exports):
    need_libraries("sentence-transformers")
    own, folder = exports("transformers", kind="regression", pairs=True)
    from sentence_transformers import CrossEncoder

    numbers = CrossEncoder(str(folder), device="cpu").predict(texts_of(own.dev))
    np.testing.assert_allclose(numbers, expected_logits(own)[:, 0], atol=1e-4, rtol=0)


def test_onnx_files_have_no_paths_of_this_machine(exports):
    _, folder = exports("onnx")
    for name in ("model.onnx", "model-int8.onnx"):
        content = (folder / name).read_bytes()
        for path in (DOCS.parents[1], Path.home(), sys.prefix, "bench/export", ".py"):
            assert str(path).encode() not in content


def test_an_error_of_onnx_is_one_line(tmp_path, base, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such operator\nin version 18")

    need_libraries("onnx")
    monkeypatch.setattr("torch.onnx.export", fail)
    with pytest.raises(InputError, match=r"as ONNX \(no such operator in version 18\)"):
        exported(trained(base), "onnx", tmp_path / "out")


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["peft", "sentence-transformers", "onnx"])
def test_transformers_does_not_load_another_model_from_a_folder(exports, name):
    _, folder = exports(name)
    from transformers import AutoModelForSequenceClassification

    with warnings.catch_warnings(action="ignore"), pytest.raises((OSError, ValueError)):
        AutoModelForSequenceClassification.from_pretrained(folder)
    assert (folder / SNIPPET).exists()


CASES = [("peft", "lora", "attn-only"), ("peft", "dora", "all-lin-only"),
         ("transformers", "full", None), ("onnx", "lora", "attn")]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return base_folder(tmp_path_factory.mktemp("words") / "base")


@pytest.mark.parametrize(("name", "mode", "layers"), CASES)
def test_other_libraries_give_the_logits_of_every_word(folder, tmp_path, name, mode, layers):
    own = trained(folder, mode, layers, kind=WORDS)
    out = exported(own, name, tmp_path / "out")
    expected = expected_logits(own)
    assert expected.shape == (own.dev.words, len(TAGS))
    assert np.abs(expected[:1] - expected[1:]).max() > 0.01
    assert not expected.any(axis=1).all(), "some words are cut"
    base = own.base if name == "peft" else None
    with mock.patch("bench.export.check.run_fresh", lambda f, t, base=None, **other: answer_here(
        f, t, base=own.base if name == "peft" else None, **other
    )):  # fmt: skip
        answer = check(own, out, expected)
        with pytest.raises(InputError, match=r"logits differ by up to 1 in .* dev words, first in"):
            check(own, out, expected + 1)
    assert answer.logits.shape == expected.shape
    assert answer_here(out, texts_of(own.dev), base=base).labels == [
        TAGS[row.argmax()] for row in expected
    ]
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"]
    if name == "peft":
        adapter = json.loads((out / "adapter_config.json").read_text())
        assert adapter["task_type"] == "TOKEN_CLS"


@pytest.mark.parametrize(("name", "mode", "layers"), CASES[1:])
def test_windows_over_long_texts_are_those_of_the_cell(folder, tmp_path, name, mode, layers):
    own = trained(folder, mode, layers, kind=WORDS)
    cut = expected_logits(own)
    cell = replace(own.job.cell, window_stride=3)
    own = replace(own, job=replace(own.job, cell=cell))
    out = exported(own, name, tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["window_stride"] == 3
    expected = expected_logits(own)
    assert not cut.any(axis=1).all(), "some words are cut"
    assert expected.any(axis=1).sum() > cut.any(axis=1).sum()
    with mock.patch("bench.export.check.run_fresh", lambda f, t, base=None, **other: answer_here(
        f, t, base=own.base if name == "peft" else None, **other
    )):  # fmt: skip
        check(own, out, expected)
        with pytest.raises(InputError, match="logits differ"):
            check(own, out, np.concatenate([cut[:-1], expected[-1:]]))


def test_the_pipeline_of_transformers_is_compared(folder, tmp_path):
    own = trained(folder, "lora", "attn-only", kind=WORDS)
    out = exported(own, "peft", tmp_path / "out")
    expected = expected_logits(own)
    with mock.patch("bench.export.figures.missing_library", lambda form: (
        "not here" if form.name == "onnx" else ""
    )):  # fmt: skip
        figures = measure(own, out, FORMATS["peft"], expected, lambda *_: None)
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
    text = card(own, out, figures, None, format=FORMATS["peft"], compared=None)
    assert f"{entities['text'][1]} of {entities['text'][0]}" in text
    assert f"compared on the first {len(own.dev)} dev texts" in text


@pytest.mark.parametrize(("kind", "name"), [("roberta", "peft"), ("distilbert", "transformers")])
def test_engine_transformers_is_exported_too(encoders, tmp_path, kind, name):
    own = trained_by_library(encoders(kind), "lora", "attn-only", kind=WORDS)
    expected = expected_logits(own)
    out = exported(own, name, tmp_path / "out")
    answer = answer_here(out, texts_of(own.dev), base=own.base if name == "peft" else None)
    np.testing.assert_allclose(answer.logits, expected, atol=1e-4, rtol=0)


def test_sentence_transformers_has_no_place_for_it(folder, tmp_path):
    own = trained(folder, "full", kind=WORDS)
    with pytest.raises(InputError, match="no place for tags of words"):
        exported(own, "sentence-transformers", tmp_path / "out")


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
    rows = np.where(np.eye(5)[tags] == 1, 2.0, 0.0)
    spans = answers.spans(tmp_path, words, rows)
    assert [(one["begin"], one["end"], one["type"]) for one in spans] == [
        (0, 9, "a"), (11, 13, "b"), (21, 23, "a")
    ]  # fmt: skip
    share = np.exp(2) / (np.exp(2) + 4)
    assert all(one["score"] == pytest.approx(share) for one in spans)


def test_spans_of_files_are_predicted(folder, tmp_path, capsys):
    own = trained(folder, "full", kind=WORDS)
    out = exported(own, "transformers", tmp_path / "out")
    text = " ".join(own.dev.text_a[:3])
    (tmp_path / "a.txt").write_text(f"{text}\n\n{own.dev.text_a[3]}\n")
    lists = [{"tokens": text.split(" ")}, {"tokens": []}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lists)))
    (tmp_path / "a.conll").write_text("\n".join(f"{word} O" for word in text.split(" ")))
    rows = {}
    for name in ("a.txt", "a.jsonl", "a.conll"):
        arguments = [str(out), str(tmp_path / name), "--to", str(tmp_path / "out.csv")]
        assert predict.command.main(arguments, standalone_mode=False) == 0
        with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
            rows[name] = list(csv.DictReader(file))
    assert rows["a.conll"] == rows["a.jsonl"]
    for row in rows["a.conll"]:
        assert row["type"] == "film"
        assert text[int(row["begin"]) : int(row["end"])] == row["text"]
        assert 0.3 < float(row["score"]) <= 1
    assert {row["row"] for row in rows["a.txt"]} <= {"1", "3"}
    capsys.readouterr()
    arguments = [str(out), str(tmp_path / "a.jsonl"), "--json"]
    assert predict.command.main(arguments, standalone_mode=False) == 0
    one, other = map(json.loads, capsys.readouterr().out.splitlines())
    assert [str(each["begin"]) for each in one["entities"]] == [
        row["begin"] for row in rows["a.jsonl"]
    ]
    assert other == {"row": 2, "entities": None}

    # words beyond the model's length are read in windows, or counted
    words = " ".join(own.dev.text_a[:7]).split(" ")
    (tmp_path / "long.jsonl").write_text(json.dumps({"tokens": words}))
    begins = {}
    for flags in ((), ("--window-stride", "3"), ("--window-stride", "0")):
        arguments = [str(out), str(tmp_path / "long.jsonl"), "--json", *flags]
        assert predict.command.main(arguments, standalone_mode=False) == 0
        written = capsys.readouterr()
        is_cut = "beyond the model's length" in written.err
        assert is_cut == ("3" not in flags)
        begins[flags] = [each["begin"] for each in json.loads(written.out)["entities"]]
    cut, read, zero = begins.values()
    assert cut == zero
    assert len(read) > len(cut)
    assert max(read) > 4 * own.job.cell.max_length > max(cut, default=0)
    with pytest.raises(InputError, match="can't predict: tokenizer stride set to 90"):
        predict.command.main([*arguments[:3], "--window-stride", "90"], standalone_mode=False)


def test_the_card_says_how_to_call_it_and_train_it(folder, tmp_path):
    own = trained(folder, "full", kind=WORDS)
    out = exported(own, "transformers", tmp_path / "out")
    text = card(own, out, FIGURES, None, format=FORMATS["transformers"], compared=None)
    assert "labels(folder, predictor(folder, logits, tokens)(load(folder), [words]))" in text
    assert 'a tag for each word of a text, among "O", "B-film", "I-film".' in text
    assert f"- Texts are cut after {own.job.cell.max_length} tokens, by predict.py" in text
    cell = replace(own.job.cell, window_stride=3, max_train=None)
    own = replace(own, job=replace(own.job, cell=cell))
    text = card(own, out, FIGURES, None, format=FORMATS["transformers"], compared=None)
    assert "tokens are read by predict.py in windows, of which two share 3 tokens" in text
    assert "train.py trains the same: python train.py TRAIN.jsonl --to DIR" in text
