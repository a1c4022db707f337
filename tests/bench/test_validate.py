"""`bench.validate`: results as a grid leaves them are valid, one changed digit is not."""

import json
import random
import re
import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from bench.common.command import BAD_INPUT
from bench.plan.columns import NAMES
from bench.results.origins import folder_of
from bench.results.predictions import keep_outcomes
from bench.results.row import keep_row
from bench.results.rowfile import encode, read_rows, record
from bench.results.submission import SUMS, Submission, write_sums
from bench.validate import main
from tests.bench.grids import GridRuns
from tests.bench.synthetic_rows import synthetic_rows, write_rows


@pytest.fixture(scope="module")
def submitted(tmp_path_factory, tiny_checkpoint):
    place = GridRuns(tmp_path_factory.mktemp("submitted"), tiny_checkpoint, workers_here=True)
    place.finish("--select", "mode=full,head amp=off")
    assert keep_outcomes(place.csv, place.rows()) == 2
    return place.folder


@pytest.fixture
def copy(submitted, tmp_path):
    return shutil.copytree(submitted, tmp_path / "copy")


def validate(*words):
    words = list(map(str, words))
    done = CliRunner().invoke(main, words, catch_exceptions=False, standalone_mode=False)
    return done.return_value, done.stdout


@pytest.mark.parametrize("name", [
    "runs.csv", "runs.outcomes.safetensors", "row.json", "cell.json", "result.json", "steps.csv",
    "panel.csv", "epochs.csv", "machine.json", "phases.csv", "predictions.safetensors", SUMS,
])  # fmt: skip
def test_one_changed_digit_is_caught_and_its_file_is_named(copy, name):
    path = next(iter(sorted(copy.rglob(name))))
    content, chance = path.read_bytes(), random.Random(name)  # noqa: S311
    numbers = list(re.finditer(rb"(?<!schema\": )(?<![\d.])\d+", content))
    for number in chance.sample(numbers, min(12, len(numbers))):
        at = number.start()
        digit = b"%d" % ((int(content[at : at + 1]) + 3) % 10)
        path.write_bytes(content[:at] + digit + content[at + 1 :])
        problems = Submission.check(copy).problems
        around = content[max(0, at - 40) : at + 20]
        assert any(name.removesuffix(".csv") in each for each in problems), (around, problems)
    path.write_bytes(content)
    assert Submission.check(copy).problems == []


def changed(copy, **values):
    """The submission with another row as its last, in runs.csv and row.json alike."""
    path = copy / "runs.csv"
    *others, row = read_rows(path)
    row = replace(row, **values)
    keep_row(folder_of(path, row), row)
    write_rows(path, [*others, row])
    return row


@pytest.mark.parametrize(("columns", "others"), [
    (("dev_score", "dev_ci_low", "majority_score"), "predictions.safetensors"),
    (("ms_per_1k_tokens", "peak_rss_mib", "learning_rate_head"), "the other files in "),
])  # fmt: skip
def test_a_row_that_its_own_files_contradict_is_caught(copy, columns, others):
    """Though it is the same twice."""
    [*_, row] = read_rows(copy / "runs.csv")
    changed(copy, **{column: row[column] * 1.01 for column in columns})
    problems = Submission.check(copy).problems
    for column in columns:
        assert any(f"{column} is " in text and others in text for text in problems), problems


def test_files_and_conditions_that_are_missing_and_rows_that_are_there_twice(copy):
    [first, second] = read_rows(copy / "runs.csv")
    folder = folder_of(copy / "runs.csv", first)
    before = (folder / SUMS).read_text()
    (folder / ".row.json.tmp").write_text("{")  # which another process is writing
    write_sums(folder)
    assert (folder / SUMS).read_text() == before
    changed(copy, finished_at=None, started_at=None)
    line = "conditions are incomplete: no finished_at, started_at"
    assert any(line in problem for problem in Submission.check(copy).problems)
    predictions = folder / "predictions.safetensors"
    predictions.unlink()
    problems = Submission.check(copy).problems
    assert f"{predictions}: is not the file of the digest in {folder / SUMS}" in problems
    assert any("there are no predictions" in problem for problem in problems)
    shutil.rmtree(folder)
    (copy / "runs.csv").write_bytes(record(NAMES) + encode(first) + encode(first))
    problems = Submission.check(copy).problems
    assert sum("is there twice" in problem for problem in problems) == 2
    assert f"{folder_of(copy / 'runs.csv', second)}: runs.csv lacks its row" in problems


def test_verdicts_are_a_line_or_data(copy, tmp_path):
    assert validate(copy) == (0, f"{copy}: 2 rows, valid\n")
    (tmp_path / "empty").mkdir()
    for empty in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(BAD_INPUT, match=f"{empty.name}: has no file of results, such as runs"):
            validate(empty)
    expected = {"folder": str(copy), "valid": True, "rows": 2, "problems": [], "not_checked": {}}
    code, out = validate(copy, "--json")
    assert (code, json.loads(out)) == (0, [expected])
    (copy / "runs.outcomes.safetensors").write_bytes(b"damaged")
    code, out = validate(copy, "--json")
    assert (code, json.loads(out)[0]["valid"], len(json.loads(out)[0]["problems"])) == (1, False, 1)


def test_labels_of_other_examples_are_caught_and_what_cannot_be_checked_is_said(copy):
    [first, _] = read_rows(copy / "runs.csv")
    folder = folder_of(copy / "runs.csv", first)
    (folder / SUMS).unlink()
    path = folder / "predictions.safetensors"
    tensors = {name: tensor[::-1].copy() for name, tensor in load_file(path).items()}
    save_file(tensors, path)  # the same score
    problems = Submission.check(copy).problems
    assert any("has other labels of movies than" in problem for problem in problems), problems

    shutil.rmtree(copy / "runs")
    code, out = validate(copy)
    assert code == 0
    assert "not checked in 2 rows: no folder of the cell: times and memory" in out
    (copy / "runs.outcomes.safetensors").unlink()
    assert "not checked in 2 rows: no predictions: scores" in validate(copy)[1]
    path = copy / "runs.csv"
    path.write_bytes(path.read_bytes().replace(first.machine.encode(), b"Cray, 8 cores, 1 GiB"))
    code, out = validate(copy)
    assert code == 1
    assert re.search(r"conditions_id is \w+ by that of its conditions, and ", out)


LAYOUT = {
    "run_info": {
        "experiment_name": str, "peft_branch": str, "created_at": str, "total_time": float,
        "train_config": {"model_id": str},
    },
    "train_info": {
        "status": "success", "accelerator_memory_reserved_avg": int,
        "accelerator_memory_max": int, "accelerator_memory_reserved_99th": int,
        "train_time": float, "file_size": int,
        "metrics": {"test accuracy": float, "train loss": float, "train samples": int,
                    "train total tokens": int},
    },
    "meta_info": {
        "package_info": {"torch-version": str, "peft-version": object, "datasets-version": object,
                         "transformers-version": object, "bitsandbytes-version": object},
    },
}  # fmt: skip
"""What `preprocess` and `load_df` in PEFT's method_comparison/processing.py read, and as what."""


def has_layout(value, layout):
    value = value[-1] if isinstance(value, list) else value
    if isinstance(layout, dict):
        return all(has_layout(value[name], of) for name, of in layout.items())
    return isinstance(value, layout) if isinstance(layout, type) else value == layout


def folder(path, machine, **settings):
    path.mkdir()
    rows = [
        replace(row, machine=machine, conditions_id=f"c0ffee{len(machine)}",
                cell_id=row.cell.cell_id)
        for row in synthetic_rows(8, failures=False, **settings)
    ]  # fmt: skip
    write_rows(path / "runs.csv", rows)
    return rows


def test_valid_folders_are_shown_side_by_side_and_written_in_pefts_layout(tmp_path):
    first = folder(tmp_path / "a", "Xeon, 2 cores, 16 GiB")
    folder(tmp_path / "b", "EPYC, 4 cores, 8 GiB", task="nyt")
    folder(tmp_path / "c", "Cray <b>")
    broken = tmp_path / "c" / "runs.csv"
    broken.write_bytes(broken.read_bytes().replace(first[3].cell_id.encode(), b"0" * 12))
    folders = [tmp_path / name for name in "abc"]
    code, out = validate(*folders, "--reports", tmp_path / "reports", "--peft", tmp_path / "peft")
    assert code == 1
    assert f"{folders[0]}: 8 rows, valid\n" in out
    assert f"{folders[2]}: 8 rows, not valid, 1 problem\n" in out

    text = (tmp_path / "reports" / "results.md").read_text(encoding="utf-8")
    assert "16 settings on 2 machines, of 1 model on 2 data sets." in text
    assert "c is not valid and left out." in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| full, bf16")]
    assert {(row[1], row[4]) for row in rows} == {
        ("Xeon, 2 cores, 16 GiB", "movies"), ("EPYC, 4 cores, 8 GiB", "nyt"),
    }  # fmt: skip
    assert {float(row[9]) for row in rows} == {0.83}  # the cost of bf16, over that of fp32 there
    assert "Cray" not in text
    assert "Xeon" in (tmp_path / "reports" / "results.html").read_text(encoding="utf-8")

    files = sorted((tmp_path / "peft").rglob("*.json"))
    folders = {str(path.parent.relative_to(tmp_path / "peft")) for path in files}
    assert (folders, len(files)) == ({"movies/results", "nyt/results"}, 16)
    written = [json.loads(path.read_text()) for path in files]
    assert all(has_layout(one, LAYOUT) for one in written)
    kinds = {(one["run_info"]["peft_config"] or {}).get("peft_type") for one in written}
    assert kinds == {None, "LORA"}
