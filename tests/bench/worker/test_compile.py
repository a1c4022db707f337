"""The setting compile: in grid files, cells and rows, and in a worker."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from bench.common.errors import InputError
from bench.forecast.client import NoPredictionError
from bench.forecast.outlook import make_forecast
from bench.launch.checks import check_cells, compile_notes
from bench.plan import gridfile
from bench.plan.planning import Resolved, expand
from bench.worker import compiling
from bench.worker.compiling import compile_for, shared_cache
from minbert.training.compiled import compile_model
from tests.bench.tiny_cells import cell, ended, job_of
from tests.encoders import need_transformers

RESOLVED = Resolved("minilm", "m", "mean", "d", "bf16", "grid")
LORA = "[settings]\n{settings}\n[[cells]]\nmode=['lora']\nrank=[2]\nlayers=['attn-only']\n"


def cells_of(settings, resolved=RESOLVED, axes=""):
    return expand(gridfile.parse(LORA.format(settings=settings) + axes, "x.toml", "x"), resolved)


@pytest.fixture
def traced(monkeypatch):
    """Graphs are made and run by torch's operators: a compiler would take minutes."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def test_it_is_off_unless_a_grid_file_says_so_and_then_another_cell():
    (usual,), (off,), (on,) = map(cells_of, ("", "compile = false", "compile = true"))
    assert usual == off == replace(on, compile="off")
    assert (usual.is_compiled, on.is_compiled, on.compile) == (False, True, "on")
    assert usual.cell_id != on.cell_id
    with pytest.raises(NoPredictionError, match="training is compiled"):
        make_forecast([usual, on], [], None, None)
    for value in ("'on'", "1"):
        with pytest.raises(InputError, match=rf"should be true, false or auto, not {value}"):
            cells_of(f"compile = {value}")


def test_auto_is_on_where_the_device_and_the_cell_allow_it():
    values = ("true", "false", "'auto'")
    (on,), (off,), (auto,) = (cells_of(f"compile = {value}") for value in values)
    assert auto == replace(on, compile_why="auto: a GPU")
    assert auto.cell_id == on.cell_id
    on_a_cpu = cells_of("compile = 'auto'", replace(RESOLVED, no_compiling="a CPU gains nothing"))
    assert on_a_cpu == [replace(off, compile_why="auto: a CPU gains nothing")]
    assert on_a_cpu[0].cell_id == off.cell_id
    note = "compile auto: a CPU gains nothing; 1 of 1 cells are not compiled"
    assert compile_notes(on_a_cpu) == [note]
    (auto,) = cells_of("compile = 'auto'\nengine = 'transformers'")
    assert (auto.compile, auto.engine) == ("off", "transformers")
    assert auto.compile_why == "auto: engine transformers compiles for minutes, without CUDA graphs"
    by_epochs = cells_of("compile = 'auto'", axes="unfreeze = ['all', 'iterative']")
    parts = replace(RESOLVED, parts=("sst", "sts"))
    by_parts = cells_of("compile = 'auto'\ntask = 'multitask'", parts)
    check_cells([*by_epochs, *by_parts])
    assert [(cell.unfreeze, cell.compile, cell.compile_why) for cell in by_epochs + by_parts] == [
        ("iterative", "off", "auto: with unfreeze iterative other layers train in each epoch"),
        ("all", "on", "auto: a GPU"),
        ("all", "off", "auto: steps of task multitask are of several parts"),
    ]


def compiled_job(checkpoint, **changes):
    values = {"batch_size": 10, "epochs": 2, "dropout": 0.0, "max_length": 16, "compile": "on"}
    return job_of(cell(checkpoint, **values | changes), checkpoint)


def both(on, folder):
    off = replace(on, cell=replace(on.cell, compile="off"))
    run, usual = (ended(job, folder / job.cell.compile) for job in (on, off))
    losses, expected = (torch.stack(each.losses) for each in (run, usual))
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-4)
    return run, usual


def test_a_compiled_cell_trains_as_another(tiny_checkpoint, tmp_path, traced, monkeypatch, cache):
    """The weights of the best epoch are put where compiled code, and a graph, has them."""
    settings = {
        "epochs": 3, "held_out": 0.2, "early_stopping": 1, "label_smoothing": 0.1,
        "class_weights": "balanced", "layer_decay": 0.5, "lora_plus_ratio": 4.0,
    }  # fmt: skip
    caches = []

    def compile_here(model, **options):
        caches.append(os.environ[VARIABLES[0]])
        compiled = compile_model(model, **options)
        assert compiled.cached is None, "there is no compiler in this test"
        compiled.cached = 0.75
        return compiled

    monkeypatch.setattr(compiling, "compile_model", compile_here)
    run, usual = both(compiled_job(tiny_checkpoint, **settings), tmp_path)
    for name in ("epochs_run", "best_epoch"):
        assert run.columns[name] == usual.columns[name]
    np.testing.assert_allclose(run.logits[""], usual.logits[""], rtol=1e-2, atol=1e-2)
    assert run.columns["compile_cached"] == 0.75
    assert caches == [str(cache / "compiled" / VARIABLES[0].lower())]

    assert 0 < run.columns["compile_s"] == run.phases.seconds["compile"]
    assert "compile_s" not in usual.columns
    for name in ("activations_mib", "step_gflop", "step_operators", "step_moved_mib"):
        assert name in usual.columns
        assert name not in run.columns, "compiled code does not report it"
    assert list(run.phases.seconds)[:4] == ["load", "tokenise", "compile", "train"]

    steps, plain = run.clock.steps(), usual.clock.steps()
    assert [step.tokens for step in steps] == [step.tokens for step in plain]
    assert {step.examples for step in steps} > {10}, "the last of an epoch has fewer"
    assert {step.padded // step.examples % 8 for step in steps} == {0}


def test_code_is_compiled_for_the_buckets_of_all_epochs_and_no_other(tiny_checkpoint, monkeypatch):
    asked = {}
    monkeypatch.setattr(compiling, "compile_model", lambda _model, **given: asked.update(given))
    of = compiled_job(tiny_checkpoint, amp="bf16", max_length=18).cell
    lengths = np.array([3, 4, 5, 9, 10, 11, 12, 13, 14, 18])
    train = mock.MagicMock(lengths=lengths, __len__=lambda _: len(lengths))
    compile_for(None, train, replace(of, batch_size=3, batching="by-length"), 1)
    assert asked == {"texts": 3, "lengths": {8, 16}, "amp": "bf16"}, "18 is in no whole batch"
    compile_for(None, train, replace(of, batch_size=64), 1)
    assert (asked["texts"], asked["lengths"]) == (10, {18})
    seen = set()
    for epoch in range(30):
        compile_for(None, train, replace(of, batch_size=1, batching="shuffled"), epoch + 1)
        assert seen <= asked["lengths"]
        seen = asked["lengths"]
    assert seen == {8, 16, 18}


@contextmanager
def places():
    """The folders that torch and triton cache code in, while a cell compiles."""
    with shared_cache():
        yield [Path(os.environ[name]) for name in VARIABLES]


def keep_in(folders):
    """Put a piece of code into each of some folders, from a minute ago."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "code").write_bytes(b"code")
        os.utime(folder / "code", (time.time() - 60,) * 2)


def kept_in(folders):
    return {(folder / "code").exists() for folder in folders}


def test_cells_share_a_cache_until_its_code_is_in_doubt_or_too_large(cache, monkeypatch):
    monkeypatch.setenv(VARIABLES[0], "/somewhere")
    monkeypatch.delenv(VARIABLES[1], raising=False)
    with places() as first:
        assert len(set(first)) == 2
        assert all(place.is_relative_to(cache / "compiled") for place in first)
        keep_in(first)
    assert os.environ[VARIABLES[0]] == "/somewhere"
    assert VARIABLES[1] not in os.environ
    with places() as second, places() as third:
        assert first == second == third
        assert kept_in(third) == {True}
    for error, is_kept in ((MemoryError(), True), (InputError("compile: bad code"), False)):
        with pytest.raises(type(error)), places():
            raise error
        with places():
            assert kept_in(first) == {is_kept}
            keep_in(first)
    monkeypatch.setattr(compiling, "MOST_MIB", 1)
    for mib, is_kept in ((0.5, True), (1, False)):
        os.truncate(first[0] / "code", int(mib * 2**20))
        with places():
            assert kept_in(first) == {is_kept}


def test_code_of_others_is_refused(cache, tmp_path):
    """Torch would run it: a folder that others can write, another user's, a link, or a file."""
    place = cache / "compiled"
    with shared_cache():
        assert place.stat().st_mode & 0o777 == 0o700

    def refused(reason):
        line = rf"compile: code can't be kept in {place} \({reason}\).*MINBERT_CACHE=DIR"
        with pytest.raises(InputError, match=line), shared_cache():
            pass

    place.chmod(0o770)
    refused("other users can change it, .*")
    place.chmod(0o700)
    if os.getuid() == 0:  # giving it to another user takes root
        os.chown(place, 65534, 65534)
        refused("other users can change it, .*")
        os.chown(place, 0, 0)
    place.rename(tmp_path / "strangers")
    place.symlink_to(tmp_path / "strangers")
    refused("other users can change it, or it is a link")
    place.unlink()
    place.touch()
    refused("File exists")


def test_what_a_killed_cell_compiled_is_removed_once_nobody_uses_it(cache):
    killed = (
        "import os, signal; from pathlib import Path; "
        "from bench.worker.compiling import shared_cache\n"
        "with shared_cache():\n"
        "    half = Path(os.environ['TORCHINDUCTOR_CACHE_DIR'], 'ab', 'half.so')\n"
        "    half.parent.mkdir(); half.touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with ExitStack() as second:
        with places() as used:
            keep_in(used)
            subprocess.run([sys.executable, "-c", killed], check=False)
            half = used[0] / "ab" / "half.so"
            second.enter_context(places())
            assert half.exists(), "the first still compiles"
        with places():  # as in a grid that is continued
            assert half.exists(), "the second still compiles"
    with places():
        assert not half.exists()
        assert kept_in(used) == {True}
        half.touch()
    with places():
        assert half.exists()


@pytest.mark.usefixtures("cache", "traced")
def test_transformers_compiles_all_shapes_first(tiny_checkpoint, tmp_path, monkeypatch):
    need_transformers()
    graphs, made = torch._dynamo.utils.counters["stats"], []
    compile_now = compiling.AutoCompiledModel

    def compiled(*args):
        model = compile_now(*args)
        made.append(graphs["unique_graphs"])
        return model

    monkeypatch.setattr(compiling, "AutoCompiledModel", compiled)
    theirs = {"engine": "transformers", "attn_implementation": "eager", "kernels": None}
    run, _ = both(compiled_job(tiny_checkpoint, **theirs, epochs=1), tmp_path)
    assert made == [graphs["unique_graphs"]], "no step compiles"
    assert made[0] > 0
    assert run.columns["compile_s"] > 0
    assert run.columns["compile_cached"] is None
