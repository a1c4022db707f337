"""What the forms of an exported model cost to use, and how they score."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.common.errors import InputError
from bench.export import figures as module
from bench.export.figures import measure
from bench.export.formats import FORMATS, Format
from bench.export.fresh import Answer
from bench.export.trained import Trained
from bench.results.exports import ADAPTER, INT8, MERGED, ONNX, Figures
from bench.results.predictions import values_for
from tests.bench.export.small import base_folder, expected_logits, trained

WEIGHTS = {"model.safetensors": 1_500_000, "tokenizer.json": 900, "config.json": 100,
           "model.onnx": 2_000_000, "model-int8.onnx": 500_000}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_folder(tmp_path_factory.mktemp("base") / "small")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Calls of a stub in place of the fresh process; its int8 answers are the logits negated."""
    made: list[dict[str, Any]] = []

    def run(folder: Path, texts: Any, **options: Any) -> Answer:
        made.append({"folder": folder, "texts": texts, **options})
        logits = run.logits  # type: ignore[attr-defined]
        if options["weights"] == "model-int8.onnx":
            logits = -logits
        return Answer(logits, [], [1.0, 9.0, 2.0], [30.0, 10.0, 20.0], {"onnxruntime": "1.32"})

    def write(_format: Format, _: Trained, folder: Path) -> None:
        for name, size in WEIGHTS.items():
            (folder / name).write_bytes(b"\0" * size)

    monkeypatch.setattr(Format, "write", write)
    monkeypatch.setattr(module, "run_fresh", run)
    monkeypatch.setattr(module, "missing_library", lambda _: None)
    made_run: Any = run
    made_run.logits = np.zeros((0, 1), np.float32)
    return made


def measured(
    cell: Trained, folder: Path, name: str, seen: Callable[[int, str], None] = lambda *_: None
) -> Figures:
    logits = expected_logits(cell)
    if hasattr(module.run_fresh, "logits"):
        module.run_fresh.logits = logits
    folder.mkdir(exist_ok=True)
    return measure(cell, folder, FORMATS[name], logits, seen)


def test_every_form_is_written_and_run_by_plain_libraries(base: Path, tmp_path: Path) -> None:
    for library in ("peft", "onnxruntime", "onnx"):
        pytest.importorskip(library)
    cell = trained(base)
    folder = tmp_path / "model"
    folder.mkdir()
    FORMATS["peft"].write(cell, folder)
    seen: list[tuple[int, str]] = []
    figures = measured(cell, folder, "peft", lambda *step: seen.append(step))
    assert [(form.name, form.format) for form in figures.forms] == [
        (ADAPTER, "peft"), (MERGED, "transformers"), (ONNX, "onnx"), (INT8, "onnx"),
    ]  # fmt: skip
    assert seen == [(0, ADAPTER), (1, MERGED), (2, ONNX), (3, INT8)]
    score = float(values_for("accuracy", expected_logits(cell), cell.dev.labels).mean())
    for form in figures.forms:
        assert form.missing == ""
        assert (form.one_ms or 0) > 0
        assert (form.batch_ms or 0) > 0
        assert form.largest_difference is not None
        if form.name != INT8:
            assert (form.score, form.changed) == (pytest.approx(score), 0)
            assert form.largest_difference < 1e-4
    sizes = {form.name: form.size_mb or 0.0 for form in figures.forms}
    assert sizes[ADAPTER] < sizes[MERGED] / 2
    weights = sum(p.numel() for p in cell.model.parameters()) * 4e-6
    assert sizes[MERGED] == pytest.approx(weights, rel=0.2)
    assert sizes[INT8] < sizes[ONNX]
    assert (figures.forms[-1].largest_difference or 0.0) > 1e-4
    assert "transformers" in figures.forms[0].libraries
    assert "torch" not in figures.forms[-1].libraries
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # the others are removed


def test_scores_and_changed_predictions_are_those_of_the_answers(
    base: Path, tmp_path: Path, calls: list[dict[str, Any]]
) -> None:
    cell = trained(base)
    figures = measured(cell, tmp_path / "model", "transformers")
    merged, _, int8 = figures.forms
    negated = values_for("accuracy", -expected_logits(cell), cell.dev.labels).mean()
    assert (merged.one_ms, merged.batch_ms, merged.changed) == (2.0, 20.0, 0)
    assert int8.score == pytest.approx(negated)
    assert int8.changed == np.count_nonzero(
        expected_logits(cell).argmax(1) != (-expected_logits(cell)).argmax(1)
    )
    assert (merged.size_mb, figures.forms[1].size_mb, int8.size_mb) == (0.0, 2.0, 0.5)
    assert (figures.metric, figures.examples) == ("accuracy", len(cell.dev))
    assert [call["weights"] for call in calls] == [None, "model.onnx", "model-int8.onnx"]
    assert calls[0]["folder"] == tmp_path / "model"
    assert calls[1]["folder"] == calls[2]["folder"] != tmp_path / "model"
    assert all(call["timed"] and call["base"] is cell.base for call in calls)
    assert {call["threads"] for call in calls} == {figures.threads}


@pytest.mark.parametrize("kind", ["regression", "multi_label"])
def test_other_problems_have_their_metric(
    kind: str, base: Path, tmp_path: Path, calls: list[dict[str, Any]]
) -> None:
    cell = trained(base, "full", kind=kind, pairs=True)
    figures = measured(cell, tmp_path / "model", "onnx")
    merged, exact, int8 = figures.forms
    metric = {"regression": "pearson", "multi_label": "micro_f1"}[kind]
    assert figures.metric == metric
    own = values_for(metric, expected_logits(cell), cell.dev.labels).mean()
    assert merged.score == exact.score == pytest.approx(own)
    assert calls[0]["texts"][0] == (cell.dev.text_a[0], cell.dev.text_b[0])  # type: ignore[index]
    if kind == "regression":
        assert int8.changed is None
        assert int8.score == pytest.approx(-own)
    else:
        assert int8.changed == len(cell.dev)  # a logit of 0 is rare


def test_a_refitted_model_has_no_scores(
    base: Path, tmp_path: Path, calls: list[dict[str, Any]]
) -> None:
    cell = replace(trained(base), refitted=True)
    figures = measured(cell, tmp_path / "model", "transformers")
    assert [form.score for form in figures.forms] == [None, None, None]
    assert all(form.one_ms for form in figures.forms)


def test_forms_that_can_not_be_measured_are_listed_with_the_reason(
    base: Path, tmp_path: Path, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    conv = trained(base, "head", head="conv")
    figures = measured(conv, tmp_path / "conv", "onnx")
    assert figures.form(MERGED) is None
    assert figures.forms[0].missing == "no format of a whole model but ONNX can express it"
    assert figures.form(INT8) is not None
    monkeypatch.setattr(
        module, "missing_library",
        lambda form: "onnx needs x: pip install x" if form.name == "onnx" else None,
    )  # fmt: skip
    merged, *others = measured(trained(base), tmp_path / "model", "transformers").forms
    assert merged.missing == ""
    assert {form.missing for form in others} == {"onnx needs x: pip install x"}
    assert all(form.one_ms is None and form.score is None for form in others)


def test_a_form_that_fails_does_not_end_the_others(
    base: Path, tmp_path: Path, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    working = module.run_fresh

    def run(folder: Path, texts: Any, **options: Any) -> Answer:
        if options["weights"] == "model.onnx":
            raise InputError("it does not load")
        return working(folder, texts, **options)

    run.logits = None  # type: ignore[attr-defined]
    cell = trained(base)
    working.logits = expected_logits(cell)  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "run_fresh", run)
    figures = measured(cell, tmp_path / "model", "transformers")
    assert [form.missing for form in figures.forms] == ["", "it does not load", ""]
    with pytest.raises(InputError, match="it does not load"):  # the form that is exported
        measured(cell, tmp_path / "other", "onnx")
