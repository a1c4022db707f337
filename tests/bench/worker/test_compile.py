"""The setting compile: in grid files, cells and rows, and in a worker."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.common.errors import InputError
from bench.launch.checks import check_cells
from bench.plan import gridfile
from bench.plan.cell import Cell
from bench.plan.columns import BY_NAME, row_of
from bench.plan.job import Job
from bench.plan.planning import Resolved, expand
from bench.plan.rows import SCHEMA
from bench.worker import compiling
from bench.worker.compiling import compile_for, shared_cache
from bench.worker.progress import Progress
from bench.worker.run import CellRun
from minbert.errors import InputError as MinbertInputError
from minbert.training.compiled import CompiledModel, compile_model
from tests.bench.grid.test_bad_input import refused
from tests.bench.grids import GridRuns
from tests.bench.synthetic_rows import HERE, new_row
from tests.bench.tiny_cells import cell, job_of
from tests.encoders import need_transformers

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


@pytest.mark.parametrize("value", ["'on'", "1"])
def test_only_true_and_false_and_auto_are_taken(value: str) -> None:
    with pytest.raises(
        InputError, match=rf"settings\.compile: should be true, false or auto, not {value}"
    ):
        cells_of(f"compile = {value}")


AUTO = """
[settings]
task = "{task}"
compile = "auto"
[[cells]]
mode = ["full"]
unfreeze = ["all", "iterative"]
"""


def test_auto_is_on_where_the_device_and_the_cell_allow_it() -> None:
    def states(task: str = "movies", **resolved: Any) -> dict[str | None, tuple[str, str | None]]:
        grid = gridfile.parse(AUTO.format(task=task), "x.toml", "x")
        cells = expand(grid, replace(RESOLVED, **resolved))
        check_cells(cells)
        return {cell.unfreeze: (cell.compile, cell.compile_why) for cell in cells}

    assert states(no_compiling="a CPU gains nothing") == dict.fromkeys(
        ("all", "iterative"), ("off", "auto: a CPU gains nothing")
    )
    assert states() == {
        "all": ("on", "auto: a GPU"),
        "iterative": ("off", "auto: with unfreeze iterative other layers train in each epoch"),
    }
    for compiled, why in states("multitask", parts=("sst", "sts")).values():
        assert (compiled, why) == ("off", "auto: steps of task multitask are of several parts")


def test_auto_makes_no_other_cell() -> None:
    (on,), (off,) = cells_of("compile = true"), cells_of("")
    (auto,) = cells_of("compile = 'auto'")
    assert auto == replace(on, compile_why="auto: a GPU")
    assert auto.cell_id == on.cell_id
    grid = gridfile.parse(LORA.format(settings="compile = 'auto'"), "x.toml", "x")
    (auto,) = expand(grid, replace(RESOLVED, no_compiling="torch is too old"))
    assert auto.cell_id == off.cell_id


def test_auto_is_off_in_engine_transformers() -> None:
    (auto,) = cells_of("compile = 'auto'\nengine = 'transformers'")
    assert (auto.compile, auto.engine) == ("off", "transformers")
    assert auto.compile_why == (
        "auto: engine transformers compiles for minutes, without CUDA graphs"
    )
    (on,) = cells_of("compile = true\nengine = 'transformers'")
    assert on.compile == "on"


def test_auto_is_off_on_a_cpu_and_the_row_says_so(grid: GridRuns) -> None:
    done = grid.run("--compile", "auto", "--select", "mode=head")
    assert done.returncode == 0, done.stderr
    assert "note: compile auto: a CPU gains nothing; 2 of 2 cells are not compiled" in done.stderr
    for row in grid.rows():
        assert (row["compile"], row["compile_why"]) == ("off", "auto: a CPU gains nothing")
        assert row["compile_cached"] is row["compile_s"] is None


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
    check_cells([on])
    check_cells([replace(on, compile="off", **change)])
    with pytest.raises(InputError, match=rf"^compile: .*{told}.*leave"):
        check_cells([replace(on, **change)])


def test_the_grid_refuses_it_in_a_line(grid: GridRuns) -> None:
    path = grid.folder / "mine.toml"
    path.write_text(LORA.format(settings="compile = true") + "unfreeze=['iterative']\n")
    assert "compile: with unfreeze iterative" in refused(grid, grid=str(path))


def test_a_plan_says_that_it_is_not_predicted(grid: GridRuns) -> None:
    path = grid.folder / "mine.toml"
    path.write_text(LORA.format(settings=""))
    planned = grid.run("--compile", "on", "--dry-run", "--json", grid=str(path))
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
    losses, expected = (torch.stack(each.losses) for each in (run, usual))
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)

    assert 0 < run.columns["compile_s"] == run.phases.seconds["compile"]
    assert "compile_s" not in usual.columns
    for name in ("activations_mib", "step_gflop", "step_operators", "step_moved_mib"):
        assert name in usual.columns
        assert name not in run.columns, "compiled code does not report it"
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
    losses, expected = (torch.stack(each.losses) for each in (run, usual))
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)
    for name in ("epochs_run", "best_epoch"):
        assert run.columns[name] == usual.columns[name]
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


VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


@contextmanager
def places(cell_folder: Path) -> Iterator[list[Path]]:
    """The folders that torch and triton cache code in, while the cell compiles."""
    with shared_cache(cell_folder):
        yield [Path(os.environ[name]) for name in VARIABLES]


def keep_in(folders: list[Path]) -> None:
    """Put a piece of code into each of some folders, from a minute ago."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "code").write_bytes(b"code")
        os.utime(folder / "code", (time.time() - 60,) * 2)


def kept_in(folders: list[Path]) -> set[bool]:
    """Whether the code is still in each of them."""
    return {(folder / "code").exists() for folder in folders}


def test_the_cells_of_a_run_share_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLES[0], "/somewhere")
    monkeypatch.delenv(VARIABLES[1], raising=False)
    with places(tmp_path / "one") as first:
        assert len(set(first)) == 2
        assert all(place.is_relative_to(tmp_path / "compiled") for place in first)
        keep_in(first)
    assert os.environ[VARIABLES[0]] == "/somewhere"
    assert VARIABLES[1] not in os.environ
    with places(tmp_path / "other") as second, places(tmp_path / "third") as third:
        assert first == second == third
        assert kept_in(third) == {True}
    for error in (MemoryError(), RuntimeError("CUDA out of memory")):
        with pytest.raises(type(error)), places(tmp_path / "fourth"):
            raise error
        with places(tmp_path / "fifth") as last:
            assert kept_in(last) == {True}, "a lack of memory damages nothing"


def test_what_a_killed_cell_compiled_is_removed_once_nobody_uses_it(tmp_path: Path) -> None:
    killed = (
        "import os, signal, sys; from pathlib import Path; "
        "from bench.worker.compiling import shared_cache\n"
        "with shared_cache(Path(sys.argv[1])):\n"
        "    half = Path(os.environ['TORCHINDUCTOR_CACHE_DIR'], 'ab', 'half.so')\n"
        "    half.parent.mkdir(); half.touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with places(tmp_path / "one") as used:
        keep_in(used)
        subprocess.run([sys.executable, "-c", killed, str(tmp_path / "killed")], check=False)
        half = used[0] / "ab" / "half.so"
        for again in ("other", "killed"):  # as in a grid that is continued
            with places(tmp_path / again):
                assert half.exists(), "the first still compiles"
    with places(tmp_path / "next"):
        assert not half.exists()
        assert kept_in(used) == {True}
        half.touch()
    with places(tmp_path / "next"):
        assert half.exists()


def test_each_cell_that_compiles_keeps_others_from_removing(tmp_path: Path) -> None:
    with ExitStack() as second:
        with places(tmp_path / "one") as used:
            keep_in(used)
            second.enter_context(places(tmp_path / "other"))
        stays = tmp_path / "compiled" / "killed.unfinished"
        stays.touch()
        os.utime(stays, (0, 0))
        with places(tmp_path / "third"):
            assert kept_in(used) == {True}
    with places(tmp_path / "next"):
        assert kept_in(used) == {False}


@pytest.mark.parametrize(
    "error",
    [MinbertInputError("compile: half"), ImportError("too short"), RuntimeError("bad code")],
)
def test_a_cache_is_emptied_if_it_is_too_large_or_code_could_not_be_made(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with places(tmp_path / "one") as used:
        keep_in(used)
    with pytest.raises(type(error)), places(tmp_path / "broken"):
        raise error
    with places(tmp_path / "next"):
        assert kept_in(used) == {False}
        keep_in(used)
    with places(tmp_path / "next"):
        assert kept_in(used) == {True}
    monkeypatch.setattr(compiling, "MOST_MIB", 1)
    for mib, kept in ((0.5, True), (1, False)):
        os.truncate(used[0] / "code", int(mib * 2**20))
        with places(tmp_path / "next"):
            assert kept_in(used) == {kept}


def test_a_cache_that_can_not_be_written_is_an_error_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "compiled").touch()
    with (
        pytest.raises(
            InputError, match=r"code can't be kept in runs/compiled \(.*; move that away"
        ),
        shared_cache(tmp_path / "runs" / "cell"),
    ):
        pass


def test_a_row_says_how_much_of_the_code_was_there(
    tiny_checkpoint: Path, tmp_path: Path, traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells beside each other compile in one cache, also those of a grid that is continued."""
    came: list[str] = []

    def compile_here(model: Any, **options: Any) -> CompiledModel:
        came.append(os.environ[VARIABLES[0]])
        compiled = compile_model(model, **options)
        assert compiled.cached is None, "there is no compiler in this test"
        compiled.cached = 0.75
        return compiled

    monkeypatch.setattr(compiling, "compile_model", compile_here)
    job = compiled_job(tiny_checkpoint, epochs=1)
    runs = [run_here(job, tmp_path / name) for name in ("one", "two")]
    assert [run.columns["compile_cached"] for run in runs] == [0.75, 0.75]
    assert came == [str(tmp_path / "compiled" / VARIABLES[0].lower())] * 2


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


# Engine transformers


def test_engine_transformers_compiles_all_shapes_before_the_first_step(
    tiny_checkpoint: Path, tmp_path: Path, traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_transformers()
    graphs = torch._dynamo.utils.counters["stats"]
    made: list[int] = []
    compile_now = compiling.AutoCompiledModel

    def compiled(*args: Any) -> Any:
        model = compile_now(*args)
        made.append(graphs["unique_graphs"])
        return model

    monkeypatch.setattr(compiling, "AutoCompiledModel", compiled)
    theirs = {
        "engine": "transformers", "attn_implementation": "eager", "kernels": None, "epochs": 1,
    }  # fmt: skip
    on = compiled_job(tiny_checkpoint, **theirs)
    off = replace(on, cell=replace(on.cell, compile="off"))
    run, usual = (run_here(job, tmp_path / job.cell.compile) for job in (on, off))
    losses, expected = (torch.stack(each.losses) for each in (run, usual))
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)
    assert made == [graphs["unique_graphs"]], "no step compiles"
    assert made[0] > 0
    assert run.columns["compile_s"] > 0
    assert run.columns["compile_cached"] is None
