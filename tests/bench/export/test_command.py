"""`python -m bench.export`: from a row of runs.csv to a folder, or to one line."""

import errno
import json
import os
import shutil
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from bench.common.command import run_command
from bench.common.errors import InputError
from bench.export import __main__ as main
from bench.export import cells, choice, exporting
from bench.export.__main__ import command
from bench.export.check import texts_of
from bench.export.formats import FORMATS, Format, peft
from bench.export.trained import describe_base
from bench.machine.devices import Device
from bench.plan.job import Job
from bench.plan.models import find_model
from bench.report.text import num
from bench.results.exports import EXPORTS, INT8, Figures, Form, read_exports
from bench.results.origins import folder_of
from bench.results.protocol import PREDICTIONS, RESULT, WEIGHTS
from minbert.data.tasks import load_task
from minbert.files import sha256_of
from tests.bench.export.small import answer_here, base_folder, need_libraries
from tests.bench.grid.test_own_data import write_csv
from tests.bench.grids import GridRuns, all_here
from tests.bench.synthetic_rows import new_row, write_rows
from tests.reference_run import copy_reference, reference_rows

GRID = """
data = { path = "train.csv", label = "topic" }
settings = { epochs = 1, batch_size = 32, max_length = 16 }
cells = [{ mode = ["full"] },
         { mode = ["lora"], rank = [2], layers = ["attn-only"], amp = ["off", "on"] }]
"""
LORA, BF16 = "lora-r2-attn-only-fp32-s0", "lora-r2-attn-only-bf16-s0"
FULL = "full-fp32-s0"
FULL_DISK = OSError(errno.ENOSPC, "No space left on device")
FIGURES = Figures(forms=(), metric="accuracy", examples=1, machine="a machine", threads=1, at="")


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Exports measure nothing; they are checked in this process, where cells are trained too."""
    with all_here(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "measure", lambda *_: FIGURES)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_checkpoint):
    """A grid of three cells, one without weights, which has been trained again for an export."""
    for name in FORMATS:
        need_libraries(name)
    place = GridRuns(tmp_path_factory.mktemp("trained"), tiny_checkpoint)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINBERT_CACHE", str(place.folder / "cache"))
        patch.setenv("MINBERT_BENCH_LOCKS", str(place.locks))
        patch.chdir(place.folder)
        write_csv(place.folder / "train.csv", 120)
        (place.folder / "own.toml").write_text(GRID, encoding="utf-8")
        done = place.run(grid="own.toml", quick=("--device", "cpu"))
        assert done.returncode == 0, done.stderr
        assert not (folder_of(place.csv, row_named(place, FULL)) / WEIGHTS).exists()
        assert export(FULL, "--to", "model").code == 0
        shutil.rmtree("model")
        EXPORTS.path(place.csv).unlink()
    return place


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("MINBERT_CACHE", str(trained.folder / "cache"))
    monkeypatch.setenv("MINBERT_BENCH_LOCKS", str(tmp_path / "locks"))
    shutil.copytree(trained.folder, tmp_path / "place", ignore=shutil.ignore_patterns("cache"))
    monkeypatch.chdir(tmp_path / "place")
    return GridRuns(tmp_path / "place", trained.model)


def export(*arguments):
    """The exit code, stdout and stderr of the command."""
    with (
        mock.patch.object(sys, "argv", ["bench.export", *arguments]),
        CliRunner().isolation() as streams,
        pytest.raises(SystemExit) as end,
    ):
        run_command(command)
    out, err, _ = (stream.getvalue().decode() for stream in streams)
    return SimpleNamespace(code=end.value.code or 0, out=out, err=err)


def row_named(place, name):
    return next(row for row in place.rows() if row.name == name)


def card_of(place):
    return (place.folder / "model" / "README.md").read_text(encoding="utf-8")


def is_untouched(place):
    return not [path for path in place.folder.iterdir() if path.name.startswith((".", "model"))]


def test_a_cell_becomes_a_folder_with_its_predictions(place):
    done = export(LORA, "--to", "model")
    assert done.code == 0, done.err
    model, row = place.folder / "model", row_named(place, LORA)
    assert {path.name for path in model.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "base.json", "config.json",
        "tokenizer.json", "tokenizer_config.json", "predict.py", "train.py", "training.json",
        "README.md", "answers.py",
    }  # fmt: skip
    assert {path.stat().st_mode & 0o444 for path in model.iterdir()} == {0o444}
    cell = folder_of(place.csv, row)
    data = load_task(row.task, Path(str(Job.read(cell).data)))
    base = describe_base(find_model(str(place.model), "pretrained", "auto"))
    answer = answer_here(model, texts_of(data.dev), base=base)
    kept = load_file(cell / PREDICTIONS)["logits"]
    assert np.abs(answer.logits - kept).max() < 1e-4
    assert answer.labels == [data.task.classes[index] for index in kept.argmax(axis=1)]
    assert read_exports(place.csv) == {row.cell_id: FIGURES}
    card = card_of(place)
    assert all(text in card for text in ("lora rank 2 on attn-only", f"{row.dev_score:.3f}"))
    assert str(place.folder) not in card + (model / "training.json").read_text()
    assert "model in fp32 on all 12 dev examples" in done.out


def test_a_cell_without_weights_is_trained_again_once_and_refused_if_it_scores_low(place):
    """The trainings in runs.csv as if they had scored more than the new one that is exported."""
    row = row_named(place, FULL)
    higher = row | {"dev_score": row.dev_score + 0.6}
    others = [replace(higher, seed=seed) for seed in (1, 2)]
    write_rows(place.csv, [higher, *(one | {"cell_id": one.cell.cell_id} for one in others)])
    again = place.folder / "runs" / f"export-{row.cell_id}"
    written = (again / WEIGHTS).stat().st_mtime_ns
    done = export(FULL, "--to", "model")
    assert done.code == 2
    assert f"this model's dev score, {row.dev_score:.3f}, is below the range of its" in done.err
    assert is_untouched(place)
    done = export(FULL, "--to", "model", "--allow-low-score")
    assert (done.code, "its weights were not kept" in done.err) == (0, True), done.err
    card = card_of(place)
    assert "it was trained again for this folder; the scores are those of the new training" in card
    assert [f"{one.dev_score:.3f}" in card for one in (row, higher)] == [True, False]
    both = [load_file(of / PREDICTIONS)["logits"] for of in (again, folder_of(place.csv, row))]
    assert np.abs(both[0] - both[1]).max() < 1e-4
    assert (again / WEIGHTS).stat().st_mtime_ns == written


@pytest.mark.parametrize(("fall", "half", "is_refused"), [
    (0.01, 0.0, False), (0.05, 0.0, True), (0.05, 0.04, True), (0.05, 0.06, False),
])  # fmt: skip
def test_a_collapse_exceeds_margin_and_half_interval(tmp_path, fall, half, is_refused):
    rows = [new_row(seed=seed, status="ok", attempt=1, dev_score=0.6, dev_metric="accuracy")
            for seed in range(3)]  # fmt: skip
    rows = [row | {"cell_id": row.cell.cell_id} for row in rows]
    other = rows[0] | {"epochs": 9, "dev_score": 0.9}
    write_rows(path := tmp_path / "runs.csv", [*rows, other | {"cell_id": other.cell.cell_id}])
    choice.check_score(path, rows[1] | {"dev_score": None})
    refused = pytest.raises(InputError, match=r"3 trainings \(mean 0\.600\)")
    with refused if is_refused else nullcontext():
        ends = {"dev_ci_low": 0.55 - half, "dev_ci_high": 0.55 + half}
        choice.check_score(path, rows[1] | {"dev_score": 0.6 - fall, **ends})


def test_results_without_their_folders_are_trained_again(place, monkeypatch):
    own, model = row_named(place, LORA), find_model(str(place.model), "pretrained", "auto")
    find = partial(cells.find_trained, place.folder / "other.csv", own, model, describe_base(model))
    with (
        mock.patch.object(cells, "train_again", side_effect=InputError("trained")) as trained,
        pytest.raises(InputError, match="trained"),
    ):
        find(refit=False)
    job = trained.call_args.args[1]
    assert load_task(own.task, Path(job.data)).digest[:16] == own.data_digest
    assert (job.checkpoint, job.keep) == (str((model.checkpoint or Path()).resolve()), True)
    assert job.cell == own.cell
    other = place.folder / "elsewhere"
    shutil.copytree(os.environ["MINBERT_CACHE"], other)
    for file in other.rglob("dev.jsonl"):
        file.write_text(file.read_text(encoding="utf-8").replace("apple", "pear"), encoding="utf-8")
    monkeypatch.setenv("MINBERT_CACHE", str(other))
    with pytest.raises(InputError, match="are no longer in the cache; start the grid again"):
        find(refit=False)


@pytest.mark.parametrize("to", [".", "file/sub", "/proc/sub", "full"])
def test_a_folder_that_can_not_be_written_is_refused(tmp_path, monkeypatch, to):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(InputError, match=f"^--to {to}: .*name another folder$"):
        main._target(Path(to))
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    assert main._target(tmp_path / "link") == tmp_path / "empty"
    with exporting._new_folder(tmp_path / "empty") as folder:
        (folder / "file").touch()
    assert (tmp_path / "empty" / "file").exists()


def test_refit_trains_on_all_examples_and_measures_no_score(place):
    row = row_named(place, LORA)
    done = export(LORA, "--refit", "--to", "model", "--json")
    assert done.code == 0, done.err
    outcome = json.loads(done.out)
    assert (outcome["refitted"], outcome["dev_score"]) == (True, None)
    folder, card = place.folder / "runs" / f"refit-{row.cell_id}", card_of(place)
    assert "all 120 examples" in card
    result = json.loads((folder / RESULT).read_text())
    assert f"took {num(result['columns']['train_s'])} s on" in card
    assert f"python -m bench.export {row.cell_id} --refit --to DIR" in card
    assert not (place.folder / "model" / "train.py").exists()
    assert not EXPORTS.path(place.csv).exists()
    assert len(load_task(row.task, Path(Job.read(folder).data)).train) == 120


def test_a_loss_in_int8_beyond_the_margin_is_refused_where_the_folder_has_int8(place, monkeypatch):
    int8 = Form(name=INT8, format="onnx", size_mb=1.0, one_ms=1.0, batch_ms=9.0, score=0.5)
    lossy = FIGURES.model_copy(update={"forms": (int8,), "int8_loss": 0.86 - 0.83})
    monkeypatch.setattr(exporting, "measure", lambda *_: lossy)
    monkeypatch.setattr(Format, "write", lambda _, of, folder: peft.write(of, folder))
    monkeypatch.setattr(exporting, "check", lambda *_: mock.Mock(libraries={}))
    line = "on dev, ONNX in int8 is 3 points of accuracy worse than ONNX in fp32"
    onnx = (LORA, "--format", "onnx", "--to", "model")
    for option, most in ((), "2 points"), (("--max-int8-loss", "2.9pt"), "2.9 points"):
        done = export(*onnx, *option)
        assert (done.code, done.out) == (2, "")
        assert f"{line}, where at most {most} of accuracy is allowed" in done.err.splitlines()[-1]
        assert is_untouched(place)
        assert not EXPORTS.path(place.csv).exists()
    assert "'3x' is not a positive margin" in export(*onnx, "--max-int8-loss", "3x").err
    for how in ((*onnx, "--max-int8-loss", "3pt"), (LORA, "--to", "model")):  # no int8 in the last
        done = export(*how)
        assert done.code == 0, done.err
        assert line in done.out
        assert line[1:] in card_of(place)
        shutil.rmtree("model")
    assert read_exports(place.csv) == {row_named(place, LORA).cell_id: lossy}
    unknown = lossy.model_copy(update={"int8_loss": None})
    monkeypatch.setattr(exporting, "measure", lambda *_: unknown)
    assert "in int8 was not measured, since" in export(*onnx).out


def test_bf16_weights_are_compared_with_predictions_up_to_rounding(place):
    folder = folder_of(place.csv, row_named(place, BF16))
    assert "of its predictions differ from those in bf16" in export(str(folder), "--to", "one").out
    other = folder_of(place.csv, row_named(place, LORA))
    arrays = load_file(folder / PREDICTIONS)
    arrays["logits"] = arrays["logits"] + 0.3 * arrays["logits"].std()
    save_file(arrays, folder / PREDICTIONS)
    done = export(BF16, "--to", "model")
    assert done.code == 2
    assert "weights.safetensors: does not give the predictions" in done.err
    weights = load_file(other / WEIGHTS)
    save_file({name: value + 1e-2 for name, value in weights.items()}, other / WEIGHTS)
    assert "does not give" in export(LORA, "--to", "model").err
    assert is_untouched(place)


def _change_base(place):
    copy = place.folder / "base" / place.model.name
    shutil.copytree(place.model, copy)
    weights = load_file(copy / "model.safetensors")
    save_file({name: value * 1.01 for name, value in weights.items()}, copy / "model.safetensors")
    for path in place.folder.rglob("cell.json"):
        path.write_text(path.read_text().replace(str(place.model), str(copy)), encoding="utf-8")


@pytest.mark.parametrize(("arguments", "prepare", "message"), [
    ([LORA], lambda place: [path.write_bytes(b"cut") for path in place.folder.rglob(WEIGHTS)],
     "weights.safetensors"),
    ([LORA], _change_base, "is another checkpoint than the one that"),
    ([LORA, "--merge", "--format", "peft"], None, "--merge: merged weights are no adapter"),
    ([FULL, "--format", "peft"], None, "--format transformers"),
    (["full-fp16-s0"], None, "no cell is called full-fp16-s0"),
    (["recommended"], None, "no setting is recommended yet; python -m bench.recommend"),
    ([FULL, "--runs", "no.csv"], None, "no.csv: no such file of results"),
])  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(place, arguments, prepare, message):
    if prepare is not None:
        prepare(place)
    done = export(*arguments, "--to", "model")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert message in done.err
    assert is_untouched(place)


@pytest.mark.parametrize(("step", "error", "code", "message"), [
    ("card", FULL_DISK, 1, "model: can't be written (No space left on device)"),
    ("check", InputError("weights differ"), 2, "weights differ"),
])  # fmt: skip
def test_a_full_disk_or_failed_check_leaves_nothing(place, monkeypatch, step, error, code, message):
    monkeypatch.setattr(exporting, "check", mock.Mock())
    monkeypatch.setattr(exporting, step, mock.Mock(side_effect=error))
    done = export(LORA, "--to", "model")
    assert (done.code, message in done.err) == (code, True)
    assert is_untouched(place)


def test_the_recommended_setting_gives_its_lowest_seed_with_weights(tmp_path):
    runs = copy_reference(tmp_path)
    axes = attrgetter("mode", "rank", "layers", "frozen_dtype", "seed")
    row, settings = choice.recommended_cell(runs, "memory", "", None, None)
    assert axes(row) == ("lora", 8, "attn", "fp32", 0)
    assert settings == 69
    later = next(one for one in reference_rows() if axes(one) == (*axes(row)[:-1], 1))
    folder = folder_of(runs, later)
    folder.mkdir(parents=True)
    (folder / WEIGHTS).touch()
    assert choice.recommended_cell(runs, "memory", "", None, None)[0].seed == 1
    row, _ = choice.recommended_cell(runs, "memory", "memory<=1400MiB score>=0.57", None, None)
    assert row.peak_rss_mib <= 1500
    with pytest.raises(InputError, match="no setting is recommended yet"):
        choice.recommended_cell(runs, "memory", "memory<=1MiB", None, None)


def test_a_name_that_several_cells_have_is_refused(tmp_path):
    rows = [new_row(status="ok", attempt=1, epochs=epochs) for epochs in (2, 3)]
    rows = [row | {"cell_id": row.cell.cell_id} for row in rows]
    write_rows(runs := tmp_path / "runs.csv", rows)
    with pytest.raises(InputError, match="is the name of 2 cells; give the id of one"):
        choice.named_cell(runs, rows[0].name)
    assert choice.named_cell(runs, rows[1].cell_id)[0].epochs == 3


def test_what_this_machine_or_one_model_can_not_do_is_refused(place, monkeypatch):
    row = row_named(place, LORA) | {"folds": 5, "fold": 0}
    monkeypatch.setattr(choice, "recommended_cell", lambda *_, **__: (row, 4))
    done = export("recommended", "--to", "model")
    assert "was scored in 5 folds, each by a model of its own; add --refit" in done.err
    fp16 = row_named(place, FULL) | {"amp": "fp16"}
    monkeypatch.setattr(choice, "named_cell", lambda *_: (fp16, None))
    model = find_model(str(place.model), "pretrained", "auto")
    monkeypatch.setattr(main, "model_of", lambda *_: model)
    monkeypatch.setattr(cells, "find_conditions", lambda _: mock.Mock(device=Device()))
    assert "training in fp16 needs a GPU" in export("full-fp16-s0", "--to", "model").err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = export("full-fp16-s0", "--format", "onnx", "--to", "model")
    assert "onnxruntime: pip install -e '.[onnx]'" in done.err


@pytest.mark.parametrize(("values", "message"), [
    ({"init": "random"}, "it began with random weights"), ({"task": "multitask"}, "train one"),
])  # fmt: skip
def test_what_no_format_has_a_place_for_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        choice.check_exportable(new_row(**values))


def test_files_of_killed_exports_are_removed_and_those_of_others_are_not(tmp_path, monkeypatch):
    with exporting._new_folder(tmp_path / "running"):
        [running] = tmp_path.glob(".export-*")
        assert running.stat().st_mode & 0o777 == 0o700
        killed = tmp_path / ".export-killed"
        killed.mkdir()
        (killed / ".lock").touch()
        with exporting._new_folder(tmp_path / "early"):
            pass
        assert killed.exists(), "it may be new"
        for path in (running, killed):
            os.utime(path, (time.time() - 7200,) * 2)
        with monkeypatch.context() as patch:
            patch.setattr(os, "getuid", lambda: -1)
            with exporting._new_folder(tmp_path / "others"):
                pass
        assert killed.exists(), "it is another user's"
        with exporting._new_folder(tmp_path / "empty") as folder:
            (folder / "file").touch()
        assert [*tmp_path.glob(".export-*")] == [running], "it is still written"
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["file"]


def test_the_embedded_model_is_known_by_its_digest_wherever_it_is(minilm, monkeypatch):
    for name in ("minilm", str(minilm)):
        base = describe_base(find_model(name, "pretrained", "auto"))
        assert base.name == "sentence-transformers/all-MiniLM-L6-v2"
        assert (base.on_hub, len(base.revision), base.licence) == (True, 40, "apache-2.0")
        assert base.sha256 == sha256_of(minilm / base.file)
    monkeypatch.setattr("bench.export.trained.sha256_of", lambda _: "0" * 64)
    other = describe_base(find_model(str(minilm), "pretrained", "auto"))
    assert (other.on_hub, other.revision, other.licence) == (False, None, None)


def test_a_checkpoint_of_the_hub_has_its_name_commit_and_licence(tmp_path):
    commit = "a1" * 20
    folder = tmp_path / "models--some--model-x" / "snapshots" / commit
    base_folder(folder)
    card = "---\nlanguage: en\nlicense: 'mit'\n---\n# A model\nlicense: gpl\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
    base = describe_base(find_model(str(folder), "pretrained", "auto"))
    known = (base.name, base.revision, base.on_hub, base.licence)
    assert known == ("some/model-x", commit, True, "mit")
