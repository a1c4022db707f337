"""`python -m bench.export`: from a row of runs.csv to a folder, or to one line."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bench.common.command import run_command
from bench.common.errors import InputError
from bench.export import __main__ as main
from bench.export import cells, choice, exporting
from bench.export.__main__ import command
from bench.export.bases import describe_base
from bench.export.check import texts_of
from bench.export.formats import FORMATS
from bench.export.fresh import run_fresh
from bench.machine.devices import Device
from bench.plan.columns import NAMES, row_of
from bench.plan.job import Job
from bench.plan.models import find_model
from bench.plan.rows import Row
from bench.report.text import num
from bench.results.exports import Figures, exports_file, read_exports
from bench.results.origins import folder_of
from bench.results.protocol import PREDICTIONS, RESULT, WEIGHTS
from bench.results.rowfile import encode, record
from minbert.data.tasks import load_task
from tests.bench.export.small import need_libraries
from tests.bench.grid.test_own_data import write_csv
from tests.bench.grids import GridRuns
from tests.bench.synthetic_rows import HERE, new_row
from tests.reference_run import copy_reference, reference_rows

GRID = """
[data]
path = "train.csv"
label = "topic"

[settings]
epochs = 2
batch_size = 16
max_length = 16
{settings}

[[cells]]
mode = ["full", "head"]

[[cells]]
mode = ["lora"]
rank = [2]
layers = ["attn-only"]
amp = ["off", "on"]
"""
PAIRS = 'label = "rating"\ntext = "first"\ntext_pair = "second"\nproblem = "regression"'
FIGURES = Figures(forms=(), metric="accuracy", examples=1, machine="a machine", threads=1, at="")


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> GridRuns:
    """A grid of four cells on a file of the user's, of which one keeps no weights."""
    for name in FORMATS:
        need_libraries(name)
    place = GridRuns(tmp_path_factory.mktemp("trained"), tiny_checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINBERT_CACHE", str(place.folder / "cache"))
        patch.chdir(place.folder)
        write_csv(place.folder / "train.csv", 120)
        (place.folder / "own.toml").write_text(GRID.format(settings=""), encoding="utf-8")
        done = place.run(grid="own.toml", quick=("--device", "cpu"))
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def place(trained: GridRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GridRuns:
    """A copy of that place, to work in."""
    monkeypatch.setenv("MINBERT_CACHE", str(trained.folder / "cache"))
    monkeypatch.setenv("MINBERT_BENCH_LOCKS", str(tmp_path / "locks"))
    shutil.copytree(trained.folder, tmp_path / "place", ignore=shutil.ignore_patterns("cache"))
    monkeypatch.chdir(tmp_path / "place")
    return GridRuns(tmp_path / "place", trained.model)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports measure nothing, which takes some seconds for each form."""
    monkeypatch.setattr(exporting, "measure", lambda *_: FIGURES)


def export(*arguments: str) -> Ended:
    """Run the command to its end."""
    out, err = StringIO(), StringIO()
    with (
        mock.patch.object(sys, "argv", ["bench.export", *arguments]),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as end,
    ):
        run_command(command)
    return Ended(int(end.value.code or 0), out.getvalue(), err.getvalue())


def row_named(place: GridRuns, name: str) -> Row:
    return next(row for row in place.rows() if row.name == name)


def is_untouched(place: GridRuns) -> bool:
    """Whether neither the folder nor a part of it is there."""
    return not [path for path in place.folder.iterdir() if path.name.startswith((".", "model"))]


def kept_logits(folder: Path) -> np.ndarray:
    """The dev logits that a cell kept."""
    logits: np.ndarray = load_file(folder / PREDICTIONS)["logits"]
    return logits


def test_a_cell_becomes_a_folder_with_its_predictions(place: GridRuns, unmeasured: None) -> None:
    done = export("lora-r2-attn-only-fp32-s0", "--to", "model")
    assert done.code == 0, done.err
    model, row = place.folder / "model", row_named(place, "lora-r2-attn-only-fp32-s0")
    assert {path.name for path in model.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "base.json", "config.json",
        "tokenizer.json", "tokenizer_config.json", "predict.py", "train.py", "training.json",
        "README.md", "answers.py",
    }  # fmt: skip
    assert {path.stat().st_mode & 0o444 for path in model.iterdir()} == {0o444}
    cell = folder_of(place.csv, row)
    job = Job.read(cell)
    data = load_task(row.task, Path(str(job.data)))
    base = describe_base(find_model(str(place.model), "pretrained", "auto"))
    answer = run_fresh(model, texts_of(data.dev), base=base)
    kept = kept_logits(cell)
    assert np.abs(answer.logits - kept).max() < 1e-4
    assert answer.labels == [data.task.classes[index] for index in kept.argmax(axis=1)]
    assert read_exports(place.csv) == {row.cell_id: FIGURES}
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "lora rank 2 on attn-only" in card
    assert f"{row.dev_score:.3f}" in card
    assert str(place.folder) not in card + (model / "training.json").read_text()
    assert "model in fp32 on all 12 dev examples" in done.out


def test_a_regression_on_pairs_is_in_the_unit_of_its_labels(
    tmp_path: Path, tiny_checkpoint: Path, unmeasured: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_libraries("transformers")
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    place = GridRuns(tmp_path, tiny_checkpoint)
    lines = [f"word {n % 7},other {n % 5},{400 + 3.7 * (n % 7):.1f}" for n in range(60)]
    (tmp_path / "pairs.csv").write_text("\n".join(["first,second,rating", *lines]) + "\n")
    grid = GRID.replace("train.csv", "pairs.csv").replace('label = "topic"', PAIRS)
    grid = grid[: grid.index('[[cells]]\nmode = ["lora"]')].replace(', "head"', "")
    (tmp_path / "own.toml").write_text(grid.format(settings=""), encoding="utf-8")
    assert place.run(grid="own.toml", quick=("--device", "cpu")).returncode == 0
    [row] = place.rows()
    done = export(row.name, "--to", "model")
    assert done.code == 0, done.err
    cell = tmp_path / "runs" / f"export-{row.cell_id}"
    data = load_task(row.task, Path(str(Job.read(cell).data)))
    answer = run_fresh(tmp_path / "model", texts_of(data.dev))
    assert 390 < answer.logits.min() <= answer.logits.max() < 440
    mean, std = data.train.labels.mean(), data.train.labels.std()
    assert np.abs(answer.logits - (kept_logits(cell) * std + mean)).max() < 1e-4 * std + 1e-4


def test_the_outcome_is_data(place: GridRuns, unmeasured: None) -> None:
    row = row_named(place, "lora-r2-attn-only-bf16-s0")
    done = export(row.cell_id[:6], "--format", "onnx", "--to", "model", "--json")
    assert done.code == 0, done.err
    outcome = json.loads(done.out)
    assert outcome["cell_id"] == row.cell_id
    assert outcome["format"] == "onnx"
    assert not outcome["trained_again"]
    assert outcome["dev_score"] == row.dev_score


def test_a_cell_without_weights_is_trained_again_once(place: GridRuns, unmeasured: None) -> None:
    row = row_named(place, "full-fp32-s0")
    rows = [one | {"dev_score": 0.013} if one.name == row.name else one for one in place.rows()]
    place.csv.write_bytes(record(NAMES) + b"".join(map(encode, rows)))
    assert not (folder_of(place.csv, row) / WEIGHTS).exists()
    done = export("full-fp32-s0", "--to", "model")
    assert done.code == 0, done.err
    assert "its weights were not kept" in done.err
    card = (place.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "it was trained again for this folder; the scores are those of the new training" in card
    assert f"{row.dev_score:.3f}" in card
    assert "0.013" not in card
    again = place.folder / "runs" / f"export-{row.cell_id}"
    assert np.abs(kept_logits(again) - kept_logits(folder_of(place.csv, row))).max() < 1e-4
    written = (again / WEIGHTS).stat().st_mtime_ns
    assert export("full-fp32-s0", "--format", "sentence-transformers", "--to", "model-2").code == 0
    assert (again / WEIGHTS).stat().st_mtime_ns == written


@pytest.mark.parametrize("again", [False, True], ids=["kept", "trained again"])
def test_a_model_that_scores_below_its_settings_range_is_refused(
    place: GridRuns, unmeasured: None, again: bool
) -> None:
    """The trainings in runs.csv as if they had scored more than the one that is exported."""
    name = "full-fp32-s0" if again else "lora-r2-attn-only-fp32-s0"
    row, rows = row_named(place, name), place.rows()
    for seed in (1, 2):
        other = replace(row, seed=seed)
        rows.append(replace(other, cell_id=other.cell.cell_id, dev_score=row.dev_score + 0.1))
    if again:
        rows[rows.index(row)] = replace(row, dev_score=row.dev_score + 0.1)
    place.csv.write_bytes(record(NAMES) + b"".join(map(encode, rows)))
    done = export(name, "--to", "model")
    assert done.code == 2
    assert f"this model's dev score, {row.dev_score:.3f}, is below the range of its" in done.err
    assert is_untouched(place)
    assert export(name, "--to", "model", "--allow-low-score").code == 0


@pytest.mark.parametrize(("fall", "is_refused"), [(0.01, False), (0.05, True)])
def test_the_range_of_a_setting_is_up_to_the_margin_below_its_mean(
    tmp_path: Path, fall: float, is_refused: bool
) -> None:
    rows = [new_row(seed=seed, status="ok", attempt=1, dev_score=0.6, dev_metric="accuracy")
            for seed in range(3)]  # fmt: skip
    rows = [row | {"cell_id": row.cell.cell_id} for row in rows]
    other = rows[0] | {"epochs": 9, "dev_score": 0.9}
    path = tmp_path / "runs.csv"
    rows.append(other | {"cell_id": other.cell.cell_id})
    path.write_bytes(record(NAMES) + b"".join(map(encode, rows)))
    model = rows[1] | {"dev_score": 0.6 - fall}
    if is_refused:
        with pytest.raises(InputError, match=r"3 trainings \(mean 0\.600\)"):
            choice.check_score(path, model)
    else:
        choice.check_score(path, model)


def test_results_without_their_folders_are_trained_again(
    place: GridRuns, unmeasured: None, minilm: Path
) -> None:
    """As those of the repository are, which has no folders of cells."""
    data = load_task("movies", max_train=48, max_dev=16)
    model = find_model("minilm", "pretrained", "auto")
    settings = {
        "task": "movies", "data_digest": data.digest[:16], "max_train": 48, "max_dev": 16,
        "model": "minilm", "model_digest": model.digest, "pooling": "mean", "folds": None,
    }  # fmt: skip
    row = row_named(place, "head-fp32-s0") | settings
    row = row_of(row.cell.columns() | HERE | {"status": "ok", "attempt": 1})
    path = place.folder / "other.csv"
    path.write_bytes(record(NAMES) + encode(row))
    done = export("head-fp32-s0", "--runs", str(path), "--to", "model")
    assert done.code == 0, done.err
    assert "its weights were not kept" in done.err
    card = (place.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert 'base_model: "sentence-transformers/all-MiniLM-L6-v2"' in card
    assert 'license: "apache-2.0"' in card


def test_examples_of_the_user_are_found_by_their_digest(
    place: GridRuns, unmeasured: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = place.csv.read_bytes()
    (place.folder / "other.csv").write_bytes(rows)
    model = find_model(str(place.model), "pretrained", "auto")
    monkeypatch.setattr(main, "model_of", lambda *_: model)
    done = export("head-fp32-s0", "--runs", "other.csv", "--to", "model")
    assert done.code == 0, done.err
    other = place.folder / "elsewhere"
    shutil.copytree(Path(os.environ["MINBERT_CACHE"]), other)
    for path in other.rglob("dev.jsonl"):
        path.write_text(path.read_text(encoding="utf-8").replace("apple", "pear"), encoding="utf-8")
    monkeypatch.setenv("MINBERT_CACHE", str(other))
    done = export("lora-r2-attn-only-fp32-s0", "--runs", "other.csv", "--to", "model-2")
    assert done.code == 2
    assert "are no longer in the cache; start the grid again" in done.err


def test_a_link_to_an_empty_folder_is_followed(place: GridRuns, unmeasured: None) -> None:
    (place.folder / "real").mkdir()
    (place.folder / "link").symlink_to("real")
    assert export("head-fp32-s0", "--to", "link").code == 0
    assert (place.folder / "real" / "README.md").exists()


@pytest.mark.parametrize("to", [".", "../own.toml/sub", "/proc/sub"])
def test_a_folder_that_can_not_be_written_is_refused_at_once(
    place: GridRuns, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.setattr(cells, "find_trained", None)
    empty = place.folder / "empty"
    empty.mkdir()
    arguments = [
        "--runs",
        str(place.csv),
        "--to",
        to if to != "own.toml/sub" else "../own.toml/sub",
    ]
    monkeypatch.chdir(empty)
    done = export("head-fp32-s0", *arguments)
    assert done.code == 2
    assert f"--to {arguments[-1]}: " in done.err


def test_refit_trains_on_all_examples_and_measures_no_score(
    place: GridRuns, unmeasured: None
) -> None:
    row = row_named(place, "head-fp32-s0")
    done = export("head-fp32-s0", "--refit", "--to", "model", "--json")
    assert done.code == 0, done.err
    outcome = json.loads(done.out)
    assert outcome["refitted"]
    assert outcome["dev_score"] is None
    card = (place.folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "The score of this model is not measured" in card
    assert "all 120 examples" in card
    result = json.loads((place.folder / "runs" / f"refit-{row.cell_id}" / RESULT).read_text())
    assert f"took {num(result['columns']['train_s'])} s on" in card
    assert "model-index" not in card
    assert f"python -m bench.export {row.cell_id} --refit --to DIR" in card
    assert card.count("dev examples |") == 0
    assert not (place.folder / "model" / "train.py").exists()
    assert not exports_file(place.csv).exists()
    job = Job.read(place.folder / "runs" / f"refit-{row.cell_id}")
    assert len(load_task(row.task, Path(str(job.data))).train) == 120


def test_bf16_weights_are_compared_with_predictions_up_to_rounding(
    place: GridRuns, unmeasured: None
) -> None:
    folder = folder_of(place.csv, row_named(place, "lora-r2-attn-only-bf16-s0"))
    other = folder_of(place.csv, row_named(place, "lora-r2-attn-only-fp32-s0"))
    arrays = load_file(folder / PREDICTIONS)
    arrays["logits"] = arrays["logits"] + 0.3 * arrays["logits"].std()
    save_file(arrays, folder / PREDICTIONS)
    done = export("lora-r2-attn-only-bf16-s0", "--to", "model")
    assert done.code == 2
    assert "weights.safetensors: does not give the predictions" in done.err
    weights = load_file(other / WEIGHTS)
    save_file({name: value + 1e-2 for name, value in weights.items()}, other / WEIGHTS)
    assert "does not give" in export("lora-r2-attn-only-fp32-s0", "--to", "model").err
    assert is_untouched(place)


def _drop_weights(place: GridRuns) -> None:
    for path in place.folder.rglob(WEIGHTS):
        path.write_bytes(b"cut")


def _change_base(place: GridRuns) -> None:
    copy = place.folder / "base" / place.model.name
    shutil.copytree(place.model, copy)
    weights = load_file(copy / "model.safetensors")
    save_file({name: value * 1.01 for name, value in weights.items()}, copy / "model.safetensors")
    for path in place.folder.rglob("cell.json"):
        path.write_text(path.read_text().replace(str(place.model), str(copy)), encoding="utf-8")


def _fill_folder(place: GridRuns) -> None:
    (place.folder / "model").mkdir()
    (place.folder / "model" / "thesis.txt").write_text("mine", encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "prepare", "message"),
    [
        (["lora-r2-attn-only-fp32-s0"], _drop_weights, "weights.safetensors"),
        (["lora-r2-attn-only-fp32-s0"], _change_base, "is another checkpoint than the one that"),
        (["lora-r2-attn-only-fp32-s0"], _fill_folder, "is there already, and not empty"),
        (["lora-r2-attn-only-fp32-s0", "--merge", "--format", "peft"], None,
         "--merge: merged weights are no adapter"),
        (["full-fp32-s0", "--format", "peft"], None, "--format transformers"),
        (["full-fp16-s0"], None, "no cell is called full-fp16-s0"),
        (["recommended"], None, "no setting is recommended yet; python -m bench.recommend"),
        (["full-fp32-s0", "--runs", "no.csv"], None, "no.csv: no such file of results"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(
    place: GridRuns,
    arguments: list[str],
    prepare: Callable[[GridRuns], None] | None,
    message: str,
) -> None:
    if prepare is not None:
        prepare(place)
    done = export(*arguments, "--to", "model")
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert is_untouched(place) or prepare is _fill_folder
    assert not list(place.folder.glob("model/*.py"))


def test_a_missing_library_is_named_with_its_command(
    place: GridRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = export("head-fp32-s0", "--format", "onnx", "--to", "model")
    assert done.code == 2
    assert "onnxruntime" in done.err
    assert "pip install -e '.[onnx]'" in done.err


@pytest.mark.parametrize("step", ["write_training", "check", "measure", "card"])
def test_a_full_disk_leaves_nothing(
    place: GridRuns, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporting, "check", mock.Mock())
    monkeypatch.setattr(exporting, "measure", lambda *_: FIGURES)
    monkeypatch.setattr(exporting, step, full)
    done = export("lora-r2-attn-only-fp32-s0", "--to", "model")
    assert done.code == 1
    assert "model: can't be written (No space left on device)" in done.err
    assert is_untouched(place)


def test_a_folder_that_fails_its_check_is_not_written(
    place: GridRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        raise InputError("pooling, adapter scale or weights differ")

    monkeypatch.setattr(exporting, "check", wrong)
    done = export("lora-r2-attn-only-fp32-s0", "--to", "model")
    assert (done.code, is_untouched(place)) == (2, True)


def test_the_recommended_setting_gives_its_lowest_seed_with_weights(tmp_path: Path) -> None:
    runs = copy_reference(tmp_path)
    chosen = choice.recommended_cell(runs, "memory", "", None, None)
    row = chosen.row
    assert (row.mode, row.rank, row.layers, row.frozen_dtype) == ("lora", 8, "attn", "fp32")
    assert row.seed == 0
    assert chosen.settings == 69
    later = next(
        other
        for other in reference_rows()
        if (other.mode, other.rank, other.layers, other.frozen_dtype, other.seed)
        == ("lora", 8, "attn", "fp32", 1)
    )
    folder = folder_of(runs, later)
    folder.mkdir(parents=True)
    (folder / WEIGHTS).touch()
    assert choice.recommended_cell(runs, "memory", "", None, None).row.seed == 1


def test_limits_choose_another_setting(tmp_path: Path) -> None:
    runs = copy_reference(tmp_path)
    row = choice.recommended_cell(runs, "memory", "memory<=1400MiB score>=0.57", None, None).row
    assert float(row.peak_rss_mib or 0) <= 1500
    with pytest.raises(InputError, match="no setting is recommended yet"):
        choice.recommended_cell(runs, "memory", "memory<=1MiB", None, None)


def test_a_name_that_several_cells_have_is_refused(tmp_path: Path) -> None:
    runs = tmp_path / "runs.csv"
    rows = [new_row(status="ok", attempt=1, epochs=epochs) for epochs in (2, 3)]
    rows = [row_of(row.cell.columns() | HERE | {"status": "ok", "attempt": 1}) for row in rows]
    runs.write_bytes(record(NAMES) + b"".join(map(encode, rows)))
    with pytest.raises(InputError, match="is the name of 2 cells; give the id of one"):
        choice.named_cell(runs, rows[0].name)
    assert choice.named_cell(runs, rows[1].cell_id).row.epochs == 3


def test_a_setting_of_folds_is_refitted(place: GridRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    row = row_named(place, "head-fp32-s0") | {"folds": 5, "fold": 0}
    monkeypatch.setattr(main, "recommended_cell", lambda *_, **__: choice.Choice(row, 4))
    done = export("recommended", "--to", "model")
    assert done.code == 2
    assert "was scored in 5 folds, each by a model of its own; add --refit" in done.err


def test_fp16_is_not_trained_again_without_a_gpu(
    place: GridRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = row_named(place, "full-fp32-s0") | {"amp": "fp16"}
    monkeypatch.setattr(main, "named_cell", lambda *_: choice.Choice(row, None))
    model = find_model(str(place.model), "pretrained", "auto")
    monkeypatch.setattr(main, "model_of", lambda *_: model)
    monkeypatch.setattr(cells, "find_conditions", lambda _: mock.Mock(device=Device()))
    done = export("full-fp16-s0", "--to", "model")
    assert done.code == 2
    assert "training in fp16 needs a GPU" in done.err


@pytest.mark.parametrize(
    ("values", "message"),
    [({"init": "random"}, "it began with random weights"), ({"task": "multitask"}, "train one")],
)
def test_what_no_format_has_a_place_for_is_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choice.check_exportable(new_row(**values))
