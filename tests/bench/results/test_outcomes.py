"""Outcomes of dev examples in a file next to runs.csv, in place of the cells' folders."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file

from bench.report.render import report
from bench.results import outcomes
from bench.results.outcomes import Outcome, digest_of, outcomes_file, read_outcomes, write_outcomes
from bench.results.predictions import keep_outcomes, kept_predictions, outcome_of, values_from
from bench.results.rescoring import rescored
from bench.results.store import Store, cell_folder, read_rows
from minbert.data.words import padded
from tests.bench.results.test_merge import rebuild
from tests.bench.synthetic_rows import as_results, synthetic_rows
from tests.hostile import check_line, damaged, examples

EXAMPLES = 1064
PARTS = {"sst": "accuracy", "quora": "accuracy", "sts": "pearson"}


def kept_values(runs, note):
    return values_from(kept_predictions(runs, note))


def made(metric, rng):
    if metric == "overall":
        parts = {part: made(of_part, rng) for part, of_part in PARTS.items()}
        tensors = {f"{p}.{name}": of for p, (part, _) in parts.items() for name, of in part.items()}
        scores = {part: score for part, (_, score) in parts.items()}
        return tensors, (scores["sst"] + scores["quora"] + (1 + scores["sts"]) / 2) / 3
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


def fill(runs, metric="accuracy", count=68, **settings):
    rng, store = np.random.default_rng(0), Store(runs)
    for row in synthetic_rows(count, failures=False, **settings):
        tensors, score = made(metric, rng)
        row |= {"dev_metric": metric, "dev_score": score, "repeat": 1}
        row |= {"dev_ci_low": score - 0.03, "dev_ci_high": score + 0.03}
        store.append(row)
        folder = cell_folder(runs, row.name, *row.row_key)
        folder.mkdir(parents=True)
        save_file(tensors, folder / "predictions.safetensors")
    return read_rows(runs)


def all_values(rows, values_of):
    found = (values_of([row]) for row in rows)
    return [None if values is None else values.tolist() for values in found]


@pytest.mark.parametrize(("metric", "task", "most"), [
    ("accuracy", "movies", 30_000), ("pearson", "movies-rating", 90_000),
    ("overall", "multitask", 140_000),
])  # fmt: skip
def test_values_are_the_same_to_the_last_bit_and_small(tmp_path, metric, task, most):
    runs = tmp_path / "runs.csv"
    rows = fill(runs, metric, count=16, task=task)
    before = all_values(rows, kept_values(runs, pytest.fail))
    assert None not in before
    assert keep_outcomes(runs, rows) == 16
    assert outcomes_file(runs).stat().st_size < most
    shutil.rmtree(tmp_path / "runs")
    assert all_values(rows, kept_values(runs, pytest.fail)) == before


def test_a_report_without_folders_compares_example_by_example(tmp_path, undrawn):
    runs = tmp_path / "runs.csv"
    rows = fill(runs, count=4)
    keep_outcomes(runs, rows)
    shutil.rmtree(tmp_path / "runs")
    for known in ("the predictions of all cells are", "the predictions of the cells are not"):
        results = as_results(rows, predictions_of=kept_predictions(runs, pytest.fail))
        sections = {section.anchor: section for section in report(results)["sections"]}
        assert f"{known} known" in sections["tradeoff"].lines[0]
        outcomes_file(runs).unlink(missing_ok=True)


def test_rebuild_keeps_outcomes_and_writes_no_file_that_is_not_read(tmp_path, monkeypatch):
    runs = tmp_path / "runs.csv"
    path, rows = outcomes_file(runs), fill(runs, count=3)
    for other in (
        {"learning_rate_source": "candidate"}, {"status": "invalid"}, {"dev_score": 0.123},
    ):  # fmt: skip
        assert keep_outcomes(runs, [rows[0], rows[1] | other]) == 1, "it is not compared"
    path.unlink()
    keep_outcomes(runs, rows[:1])
    before = path.read_bytes()
    with monkeypatch.context() as limited:
        limited.setattr(outcomes, "LARGEST", len(before) + 100)
        counts, note = rebuild(runs)
    assert note.startswith(f"note: {path}: is left as it is: it would have ")
    assert note.count("\n") == 1
    assert counts == {"kept": 3, "from_folders": 0, "left_out": 0}
    assert path.read_bytes() == before
    path.write_bytes(b"not mine")
    assert "is left as it is: it can't be read" in rebuild(runs)[1]
    assert path.read_bytes() == b"not mine"
    path.unlink()
    assert rebuild(runs)[0]["outcomes"] == 3
    first = path.read_bytes()
    for folder in sorted((tmp_path / "runs").iterdir())[:2]:
        shutil.rmtree(folder)
    assert rebuild(runs)[0]["outcomes"] == 1
    assert path.read_bytes() == first
    shutil.rmtree(tmp_path / "runs")
    assert "outcomes" not in rebuild(runs)[0]
    assert None not in all_values(rows, kept_values(runs, pytest.fail))


def without_labels(tensors):
    return {name: of for name, of in tensors.items() if not name.startswith("labels")}


HOSTILE = {
    "no metadata": lambda tensors, _: save(tensors),
    "other sizes": lambda tensors, _: save(tensors, {"examples": '{"x": 1' + "0" * 30 + "}"}),
    "two axes": lambda tensors, notes: save({n: of[None] for n, of in tensors.items()}, notes),
    "other labels": lambda tensors, notes: save(
        {n: of[::-1].copy() for n, of in tensors.items()} | without_labels(tensors), notes
    ),
    "no labels": lambda tensors, notes: save(without_labels(tensors), notes),
    "a folder": None,
}  # what no damage to bytes brings about


@pytest.fixture(scope="module", params=["pearson", "accuracy"])
def kept(request, tmp_path_factory):
    """Rows whose outcomes are in a file alone, and its content."""
    runs, metric = tmp_path_factory.mktemp("kept") / "runs.csv", request.param
    rows = fill(runs, metric, count=4, task="movies" if metric == "accuracy" else "movies-rating")
    keep_outcomes(runs, rows)
    shutil.rmtree(runs.with_suffix(""))
    return runs, rows, outcomes_file(runs).read_bytes()


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_one_note(kept, change):
    runs, rows, content = kept
    path = outcomes_file(runs)
    path.write_bytes(content)
    with safe_open(path, framework="numpy") as file:
        of_file = load_file(path), file.metadata()
    path.unlink()
    path.write_bytes(change(*of_file)) if change else path.mkdir()
    notes = []
    assert all_values(rows, kept_values(runs, notes.append)) == [None] * 4
    if path.is_dir():
        path.rmdir()
    [note] = notes
    check_line(note, path)


@examples(80)
@given(data=st.data())
def test_a_damaged_file_is_one_note_or_gives_the_scores_of_its_rows(kept, data):
    runs, rows, content = kept
    outcomes_file(runs).write_bytes(data.draw(damaged(content)))
    notes = []
    for row, values in zip(rows, all_values(rows, kept_values(runs, notes.append)), strict=True):
        assert values is None or np.mean(values) == pytest.approx(row.dev_score, abs=1e-6)
    assert len(notes) <= 2
    for note in notes:
        check_line(note, runs.parent)


def test_predictions_of_other_examples_are_not_compared(tmp_path):
    runs = tmp_path / "runs.csv"
    rows = fill(runs, count=3)
    path = cell_folder(runs, rows[1].name, *rows[1].row_key) / "predictions.safetensors"
    order = np.random.default_rng(3).permutation(EXAMPLES)
    save_file({name: tensor[order] for name, tensor in load_file(path).items()}, path)
    for _ in range(2):
        notes = []
        found = all_values(rows, kept_values(runs, notes.append))
        assert [values is None for values in found] == [False, True, False]
        assert [("other examples" in note) for note in notes] == [True]
        keep_outcomes(runs, rows)
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)


@pytest.mark.parametrize("kind", ["labels", "numbers", "many classes"])
def test_every_kind_of_prediction_is_stored_as_it_is(tmp_path, kind):
    rng = np.random.default_rng(0)
    columns, labels, unit = {
        "labels": (11, (rng.random((300, 11)) < 0.3).astype(np.int8), None),
        "numbers": (1, rng.normal(size=300), (5.0, 2.0)),
        "many classes": (300, rng.integers(0, 300, 300), None),
    }[kind]
    outcome, path = outcome_of(rng.normal(size=(300, columns)), labels, unit), tmp_path / "one"
    write_outcomes(path, {"a/dev": outcome})
    back = read_outcomes(path)["a/dev"]
    assert np.array_equal(back.predicted, outcome.predicted)
    assert np.array_equal(back.labels, outcome.labels)
    assert back.logits is None
    assert (back.problem, back.in_unit) == (outcome.problem, outcome.in_unit)
    labels = np.array([0, 1, 2])
    others = labels[::-1], labels[:2], labels.astype(np.int32), labels.view(np.float64)
    assert len({digest_of(one) for one in (labels, *others)}) == 5, "by type and order of all"
    assert digest_of(labels) == "60f33f9b4de553f3", "files have it"


def test_documents_are_stored_once_and_checked(tmp_path):
    tags = padded([[1, 2], [0], [1]])
    outcome = Outcome(tags, tags, digest_of(tags), documents=np.array([0, 1, 1], dtype=np.int32))
    path, name = tmp_path / "one.safetensors", f"a/dev/{outcome.examples}"
    write_outcomes(path, {"a/dev": outcome, "b/dev": outcome})
    with safe_open(path, framework="numpy") as file:
        tensors, notes = load_file(path), file.metadata()
    assert sum(each.startswith("documents/") for each in tensors) == 1
    assert tensors[name].tolist() == [1, 2, 0, 1], "of words alone"
    assert tensors[name].dtype == np.int8
    tensors[name] = tags  # as older files have them
    save_file(tensors, path, metadata=notes)
    for one in read_outcomes(path).values():
        assert one.documents.tolist() == [0, 1, 1]
        assert one.predicted.tolist() == tags.tolist()
        assert one.predicted.dtype == tags.dtype
    documents = f"documents/{outcome.examples}"
    for changed, values, reason in (
        (name, np.array([1, 2, 0], np.int8), "tags of other words"),
        (name, np.array([1, 2, 0, -1], np.int8), "tags of other words"),
        (documents, np.array([0, 1], np.int32), "documents of other examples"),
        (documents, np.array([0, 1, -1], np.int32), "documents of other examples"),
        (documents, np.array([0, 1, 1], np.float32), "documents of other examples"),
    ):
        save_file(tensors | {changed: values}, path, metadata=notes)
        with pytest.raises(ValueError, match=reason):
            read_outcomes(path)


def test_bits_of_older_files_give_the_accuracy_alone(tmp_path):
    runs = tmp_path / "runs.csv"
    [row] = fill(runs, count=1)
    values = kept_values(runs, pytest.fail)([row])
    shutil.rmtree(tmp_path / "runs")
    old = Outcome(values > 0, None, "0" * 16)
    write_outcomes(outcomes_file(runs), {outcomes.outcome_key(row, ""): old})
    assert np.array_equal(kept_values(runs, pytest.fail)([row]), values)
    notes = []
    [other] = rescored([row], "macro_f1", kept_predictions(runs, pytest.fail), {}, notes.append)
    assert other.dev_score is None
    assert len(notes) == 1
