"""`bench.validate`: results as a grid leaves them are valid, one changed digit is not."""

import json
import random
import re
import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner

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
    """Results of a grid, with outcomes."""
    place = GridRuns(tmp_path_factory.mktemp("submitted"), tiny_checkpoint, workers_here=True)
    done = place.run("--select", "mode=full,head amp=off")
    assert done.returncode == 0, done.stderr
    assert keep_outcomes(place.csv, place.rows()) == 2
    return place.folder


@pytest.fixture
def copy(submitted, tmp_path):
    return shutil.copytree(submitted, tmp_path / "copy")


def validate(*words):
    words = list(map(str, words))
    done = CliRunner().invoke(main, words, catch_exceptions=False, standalone_mode=False)
    return done.return_value, done.stdout


def test_what_a_grid_leaves_is_valid_and_all_of_it_is_checked(submitted):
    assert validate(submitted) == (0, f"{submitted}: 2 rows, valid\n")


FILES = (
    "runs.csv", "runs.outcomes.safetensors", "row.json", "cell.json", "result.json", "steps.csv",
    "panel.csv", "epochs.csv", "machine.json", "phases.csv", "predictions.safetensors", SUMS,
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
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
        assert problems, around
        named = name if name != "runs.csv" else "runs"
        assert any(named in problem for problem in problems), (around, problems)
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


@pytest.mark.parametrize(
    ("column", "others"),
    [("dev_score", "predictions.safetensors"), ("ms_per_1k_tokens", "the other files in "),
     ("peak_rss_mib", "the other files in "), ("dev_ci_low", "predictions.safetensors"),
     ("majority_score", "predictions.safetensors"), ("learning_rate_head", "the other files in ")],
)  # fmt: skip
def test_a_row_that_its_own_files_contradict_is_caught_though_it_is_the_same_twice(
    copy, column, others
):
    [*_, row] = read_rows(copy / "runs.csv")
    changed(copy, **{column: row[column] * 1.01})
    problems = Submission.check(copy).problems
    assert any(f"{column} is " in text and others in text for text in problems), problems


@pytest.mark.parametrize("name", ["finished_at", "started_at"])
def test_incomplete_conditions_are_named(copy, name):
    changed(copy, **{name: None})
    line = f"conditions are incomplete: no {name}"
    assert any(line in problem for problem in Submission.check(copy).problems)


def test_digests_leave_out_what_another_process_is_writing(copy):
    folder = folder_of(copy / "runs.csv", read_rows(copy / "runs.csv")[0])
    before = (folder / SUMS).read_text()
    (folder / ".row.json.tmp").write_text("{")
    write_sums(folder)
    assert (folder / SUMS).read_text() == before


def test_files_that_are_missing_or_too_many(copy):
    [first, second] = read_rows(copy / "runs.csv")
    folder = folder_of(copy / "runs.csv", first)
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


def test_verdicts_are_data_too(copy):
    expected = {"folder": str(copy), "valid": True, "rows": 2, "problems": [], "not_checked": {}}
    code, out = validate(copy, "--json")
    assert (code, json.loads(out)) == (0, [expected])
    (copy / "runs.outcomes.safetensors").write_bytes(b"damaged")
    code, out = validate(copy, "--json")
    assert (code, json.loads(out)[0]["valid"], len(json.loads(out)[0]["problems"])) == (1, False, 1)


def test_labels_of_other_examples_are_caught(copy):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    [first, _] = read_rows(copy / "runs.csv")
    folder = folder_of(copy / "runs.csv", first)
    (folder / SUMS).unlink()
    path = folder / "predictions.safetensors"
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors = {name: tensor[::-1].copy() for name, tensor in tensors.items()}
    save_file(tensors, path)  # the same score
    problems = Submission.check(copy).problems
    assert any("has other labels of movies than" in problem for problem in problems), problems


def test_what_cannot_be_checked_is_said(copy):
    shutil.rmtree(copy / "runs")
    code, out = validate(copy)
    assert code == 0
    assert "not checked in 2 rows: no folder of the cell: times and memory" in out
    (copy / "runs.outcomes.safetensors").unlink()
    assert "not checked in 2 rows: no predictions: scores" in validate(copy)[1]
    path = copy / "runs.csv"
    row = read_rows(path)[0]
    path.write_bytes(path.read_bytes().replace(row.machine.encode(), b"Cray, 8 cores, 1 GiB"))
    code, out = validate(copy)
    assert code == 1
    assert re.search(r"conditions_id is \w+ by that of its conditions, and ", out)


@pytest.mark.parametrize("name", ["none", "empty"])
def test_a_folder_without_results_is_a_line(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BAD_INPUT, match=f"{name}: has no file of results, such as runs.csv"):
        validate(tmp_path / name)


def folder(path, machine, **settings):
    path.mkdir()
    rows = [
        replace(row, machine=machine, conditions_id=f"c0ffee{len(machine)}")
        for row in synthetic_rows(8, failures=False, **settings)
    ]
    rows = [replace(row, cell_id=row.cell.cell_id) for row in rows]
    write_rows(path / "runs.csv", rows)
    return rows


def test_valid_folders_are_shown_side_by_side_and_written_in_pefts_layout(tmp_path):
    first = folder(tmp_path / "a", "Xeon, 2 cores, 16 GiB")
    folder(tmp_path / "b", "EPYC, 4 cores, 8 GiB", task="nyt")
    folder(tmp_path / "c", "Cray <b>")
    broken = tmp_path / "c" / "runs.csv"
    broken.write_bytes(broken.read_bytes().replace(first[3].cell_id.encode(), b"0" * 12))
    folders = [tmp_path / name for name in "abc"]
    flags = ("--reports", tmp_path / "reports", "--peft", tmp_path / "peft")
    code, out = validate(*folders, *flags)
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
    assert all(list(layout(json.loads(path.read_text()))) == list(LAYOUT) for path in files)


LAYOUT = {
    "experiment_name": str, "model_id": str, "train_config": dict, "peft_type": str,
    "accelerator_memory_reserved_avg": int, "accelerator_memory_max": int,
    "accelerator_memory_reserved_99th": int, "total_time": float, "train_time": float,
    "file_size": int, "test_accuracy": float, "train_loss": float, "train_samples": int,
    "train_total_tokens": int, "peft_branch": str, "torch_version": str, "created_at": str,
}  # fmt: skip


def layout(row):
    """What `preprocess` and `load_df` of method_comparison/processing.py in PEFT's repository read
    of a file, in the types that they need (written anew)."""
    run, train, meta = row["run_info"], row["train_info"], row["meta_info"]
    last = train["metrics"][-1]
    assert train["status"] == "success"
    libraries = ("peft", "transformers", "datasets", "torch", "bitsandbytes")
    assert {f"{name}-version" for name in libraries} <= meta["package_info"].keys()
    values = {
        "experiment_name": run["experiment_name"],
        "model_id": run["train_config"]["model_id"],
        "train_config": run["train_config"],
        "peft_type": run["peft_config"]["peft_type"] if run["peft_config"] else "full-finetuning",
        **{name: train[name] for name in LAYOUT if name.startswith("accelerator")},
        "total_time": run["total_time"], "train_time": train["train_time"],
        "file_size": train["file_size"], "test_accuracy": last["test accuracy"],
        "train_loss": last["train loss"], "train_samples": last["train samples"],
        "train_total_tokens": last["train total tokens"], "peft_branch": run["peft_branch"],
        "torch_version": meta["package_info"]["torch-version"], "created_at": run["created_at"],
    }  # fmt: skip
    for name, kind in LAYOUT.items():
        assert isinstance(values[name], kind), name
    return values
