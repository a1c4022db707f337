"""What exported models cost to use, next to runs.csv."""

import json
from pathlib import Path

from bench.results.exports import (
    INT8,
    MERGED,
    ONNX,
    Figures,
    Form,
    keep_figures,
    latest_figures,
    read_exports,
)
from bench.results.rescoring import read_results

FORMS = (
    Form(name=MERGED, format="transformers", size_mb=91.2, one_ms=4.25, batch_ms=60.0, score=0.61,
         changed=0, largest_difference=1e-6, libraries={"transformers": "5.24"}),
    Form(name=ONNX, format="onnx", missing="--format onnx needs onnx: pip install onnx"),
)  # fmt: skip
FIGURES = Figures(
    forms=FORMS, metric="accuracy", examples=1000, machine="Xeon", threads=2,
    at="2026-11-27T10:00:00+00:00",
)  # fmt: skip


def test_figures_of_a_cell_replace_its_earlier_ones_and_no_others(tmp_path: Path) -> None:
    runs = tmp_path / "runs.csv"
    runs.touch()
    assert read_exports(runs) == {}
    other = FIGURES.model_copy(update={"forms": FORMS[:1]})
    for cell_id, figures in (("a", other), ("b", other), ("a", FIGURES)):
        keep_figures(runs, cell_id, figures)
    assert read_exports(runs) == read_results([runs], None).exports == {"a": FIGURES, "b": other}
    text = (tmp_path / "runs.exports.json").read_text(encoding="utf-8")
    assert json.loads(text)["a"]["forms"][0]["one_ms"] == 4.25
    forms = [FIGURES.form(name) for name in (MERGED, ONNX, INT8)]
    assert forms == [FORMS[0], None, None], "only those that were measured"


def test_of_several_files_and_cells_the_latest_count(tmp_path: Path) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    newer = FIGURES.model_copy(update={"at": "2026-11-28T10:00:00+00:00", "threads": 8})
    keep_figures(one, "a", newer)
    keep_figures(two, "a", FIGURES)
    keep_figures(two, "b", FIGURES)
    assert read_exports(one, two) == read_exports(two, one) == {"a": newer, "b": FIGURES}
    assert latest_figures(read_exports(one, two), ["b", "a", "c"]) == newer
    assert latest_figures({}, ["a"]) is None
