"""Checks of training: numerics, compiled steps, forecasts, memory that runs out, a whole cell."""

import itertools
import os
import re
import subprocess
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from adapters import product
from bench.common.errors import InputError
from bench.doctor import models
from bench.doctor.check import CHECKS, FAILED, OK, Context, SkipError
from bench.doctor.checks import cells, compiled, numerics
from bench.plan.gridfile import load
from minbert.training.compiled import NoCompilerError
from tests.bench.synthetic_rows import cell, failed_row, result_row

HERE = Context("cpu", 1, "bf16", Path())


def only(monkeypatch, *settings, varied=()):
    monkeypatch.setattr(models, "SETTINGS", settings)
    monkeypatch.setattr(numerics, "VARIED", varied)
    monkeypatch.setattr(numerics, "find_spec", lambda _name: None)


def test_the_fast_path_trains_as_plain_torch_and_an_option_otherwise_than_without_it(monkeypatch):
    finding = numerics.check(HERE)
    assert finding.verdict == OK
    assert finding.figures["off_gradient"] < numerics.LIMITS["off"][1] / 10
    stored = []
    monkeypatch.setattr(numerics, "convert_frozen", lambda _model, dtype: stored.append(dtype))
    for mode, layers, option in numerics.VARIED:
        stored.clear()
        one, other = (numerics.train(mode, layers, o, "bf16", "cpu", "fast") for o in ("", option))
        is_stored = option == numerics.STORED  # which rounds weights as AMP does for each product
        assert (one.losses == other.losses) == is_stored == (stored == [torch.bfloat16])


def change_losses(monkeypatch, name, word, *factors):
    """Multiply the losses of trainings that are called with a word."""
    train = getattr(numerics, name)

    def changed(*of):
        done = train(*of)
        pairs = zip(done.losses, itertools.cycle(factors), strict=False)
        return replace(done, losses=[loss * f for loss, f in pairs]) if word in of else done

    monkeypatch.setattr(numerics, name, changed)


def test_a_wrong_option_or_engine_or_product_in_a_backward_pass_is_named(monkeypatch):
    only(monkeypatch, varied=[("full", None, numerics.POOLER)])
    monkeypatch.setattr(numerics, "find_spec", lambda _name: True)
    change_losses(monkeypatch, "train", "fast", 1.0, 1.0, float("nan"))
    change_losses(monkeypatch, "by_transformers", "bf16", 1.1)
    wrong = numerics.check(HERE).figures["wrong"]
    assert wrong[0].startswith("full pooler, amp off: loss deviates from plain torch by inf")
    assert "by engine transformers, amp bf16: loss deviates" in wrong[-1]
    monkeypatch.undo()
    only(monkeypatch, ("head", None), ("lora", "all-lin"))
    right = product.thin_over_tokens
    monkeypatch.setattr(product, "thin_over_tokens", lambda g, thin: 1.01 * right(g, thin))
    finding = numerics.check(HERE)
    assert finding.verdict == FAILED
    assert finding.summary.startswith("lora all-lin, amp off: gradient deviates from plain torch")


def test_wrong_dropout_and_a_step_that_overflows_and_moves_weights_are_named(monkeypatch):
    """Dropout whose backward pass is not that of its forward pass."""
    assert numerics.dropout_problem("cpu") == numerics.overflow_problem("cpu") == ""
    draw, calls = numerics.cross_entropy, itertools.count()
    wrong = lambda *of: draw(*of) * (1 if next(calls) else 1.05)  # noqa: E731
    monkeypatch.setattr(numerics, "cross_entropy", wrong)
    assert "falls 0.95" in numerics.dropout_problem("cpu")
    monkeypatch.setattr(numerics.math, "inf", 1.0)  # the scale of the loss
    assert "moves weights" in numerics.overflow_problem("cpu")


def test_both_paths_of_a_device_are_compared_with_fp32_on_the_cpu(monkeypatch):
    only(monkeypatch, ("head", None))
    train, devices, done = numerics.train, [], []

    def other_device(*of):
        done.append(train(*of))
        factor = 1 if len(done) == 1 else 1.001  # the first is the CPU's
        return replace(done[-1], losses=[factor * loss for loss in done[-1].losses])

    monkeypatch.setattr(numerics, "train", other_device)
    monkeypatch.setattr(models, "set_up_device", devices.append)
    finding = numerics.check(replace(HERE, amps=("off",)))
    assert finding.summary.startswith("head, amp off: loss deviates from fp32 on the CPU by 0.001")
    assert [device.type for device in devices] == ["cpu"] * 5  # with dropout and overflow


PLAIN, DROPPED = [1.25, 1.2, 1.15, 1.1], [1.0, 1.1]


@pytest.mark.parametrize(("factor", "graphs", "later", "dropped", "problem"), [
    (1 + 1e-6, 2, 0, DROPPED, ""),
    (1.001, 2, 0, DROPPED, "deviate from plain torch by 0.001, at most 0.0001"),
    (float("nan"), 2, 0, DROPPED, "deviate from plain torch by nan"),
    (1.0, 2, 1, DROPPED, "2 graphs were compiled for 2 buckets, and 1 more in steps"),
    (1.0, 2, 0, [1.0, 1.0], "with dropout the mean loss of compiled steps is"),
    (1.0, 2, 0, [2.0, 2.1], "with dropout the mean loss of compiled steps is"),
])  # fmt: skip
def test_compiled_steps(factor, graphs, later, dropped, problem):
    losses = [factor * loss for loss in PLAIN]
    finding = compiled.judge(losses, PLAIN, graphs, later, (dropped, [1.1, 1.2]))
    assert finding.verdict == (FAILED if problem else OK)
    assert problem in finding.summary


@pytest.mark.parametrize(("kind", "skipped"), [(NoCompilerError, True), (InputError, False)])
def test_without_a_compiler_compiled_steps_are_skipped(kind, skipped, monkeypatch, tmp_path):
    error = kind("compile: g++ ended with an error; it needs a C++ compiler")
    monkeypatch.setattr(compiled, "compile_model", raising(error))
    for name in compiled.CACHES:
        monkeypatch.setenv(name, "")
    here = replace(HERE, folder=tmp_path)
    with pytest.raises(SkipError, match="it needs a C") if skipped else nullcontext():
        assert compiled.check(here).verdict == FAILED
    assert all(Path(os.environ[name]).parent == tmp_path for name in compiled.CACHES)


def ran(**values):
    return result_row(cell("lora", 8, "all-lin-only", "bf16")) | {"batch_size": 8, **values}


def rows_are(monkeypatch, *of_runs):
    """Replace grids by rows, one list for each run; returns what the runs were called with."""
    run_cells = mock.Mock(side_effect=of_runs)
    monkeypatch.setattr(cells, "run_cells", run_cells)
    return run_cells.call_args_list


def raising(error):
    return mock.Mock(side_effect=error)


def peaks(predicted, device="cpu", **more):
    """A cell whose peak of 500 MiB has 300 above the imports, on a CPU, or of 300 on a GPU."""
    memory = {"peak_rss_mib": 500.0, "peak_anon_mib": 400.0, "imports_anon_mib": 100.0}
    if device != "cpu":
        memory = {"peak_cuda_allocated_mib": 300.0}
    return ran(device=device, predicted_peak_mib=predicted, **memory, **more)


@pytest.mark.parametrize(("losses", "change", "text"), [
    ([1.6, 1.5], {}, "the losses of 2 steps differ by 0e+00 at most from those of theirs 1"),
    ([1.6], {}, "differ by inf at most"),
    ([], {"status": "oom", "message": "no"}, "engine transformers ended oom: no"),
])  # fmt: skip
def test_engines(monkeypatch, losses, change, text):
    exact = {"dropout": 0.0, "amp": "off", "repeat": 1, "frozen_dtype": None}
    theirs = {"engine": "transformers", "kernels": None, "attn_implementation": "sdpa"}
    rows_are(monkeypatch, [ran(**exact), ran(**exact, **theirs, **change)])
    of_rows = {"minbert": [1.6, 1.5], "transformers": losses}
    monkeypatch.setattr(cells, "kept_losses", lambda _: lambda row: of_rows[row.engine])
    monkeypatch.setattr(cells, "engine_version", lambda: "theirs 1")
    finding = cells.engines(HERE)
    assert finding.verdict == (OK if losses == of_rows["minbert"] else FAILED)
    assert text in finding.summary
    monkeypatch.setattr(cells, "engine_version", raising(InputError("it needs peft: pip install")))
    with pytest.raises(SkipError, match="needs peft: pip install"):
        cells.engines(HERE)


@pytest.mark.parametrize(("row", "verdict", "text"), [
    (peaks(570.0), OK, "off by +23% at most (lora bf16: 570 for 500 MiB)"),
    (peaks(580.0), FAILED, "off by +27%"),
    (peaks(420.0), FAILED, "off by -27%"),
    (peaks(200.0, "cuda:0"), OK, "off by -12%"),  # 64 MiB of it are cuBLAS's workspace
    (peaks(160.0, "cuda:0"), FAILED, "off by -25%"),
    (peaks(None), FAILED, "lora bf16 has no forecast"),
    (peaks(500.0, status="crashed", message="no"), FAILED, "ended crashed: no"),
])  # fmt: skip
def test_forecasts(monkeypatch, row, verdict, text):
    rows_are(monkeypatch, [peaks(505.0, mode="full"), row])
    finding = cells.forecast(HERE)
    assert finding.verdict == verdict
    assert text in finding.summary


def oom(status="oom"):
    done = failed_row(cell("full", None, None, "off"), status, "out of memory: tried 1 GiB")
    return done | {"batch_size": 512}


@pytest.mark.parametrize(("rows", "text"), [
    ([ran(), oom()], ""),
    ([], "ended crashed with all memory"),
    ([ran(), oom("crashed")], "ended crashed, not oom (out of memory: tried 1 GiB)"),
    ([ran(), ran(batch_size=512)], "ended ok, not oom"),
    ([ran(status="oom", message="no"), oom()], "fits by 100 MiB ended oom (no)"),
    ([oom()], "fits by 100 MiB has no row"),
    ([ran()], "than there is has no row"),
])  # fmt: skip
def test_memory_that_runs_out(monkeypatch, rows, text):
    calls = rows_are(monkeypatch, [ran() if rows else oom("crashed")], rows)
    finding = cells.out_of_memory(HERE)
    assert finding.verdict == (FAILED if text else OK)
    assert text in finding.summary
    assert [call.kwargs["folder"] for call in calls] == ["unlimited", "limited"][: 1 + bool(rows)]
    assert not rows or calls[1].kwargs["address_space"] == 100 * 2**20, "no worker needed any"


def test_a_gpu_is_filled_but_for_what_the_small_cell_needs(monkeypatch):
    here, sizes = replace(HERE, device="cuda:0"), []
    monkeypatch.setattr(torch.cuda, "set_device", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1000 * 2**20, 2000 * 2**20))
    monkeypatch.setattr(torch, "empty", lambda size, **_of: sizes.append(size))
    needs = ran(peak_process_vram_mib=700.0)
    for status, verdict in (("oom", FAILED), ("busy", OK)):  # the filler is another process's
        rows_are(monkeypatch, [needs], [ran(), oom(status)])
        assert cells.out_of_memory(here).verdict == verdict
    assert sizes == 2 * [200 * 2**20], "700 of 1,000 MiB are left, and 100 more"
    rows_are(monkeypatch, [ran(peak_process_vram_mib=None)])
    with pytest.raises(SkipError, match="NVML does not report"):
        cells.out_of_memory(here)


STEPS_S = [0.1] * 6
GOOD = {
    "step_ms_median": 100.0, "step_ms_ci_low": 95.0, "step_ms_ci_high": 105.0,
    "forward_ms": 50.0, "backward_ms": 40.0, "optimizer_ms": 10.0, "startup_s": 1.0,
    "train_s": 0.8, "eval_s": 0.1, "wall_s": 3.0, "peak_rss_mib": 500.0, "peak_anon_mib": 400.0,
    "imports_anon_mib": 150.0, "weights_mib": 80.0, "gradients_mib": 1.0, "optimizer_mib": 2.0,
    "activations_mib": 90.0, "step_gflop": 1.0, "step_operators": 500, "step_moved_mib": 900.0,
    "predicted_peak_mib": 480.0, "predicted_s": 4.0, "steps_timed": 20, "products_ms": 60.0,
    "adapter_init_s": 0.1, "saved_mib": 1.0,
    "epochs_run": 1, "flops_per_token": 1e6, "texts_cut": 0, "tokens_cut": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(("changes", "steps", "text"), [
    ({}, STEPS_S, ""),
    ({"flags": "disturbed"}, STEPS_S, ""),
    ({"peak_anon_mib": None}, STEPS_S, "empty: peak_anon_mib"),
    ({"step_ms_median": None}, STEPS_S, "empty: step_ms_median"),
    ({"peak_anon_mib": 200.0}, STEPS_S, "the peak, 50 MiB, is less than tensors"),
    ({"optimizer_ms": 20.0}, STEPS_S, "takes 100.0 ms, and its parts 110.0"),
    ({}, [0.2] * 6, "6 steps take 150% of the time of training"),
    ({}, [], "0 steps take"),
    ({"status": "crashed", "message": "why"}, STEPS_S, "ended crashed (why)"),
])  # fmt: skip
def test_a_row_is_complete_and_consistent(changes, steps, text):
    finding = cells.judge_grid(ran(**(GOOD | changes)), steps, [])
    assert text in finding.summary, finding.summary
    assert finding.verdict == (FAILED if text else OK), finding.summary
    assert cells.judge_grid(ran(**GOOD), STEPS_S, ["no report"]).verdict == FAILED


def test_a_grid_is_limited_looked_at_and_gives_its_error_or_is_skipped(monkeypatch, tmp_path):
    """By a shell script in place of Python; without disk, model or data it is skipped."""
    pids, here, python = [], replace(HERE, folder=tmp_path), tmp_path / "python"
    text = f'sleep 0.1; echo "error: $4 $5 $(ulimit -v) ${cells.LOCKS}" >&2; exit 1'
    python.write_text(f"#!/bin/sh\n{text}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(cells, "fetch", lambda _name: None)
    words = ("engines", "--select", "mode=full")
    with pytest.raises(InputError, match=r"error: engines.toml --select 1048576 cells$"):
        cells.run_cells(here, *words, address_space=2**30, on_poll=pids.append)
    assert len(pids) > 1
    assert len(set(pids)) == 1
    monkeypatch.setattr(cells.shutil, "disk_usage", lambda _: SimpleNamespace(free=49 * 2**20))
    with pytest.raises(SkipError, match=r"needs 50 MiB of disk, and 49 are free .* set TMPDIR"):
        cells.run_cells(here, "grid")
    monkeypatch.setattr(cells, "fetch", raising(InputError("the package index can't be reached")))
    with pytest.raises(SkipError, match="index can't be reached"):
        cells.run_cells(here, "grid")
    monkeypatch.undo()
    names = sorted(check.name for check in CHECKS)
    grids = {path.stem: load(str(path)) for path in cells._GRIDS.glob("*.toml")}
    assert grids.keys() <= {*names}
    assert grids["out-of-memory"].cells[0].batch_size == list(cells.SIZES)
    assert grids["grid"].settings.max_steps == cells.STEPS_TAKEN
    page = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text(encoding="utf-8")
    assert sorted(re.findall("^### (.+)", page, re.M)) == names


def test_the_need_of_a_worker_is_read_and_that_of_others_is_not():
    code = "import mmap, sys; x = mmap.mmap(-1, int(sys.argv[2])); print(flush=True); input()"
    with ExitStack() as stack:
        for name, size in (("bench.worker", 2**28), ("other", 2**30)):
            argv = [sys.executable, "-c", code, name, str(size)]
            started = stack.enter_context(subprocess.Popen(argv, stdin=-1, stdout=-1))
            stack.callback(started.kill)
            started.stdout.readline()
        assert 256 < cells.most_mapped_mib(os.getpid()) < 600
