"""Outcomes of dev examples in a file next to runs.csv, in place of the cells' folders."""

import json
import re
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file

from bench.report import figures
from bench.report.render import render
from bench.results import outcomes
from bench.results.outcomes import (
    Outcome,
    outcome_key,
    outcomes_file,
    read_outcomes,
    write_outcomes,
)
from bench.results.predictions import (
    first_of,
    keep_outcomes,
    kept_predictions,
    outcome_of,
    values_from,
)
from bench.results.rebuild import main
from bench.results.rescoring import rescored
from bench.results.store import Store, cell_folder, read_rows
from tests.bench.stored_values import kept_values
from tests.bench.synthetic_rows import as_results, synthetic_rows
from tests.hostile import check_line, damaged, examples

EXAMPLES = 1064
PARTS = {"sst": "accuracy", "quora": "accuracy", "sts": "pearson"}


def predictions(metric, rng):
    """Tensors as a worker keeps them, and their score."""
    labels = np.random.default_rng(1).integers(0, 5, EXAMPLES)
    if metric == "accuracy":
        logits = rng.normal(size=(EXAMPLES, 5)).astype(np.float32)
        logits[np.arange(EXAMPLES), labels] += 1.2
        score = float((logits.argmax(axis=1) == labels).mean())
        return {"logits": logits, "labels": labels}, score
    targets = labels.astype(np.float32)
    logits = (targets + 2 * rng.normal(size=EXAMPLES)).astype(np.float32)
    score = float(np.corrcoef(logits.astype(float), targets.astype(float))[0, 1])
    return {"logits": logits[:, None], "labels": targets}, score


def predictions_of_parts(rng):
    tensors, counted = {}, []
    for part, metric in PARTS.items():
        of, score = predictions(metric, rng)
        tensors |= {f"{part}.{name}": tensor for name, tensor in of.items()}
        counted.append((1 + score) / 2 if part == "sts" else score)
    return tensors, sum(counted) / len(counted)


def fill(runs, metric="accuracy", count=68, **settings):
    """Rows with the predictions of each in its folder."""
    rng, store = np.random.default_rng(0), Store(runs)
    for row in synthetic_rows(count, failures=False, **settings):
        whole = metric == "overall"
        tensors, score = predictions_of_parts(rng) if whole else predictions(metric, rng)
        row |= {"dev_metric": metric, "dev_score": score, "repeat": 1}
        row |= {"dev_ci_low": score - 0.03, "dev_ci_high": score + 0.03}
        store.append(row)
        folder = cell_folder(runs, row.name, *row.row_key)
        folder.mkdir(parents=True)
        save_file(tensors, folder / "predictions.safetensors")
    return read_rows(runs)


def no_note(line):
    raise AssertionError(line)


def all_values(rows, values_of):
    found = (values_of([row]) for row in rows)
    return [None if values is None else values.tolist() for values in found]


@pytest.mark.parametrize(
    ("metric", "task", "most"),
    [
        ("accuracy", "movies", 30_000),
        ("pearson", "movies-rating", 90_000),
        ("overall", "multitask", 140_000),
    ],
)
def test_values_are_the_same_to_the_last_bit_and_small(tmp_path, metric, task, most):
    runs = tmp_path / "runs.csv"
    rows = fill(runs, metric, count=16, task=task)
    before = all_values(rows, kept_values(runs, no_note))
    assert None not in before
    assert keep_outcomes(runs, rows) == 16
    assert outcomes_file(runs).stat().st_size < most
    shutil.rmtree(tmp_path / "runs")
    assert all_values(rows, kept_values(runs, no_note)) == before


def test_a_report_without_folders_says_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "to_svg", lambda figure, stem: f'<svg id="{stem}"></svg>')
    runs = tmp_path / "runs.csv"
    rows = fill(runs, count=4)

    def pages():
        results = as_results(rows, ["runs.csv"], predictions_of=kept_predictions(runs, no_note))
        render(results, tmp_path / "out")
        return [
            re.split(before, (tmp_path / "out" / name).read_text("utf-8"))
            for name, before in (("report.md", "\n## "), ("index.html", r"<(?:section|details)\b"))
        ]

    with_folders = pages()
    keep_outcomes(runs, rows)
    shutil.rmtree(tmp_path / "runs")
    for one, other in zip(pages(), with_folders, strict=True):
        assert [part for part in one[1:] if part not in other] == [
            part for part in one if "calibration, since the logits" in part
        ]
    assert len(pages()[1]) == len(with_folders[1]) - 1, "calibration takes logits"
    paired = "Scores are compared example by example: the predictions of all cells are known."
    unpaired = "the predictions of the cells are not known, so differences have wider intervals."
    assert all(paired in "".join(page) for page in with_folders)
    outcomes_file(runs).unlink()
    for page in map("".join, pages()):
        assert paired not in page
        assert unpaired in page


def test_a_cells_folder_counts_before_the_file_if_it_fits(tmp_path):
    runs = tmp_path / "runs.csv"
    [row] = fill(runs, count=1)
    keep_outcomes(runs, [row])
    of_file = kept_values(runs, no_note)([row])
    assert of_file is not None
    [path] = (tmp_path / "runs").glob("*/predictions.safetensors")
    tensors = load_file(path)
    right, wrong = int(of_file.argmax()), int(of_file.argmin())
    swapped = tensors["logits"].copy()
    swapped[right] *= -1
    swapped[wrong, tensors["labels"][wrong]] += 100
    save_file(tensors | {"logits": swapped}, path)
    values = kept_values(runs, no_note)([row])
    assert values is not None
    assert (values[right], values[wrong]) == (0.0, 1.0)
    save_file(tensors | {"logits": -tensors["logits"]}, path)  # another score than the row's
    assert np.array_equal(kept_values(runs, no_note)([row]), of_file)
    path.write_bytes(b"torn")
    assert np.array_equal(kept_values(runs, no_note)([row]), of_file)


def test_rows_of_two_files_with_one_key_have_each_its_own_predictions(tmp_path):
    one, two = tmp_path / "a.csv", tmp_path / "b.csv"
    [row], [other] = fill(one, count=1), fill(two, count=1)
    [path] = (tmp_path / "b").glob("*/predictions.safetensors")
    tensors = load_file(path)
    logits = -tensors["logits"]
    save_file(tensors | {"logits": logits}, path)
    score = float((logits.argmax(axis=1) == tensors["labels"]).mean())
    other |= {"code_version": "0.2.0", "dev_score": score}
    assert row.row_key == other.row_key
    values_of = values_from(first_of([kept_predictions(runs, no_note) for runs in (one, two)]))
    for each in (row, other):
        values = values_of([each])
        assert values is not None
        assert values.mean() == pytest.approx(each["dev_score"])


def rebuilt(runs):
    """The numbers of a rebuild, and its notes."""
    done = CliRunner().invoke(main, ["--runs", str(runs), "--json"], standalone_mode=False)
    assert done.exception is None, done.exception
    return json.loads(done.stdout), done.stderr


def test_no_file_is_written_that_would_not_be_read(tmp_path, monkeypatch):
    runs = tmp_path / "runs.csv"
    rows = fill(runs, count=8)
    keep_outcomes(runs, rows[:2])
    before = outcomes_file(runs).read_bytes()
    with monkeypatch.context() as limited:
        limited.setattr(outcomes, "_LARGEST", len(before) + 100)
        counts, note = rebuilt(runs)
    assert note.startswith(f"note: {outcomes_file(runs)}: is left as it is: it would have ")
    assert note.count("\n") == 1
    assert counts == {"kept": 8, "from_folders": 0, "left_out": 0}
    assert outcomes_file(runs).read_bytes() == before
    outcomes_file(runs).write_bytes(b"not mine")
    counts, note = rebuilt(runs)
    assert "is left as it is: it can't be read" in note
    assert counts["left_out"] == 0, "no row is"
    assert outcomes_file(runs).read_bytes() == b"not mine"


def test_rebuild_keeps_outcomes_whose_folders_are_gone(tmp_path):
    runs = tmp_path / "runs.csv"
    rows = fill(runs, count=3)
    assert rebuilt(runs)[0]["outcomes"] == 3
    first = outcomes_file(runs).read_bytes()
    for folder in sorted((tmp_path / "runs").iterdir())[:2]:
        shutil.rmtree(folder)
    assert rebuilt(runs)[0]["outcomes"] == 1
    assert outcomes_file(runs).read_bytes() == first
    shutil.rmtree(tmp_path / "runs")
    assert "outcomes" not in rebuilt(runs)[0]
    assert None not in all_values(rows, kept_values(runs, no_note))


@pytest.mark.parametrize(
    "changes",
    [{"learning_rate_source": "candidate"}, {"status": "invalid"}, {"dev_score": 0.123}],
    ids=["a try of a search", "failed", "of another score"],
)
def test_what_is_not_compared_has_no_outcomes(tmp_path, changes):
    runs = tmp_path / "runs.csv"
    rows = fill(runs, count=2)
    rows[0] |= changes
    assert keep_outcomes(runs, rows) == 1


def without_labels(tensors):
    return {name: of for name, of in tensors.items() if not name.startswith("labels")}


def labels_in_another_order(tensors):
    labels = {name: of[::-1].copy() for name, of in tensors.items() if name.startswith("labels")}
    return tensors | labels


HOSTILE: dict[str, Callable[[dict[str, Any], str], bytes]] = {
    "no metadata": lambda tensors, _: save(tensors),
    "other sizes": lambda tensors, _: save(tensors, {"examples": json.dumps({"x": 10**30})}),
    "two axes": lambda tensors, sizes: save(
        {name: of[None] for name, of in tensors.items()}, {"examples": sizes}
    ),
    "other labels": lambda tensors, sizes: save(
        labels_in_another_order(tensors), {"examples": sizes}
    ),
    "no labels": lambda tensors, sizes: save(without_labels(tensors), {"examples": sizes}),
}
"""What no damage to bytes brings about."""


@pytest.fixture(scope="module", params=["pearson", "accuracy"])
def kept(request, tmp_path_factory):
    """Rows whose outcomes are in a file alone, and its content."""
    runs, metric = tmp_path_factory.mktemp("kept") / "runs.csv", request.param
    rows = fill(runs, metric, count=4, task="movies" if metric == "accuracy" else "movies-rating")
    keep_outcomes(runs, rows)
    shutil.rmtree(runs.with_suffix(""))
    return runs, rows, outcomes_file(runs).read_bytes()


@pytest.mark.parametrize("name", [*HOSTILE, "a folder"])
def test_a_hostile_file_is_one_note(kept, name):
    runs, rows, content = kept
    path = outcomes_file(runs)
    path.write_bytes(content)
    if name in HOSTILE:
        with safe_open(path, framework="numpy") as file:
            sizes = file.metadata()["examples"]
        path.write_bytes(HOSTILE[name](load_file(path), sizes))
    else:
        path.unlink()
        path.mkdir()
    notes: list[str] = []
    assert all_values(rows, kept_values(runs, notes.append)) == [None] * 4
    if path.is_dir():
        path.rmdir()
    [note] = notes
    check_line(note, path)


@examples(80)
@given(data=st.data())
def test_a_damaged_file_is_one_note_or_gives_the_scores_of_its_rows(kept, data):
    runs, rows, content = kept
    path = outcomes_file(runs)
    path.write_bytes(data.draw(damaged(content)))
    notes: list[str] = []
    for row, values in zip(rows, all_values(rows, kept_values(runs, notes.append)), strict=True):
        assert values is None or np.mean(values) == pytest.approx(row.dev_score, abs=1e-6)
    assert len(notes) <= 2
    for note in notes:
        check_line(note, runs.parent)


def test_predictions_of_other_examples_are_not_compared(tmp_path):
    """Two cells of the same data have the same labels, in the same order."""
    runs = tmp_path / "runs.csv"
    rows = fill(runs, count=3)
    name = rows[1].name
    path = cell_folder(runs, name, *rows[1].row_key) / "predictions.safetensors"
    order = np.random.default_rng(3).permutation(EXAMPLES)
    save_file({name: tensor[order] for name, tensor in load_file(path).items()}, path)
    for _ in range(2):
        notes: list[str] = []
        found = all_values(rows, kept_values(runs, notes.append))
        assert [values is None for values in found] == [False, True, False]
        assert len(notes) == 1
        assert "other examples" in notes[0]
        keep_outcomes(runs, rows)
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)


@pytest.mark.parametrize("kind", ["labels", "numbers", "many classes"])
def test_every_kind_of_prediction_is_stored_as_it_is(tmp_path, kind):
    rng, number = np.random.default_rng(0), 300
    if kind == "labels":
        labels = (rng.random((number, 11)) < 0.3).astype(np.int8)
        outcome = outcome_of(rng.normal(size=(number, 11)), labels, None)
    elif kind == "numbers":
        outcome = outcome_of(rng.normal(size=(number, 1)), rng.normal(size=number), (5.0, 2.0))
    else:
        labels = rng.integers(0, 300, number)
        outcome = outcome_of(rng.normal(size=(number, 300)), labels, None)
    path = tmp_path / "one.safetensors"
    write_outcomes(path, {"a/dev": outcome})
    back = read_outcomes(path)["a/dev"]
    assert np.array_equal(back.predicted, outcome.predicted)
    assert np.array_equal(back.labels, outcome.labels)
    assert back.logits is None
    assert (back.has_classes, back.has_numbers) == (outcome.has_classes, outcome.has_numbers)
    assert back.in_unit == outcome.in_unit


def test_bits_of_older_files_give_the_accuracy_alone(tmp_path):
    runs = tmp_path / "runs.csv"
    [row] = fill(runs, count=1)
    values = kept_values(runs, no_note)([row])
    shutil.rmtree(tmp_path / "runs")
    old = Outcome(values > 0, None, "0" * 16)
    write_outcomes(outcomes_file(runs), {outcome_key(row, ""): old})
    assert np.array_equal(kept_values(runs, no_note)([row]), values)
    notes: list[str] = []
    [other] = rescored([row], "macro_f1", kept_predictions(runs, no_note), {}, notes.append)
    assert other.dev_score is None
    assert len(notes) == 1
