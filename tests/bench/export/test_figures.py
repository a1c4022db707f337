"""What the forms of an exported model cost to use, and how they score."""

from dataclasses import replace

import numpy as np
import pytest

from bench.common.errors import InputError
from bench.export import exporting as module
from bench.export.check import Answer, run_fresh
from bench.export.exporting import measure
from bench.export.formats import FORMATS, Format
from bench.results.exports import ADAPTER, INT8, MERGED, ONNX
from bench.results.predictions import values_for
from tests.bench.export.small import answer_here, expected_logits, exported, need_libraries, trained

WEIGHTS = {"model.safetensors": 1_500_000, "tokenizer.json": 900, "config.json": 100,
           "model.onnx": 2_000_000, "model-int8.onnx": 500_000}  # fmt: skip


class Answers:
    """In place of the fresh process: logits, negated of int8; weights named `fails` don't load."""

    def __init__(self):
        self.calls, self.logits, self.fails = [], np.zeros((0, 1), np.float32), ""

    def __call__(self, folder, texts, **options):
        self.calls.append({"folder": folder, "texts": texts, **options})
        if options["weights"] == self.fails:
            raise InputError("it does not load")
        logits = -self.logits if options["weights"] == "model-int8.onnx" else self.logits
        return Answer(logits, [], [1.0, 9.0, 2.0], [30.0, 10.0, 20.0], {"onnxruntime": "1.32"})

    def measured(self, cell, folder, name):
        self.logits = expected_logits(cell)
        folder.mkdir()
        FORMATS[name].write(cell, folder)
        return measure(cell, folder, FORMATS[name], self.logits, lambda *_: None)


@pytest.fixture
def answers(monkeypatch):
    def write(_format, _, folder):
        for name, size in WEIGHTS.items():
            (folder / name).write_bytes(b"\0" * size)

    monkeypatch.setattr(Format, "write", write)
    monkeypatch.setattr(module, "missing_library", lambda _: None)
    monkeypatch.setattr(module, "run_fresh", answers := Answers())
    return answers


def test_every_form_is_written_and_run_by_plain_libraries(shallow, tmp_path, monkeypatch):
    """The merged model in this process; another test runs one in a process of its own."""
    need_libraries("onnx")
    cell, seen = trained(shallow), []
    here = {FORMATS["transformers"].snippet: answer_here}
    run = lambda *texts, **how: here.get(how["snippet"], run_fresh)(*texts, **how)  # noqa: E731
    monkeypatch.setattr(module, "run_fresh", run)
    folder = exported(cell, "peft", tmp_path / "model")
    expected = expected_logits(cell)
    figures = measure(cell, folder, FORMATS["peft"], expected, lambda *step: seen.append(step))
    assert [(form.name, form.format) for form in figures.forms] == [
        (ADAPTER, "peft"), (MERGED, "transformers"), (ONNX, "onnx"), (INT8, "onnx"),
    ]  # fmt: skip
    assert seen == [(0, ADAPTER), (1, MERGED), (2, ONNX), (3, INT8)]
    score = float(values_for("accuracy", expected, cell.dev.labels).mean())
    for form in figures.forms:
        assert form.missing == ""
        assert min(form.one_ms, form.batch_ms) > 0
        if form.name != INT8:
            assert (form.score, form.changed) == (pytest.approx(score), 0)
            assert form.largest_difference < 1e-4
    sizes = {form.name: form.size_mb for form in figures.forms}
    weights = sum(p.numel() for p in cell.model.parameters()) * 4e-6
    assert sizes[MERGED] == pytest.approx(weights, rel=0.2)
    assert sizes[ADAPTER] < sizes[MERGED] / 2
    assert sizes[INT8] < sizes[ONNX]
    assert 1e-4 < figures.forms[-1].largest_difference < 0.5
    assert "transformers" in figures.forms[0].libraries
    assert figures.forms[-1].libraries.keys() == {"onnxruntime", "tokenizers"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # the others are removed


@pytest.mark.parametrize(("kind", "metric"), [
    ("classification", "accuracy"), ("regression", "pearson"), ("multi_label", "micro_f1"),
])  # fmt: skip
def test_scores_and_changes_are_those_of_the_answers(kind, metric, base, tmp_path, answers):
    cell = trained(base, "full", kind=kind, pairs=True)
    figures = answers.measured(cell, tmp_path / "model", "transformers")
    merged, exact, int8 = figures.forms
    logits, calls = answers.logits, answers.calls
    own, other = (values_for(metric, each, cell.dev.labels).mean() for each in (logits, -logits))
    assert [form.score for form in figures.forms] == pytest.approx([own, own, other])
    assert figures.int8_loss == pytest.approx(own - other)
    assert (merged.one_ms, merged.batch_ms) == (2.0, 20.0)
    changed = {
        "classification": np.count_nonzero(logits.argmax(1) != (-logits).argmax(1)),
        "regression": None,
        "multi_label": len(cell.dev),  # a logit of 0 is rare
    }
    assert (merged.changed, int8.changed) == (changed[kind] and 0, changed[kind])
    assert (merged.size_mb, exact.size_mb, int8.size_mb) == (1.5, 2.0, 0.5)
    assert (figures.metric, figures.examples) == (metric, len(cell.dev))
    assert [call["weights"] for call in calls] == [None, "model.onnx", "model-int8.onnx"]
    assert calls[0]["folder"] == tmp_path / "model"
    assert calls[1]["folder"] == calls[2]["folder"] != tmp_path / "model"
    assert all(call["timed"] and call["base"] is cell.base for call in calls)
    assert {call["threads"] for call in calls} == {figures.threads}
    assert calls[0]["texts"][0] == (cell.dev.text_a[0], cell.dev.text_b[0])
    refitted = answers.measured(replace(cell, refitted=True), tmp_path / "other", "transformers")
    assert [(form.score, form.one_ms) for form in refitted.forms] == [(None, 2.0)] * 3
    assert refitted.int8_loss is None


def test_forms_that_can_not_be_measured_are_listed(base, tmp_path, answers, monkeypatch):
    conv = answers.measured(trained(base, "head", head="conv"), tmp_path / "conv", "onnx")
    assert conv.form(MERGED) is None
    assert conv.forms[0].missing == "no format of a whole model but ONNX can express it"
    assert conv.form(INT8) is not None
    answers.fails = "model.onnx"
    figures = answers.measured(trained(base), tmp_path / "model", "transformers")
    assert [form.missing for form in figures.forms] == ["", "it does not load", ""]
    with pytest.raises(InputError, match="it does not load"):  # the form that is exported
        answers.measured(trained(base), tmp_path / "onnx", "onnx")
    text = "onnx needs x: pip install x"
    lacks = lambda form: text if form.name == "onnx" else None  # noqa: E731
    monkeypatch.setattr(module, "missing_library", lacks)
    figures = answers.measured(trained(base), tmp_path / "other", "transformers")
    assert [form.missing for form in figures.forms] == ["", text, text]
    assert all(form.one_ms is None and form.score is None for form in figures.forms[1:])
