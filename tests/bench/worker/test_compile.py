"""The setting compile: in grid files, cells and rows, in a worker, and against peers."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.common.errors import InputError
from bench.launch.checks import check_compile
from bench.peers import measure, ours
from bench.peers.names import OURS
from bench.peers.work import find_workload, training_batches
from bench.plan import gridfile
from bench.plan.cell import Cell
from bench.plan.columns import BY_NAME, row_of
from bench.plan.job import Job
from bench.plan.planning import Resolved, expand
from bench.plan.rows import SCHEMA
from bench.worker import compiling
from bench.worker.compiling import compile_for, empty_cache
from bench.worker.progress import Progress
from bench.worker.run import CellRun
from bench.worker.setup import examples
from minbert.data.tasks import find_task
from tests.bench.grid.test_bad_input import refused
from tests.bench.grids import GridRuns
from tests.bench.peer_cells import cell, job_of, started
from tests.bench.synthetic_rows import HERE, new_row

RESOLVED = Resolved("minilm", "m", "mean", "d", "bf16", "grid")
LORA = "[settings]\n{settings}\n[[cells]]\nmode=['lora']\nrank=[2]\nlayers=['attn-only']\n"


def cells_of(settings: str) -> list[Cell]:
    return expand(gridfile.parse(LORA.format(settings=settings), "x.toml", "x"), RESOLVED)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are made and run by torch's operators: a compiler would take minutes."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


# As a setting


def test_it_is_off_unless_a_grid_file_says_so_and_then_another_cell() -> None:
    (usual,), (off,), (on,) = map(cells_of, ("", "compile = false", "compile = true"))
    assert usual == off == replace(on, compile="off")
    assert (usual.is_compiled, on.is_compiled, on.compile) == (False, True, "on")
    assert usual.cell_id != on.cell_id
    before = {name: value for name, value in usual.columns().items() if name != "compile"}
    assert row_of(HERE | before).cell.cell_id == usual.cell_id


def test_only_true_and_false_are_taken() -> None:
    with pytest.raises(InputError, match=r"settings\.compile: .*, not 'on'"):
        cells_of("compile = 'on'")


def test_rows_of_older_schemas_were_not_compiled() -> None:
    assert SCHEMA >= 5
    assert new_row()["compile"] == "off"
    assert not BY_NAME["compile_s"].applies_to(new_row(compile="off"))
    assert BY_NAME["compile_s"].applies_to(new_row(compile="on"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"encoders": 1, "task": "multitask"}, "task multitask"),
        ({"unfreeze": "iterative"}, "unfreeze iterative"),
    ],
)
def test_steps_of_several_kinds_are_not_compiled(change: dict[str, Any], told: str) -> None:
    (on,) = cells_of("compile = true")
    check_compile([on])
    check_compile([replace(on, compile="off", **change)])
    with pytest.raises(InputError, match=rf"^compile: .*{told}.*leave"):
        check_compile([replace(on, **change)])


def test_the_grid_refuses_it_in_a_line(grid: GridRuns) -> None:
    path = grid.folder / "mine.toml"
    path.write_text(LORA.format(settings="compile = true") + "unfreeze=['iterative']\n")
    assert "compile: with unfreeze iterative" in refused(grid, grid=str(path))


def test_a_plan_says_that_it_is_not_predicted(grid: GridRuns) -> None:
    path = grid.folder / "mine.toml"
    path.write_text(LORA.format(settings="compile = true"))
    planned = grid.run("--dry-run", "--json", grid=str(path))
    assert planned.returncode == 0, planned.stderr
    assert "are not predicted: training is compiled" in planned.stderr
    (found,) = json.loads(planned.stdout)["cells"]
    assert (found["compile"], found["predicted_s"]) == ("on", None)


# In a worker


def compiled_job(checkpoint: Path, **changes: Any) -> Job:
    values = {"batch_size": 10, "epochs": 2, "dropout": 0.0, "max_length": 16, "compile": "on"}
    return job_of(cell(checkpoint, **values | changes), checkpoint)


def run_here(job: Job, folder: Path) -> CellRun:
    folder.mkdir()
    run = CellRun(job, folder, Progress(None))
    run.run()
    return run


def test_a_compiled_cell_trains_as_another(tiny_checkpoint: Path, tmp_path: Path, traced) -> None:
    on = compiled_job(tiny_checkpoint)
    off = replace(on, cell=replace(on.cell, compile="off"))
    run, usual = (run_here(job, tmp_path / job.cell.compile) for job in (on, off))
    losses, expected = (torch.stack(each.record.losses) for each in (run, usual))
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)

    assert 0 < run.record.columns["compile_s"] == run.phases.seconds["compile"]
    assert "compile_s" not in usual.record.columns
    assert "activations_mib" in usual.record.columns
    assert "activations_mib" not in run.record.columns, "compiled code does not say"
    assert list(run.phases.seconds)[:4] == ["load", "tokenise", "compile", "train"]

    steps, plain = run.clock.steps(), usual.clock.steps()
    assert [step.tokens for step in steps] == [step.tokens for step in plain]
    assert [step.examples for step in steps].count(6) == 2, "the last of each epoch"
    for step, usual_step in zip(steps, plain, strict=True):
        length = step.padded // step.examples
        assert length % 8 == 0
        assert 0 <= length - usual_step.padded // usual_step.examples < 8


def test_settings_of_training_do_the_same_in_a_compiled_cell(
    tiny_checkpoint: Path, tmp_path: Path, traced
) -> None:
    """The weights of the best epoch are put where compiled code, and a graph, has them."""
    settings = {
        "epochs": 3, "held_out": 0.2, "early_stopping": 1, "label_smoothing": 0.1,
        "class_weights": "balanced", "layer_decay": 0.5, "lora_plus_ratio": 4.0,
    }  # fmt: skip
    on = compiled_job(tiny_checkpoint, **settings)
    off = replace(on, cell=replace(on.cell, compile="off"))
    run, usual = (run_here(job, tmp_path / job.cell.compile) for job in (on, off))
    losses, expected = (torch.stack(each.record.losses) for each in (run, usual))
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)
    for name in ("epochs_run", "best_epoch"):
        assert run.record.columns[name] == usual.record.columns[name]
    np.testing.assert_allclose(run.logits[""], usual.logits[""], rtol=1e-2, atol=1e-2)


def test_code_is_compiled_for_the_buckets_of_all_epochs_and_no_other(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(compiling, "compile_model", lambda _model, **given: asked.update(given))
    of = compiled_job(tiny_checkpoint, amp="bf16", max_length=18).cell
    lengths = np.array([3, 4, 5, 9, 10, 11, 12, 13, 14, 18])
    train: Any = type("Train", (), {"__len__": lambda _: len(lengths)})()
    train.lengths = lengths
    model: Any = object()

    compile_for(model, train, replace(of, batch_size=3, batching="by-length"), 1)
    assert asked == {"texts": 3, "lengths": {8, 16}, "amp": "bf16"}, "18 is in no whole batch"
    compile_for(model, train, replace(of, batch_size=64), 1)
    assert (asked["texts"], asked["lengths"]) == (10, {18})
    seen = set()
    for epoch in range(30):
        compile_for(model, train, replace(of, batch_size=1, batching="shuffled"), epoch + 1)
        assert seen <= asked["lengths"]
        seen = asked["lengths"]
    assert seen == {8, 16, 18}


def test_a_cell_finds_nothing_that_was_compiled_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    monkeypatch.setenv(names[0], "/somewhere")
    monkeypatch.delenv(names[1], raising=False)
    with empty_cache(tmp_path):
        places = [Path(os.environ[name]) for name in names]
        assert len({*places}) == 2
        for place in places:
            assert place.is_relative_to(tmp_path)
            assert not place.exists()
            place.mkdir()
    assert os.environ[names[0]] == "/somewhere"
    assert names[1] not in os.environ
    assert list(tmp_path.iterdir()) == []


def test_a_cell_without_a_compiler_ends_in_a_line(
    grid: GridRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    path = grid.folder / "mine.toml"
    path.write_text(LORA.format(settings="compile = true"))
    done = grid.run(grid=str(path))
    assert done.returncode == 1
    (row,) = grid.rows()
    assert (row["status"], row["compile"], row["compile_s"]) == ("crashed", "on", None)
    assert row["message"].startswith("error: compile: torch can't compile the model (")
    assert "No working C++ compiler" in row["message"]
    assert row["step_ms_median"] is row["train_s"] is None


# Against peers


def test_our_side_is_compiled_where_the_grid_file_says_so(
    tiny_checkpoint: Path, tmp_path: Path, traced
) -> None:
    of = compiled_job(tiny_checkpoint).cell
    request = replace(started([of], tiny_checkpoint, tmp_path)[of.name], loss_steps=12)
    job, off = (job_of(replace(of, compile=to), tiny_checkpoint) for to in ("on", "off"))
    train, _ = examples(job)[""]
    task = find_task(of.task)
    trainer, _ = ours.build(job, request, task, total_steps=12, warmup=0.0)
    buckets = {batch.input_ids.shape[1] for batch, _ in zip(
        training_batches(OURS, train, of, 0, trainer.device), range(12), strict=False
    ) if len(batch.labels) == 10}  # fmt: skip
    assert buckets <= set(trainer._forward.lengths), "12 steps are of two epochs"

    losses = [measure.losses(ours.build, request, each, task, train) for each in (job, off)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_the_peers_batches_stay_as_long_as_their_texts(tiny_checkpoint: Path) -> None:
    on = compiled_job(tiny_checkpoint)
    train, _ = examples(on)[""]
    mine, theirs = (
        find_workload(side, train, on.cell, 0, torch.device("cpu")) for side in (OURS, "grouped")
    )
    assert [batch.tokens for batch in mine.timing_batches] == [
        batch.tokens for batch in theirs.timing_batches
    ]
    assert mine.real_tokens == theirs.real_tokens
    assert mine.padded_tokens > theirs.padded_tokens
    for one, other in zip(
        [*mine.timing_batches, mine.largest], [*theirs.timing_batches, theirs.largest], strict=True
    ):
        assert one.input_ids.shape[1] % 8 == 0
        assert other.input_ids.shape[1] == other.attention_mask.sum(dim=1).max()
