"""The first look at a GPU, on the CPU with a small model and kernels that are named."""

import itertools
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from bench.doctor import models, session
from bench.doctor.check import FAILED, FIRST_LOOK, OK, Context, SkipError
from bench.doctor.checks import first_look
from minbert.kernels.reference import is_reference
from minbert.model.classifier import BertClassifier
from minbert.training.compiled import NoCompilerError

HERE = Context("cpu", 1, "bf16", Path(), ("off", "bf16"))


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    for name, value in {
        "GEOMETRY": "bert-tiny", "COMPILED": "bert-tiny", "TEXTS": 4, "LONGEST": 8, "STEPS": 2,
        "WARM_UP": 1, "LENGTHS": (8, 16, 32), "SLOWER": 1e9,
    }.items():  # fmt: skip
        monkeypatch.setattr(first_look, name, value)


@pytest.fixture
def launched(monkeypatch):
    """Kernels besides those of attention; and engine, kernels and number of each profiled step."""
    more, taken = ["gemm"], []

    def kernels_of(step, _device):
        step()
        trainer, [batch] = step.func.__self__, step.args
        engine = "minbert" if isinstance(trainer.model, BertClassifier) else "transformers"
        taken.append((engine, "reference" if is_reference() else "fast", trainer._taken))
        has_flash = trainer.amp != "off" and batch.attention_mask is None
        attention = "flash_fwd_kernel" if has_flash else "fmha_cutlassF_f32_aligned"
        return [(attention, 0.5), *((name, 1.0) for name in more)]

    monkeypatch.setattr(first_look, "kernels_of", kernels_of)
    return more, taken


@pytest.mark.parametrize(("more", "text"), [
    ([], ""),
    (["cudnn_generated_fort_native_sdpa_sm90_flash_fprop"], "attention is by cudnn, fmha"),
    (["sm80_xmma_gemm_f32f32_tf32f32_f32"], "1 kernels in TF32"),
])  # fmt: skip
def test_steps_of_a_mode(launched, more, text, monkeypatch):
    names, taken = launched
    names += more
    devices = []
    monkeypatch.setattr(models, "set_up_device", lambda device, **_of: devices.append(device.type))
    finding = first_look.steps(HERE, "lora")
    paths = [("minbert", "fast"), ("minbert", "reference"), ("transformers", "reference")]
    assert taken == [(*path, number) for path in paths * 2 for number in (4, 5)]
    assert devices == ["cpu"] * 6
    rows = finding.figures["rows"]
    both = itertools.product(HERE.amps, first_look.PATHS)
    assert {(row["amp"], row["path"]) for row in rows} == {*both}
    assert all(row["step_ms"] > 0 and row["kernels"] == 2 + len(more) for row in rows)
    assert rows[0]["busy_ms"] == 1.5 + len(more)
    assert finding.verdict == (FAILED if text else OK), finding.summary
    assert text in finding.summary


def test_slower_fast_kernels_come_first_and_flash_attention_is_expected(launched, monkeypatch):
    monkeypatch.setattr(first_look, "SLOWER", 0.0)
    wrong = first_look.steps(replace(HERE, amps=("off",)), "full").figures["not_as_expected"]
    assert wrong[0].startswith("amp off: fast takes ")
    monkeypatch.undo()
    row = {"mode": "full", "amp": "fp16", "attention": ["fmha_cutlass"], "tf32_kernels": []}
    row |= {"step_ms": 1.0, "attention_unmasked": ["fmha_cutlass"]}
    rows = [row | {"path": path} for path in first_look.PATHS]
    assert [first_look.judge(rows, has_flash=has).verdict for has in (False, True)] == [OK, FAILED]


def test_gradients_that_overflow_by_the_name_of_the_part(monkeypatch, tmp_path):
    monkeypatch.setattr("bench.worker.process.tie_to_parent", lambda: None)
    assert [each.arguments for each in FIRST_LOOK[:3]] == [("full",), ("lora",), ("dora",)]
    session.main("first-look.overflow", tmp_path, {"device": "cpu", "threads": 1, "amp_on": "bf16"})
    assert "moves no weight" in (tmp_path / "result.json").read_text()
    monkeypatch.setattr(first_look, "overflow_problem", lambda _device: "it moves weights")
    assert first_look.overflow(HERE).summary == "it moves weights"


def test_graphs_are_recorded_in_both_orders(monkeypatch, tmp_path):
    for name in first_look.CACHES:
        monkeypatch.setenv(name, "")
    orders = []
    reserved = iter((900.0, 300.0, 200.0, 100.0, 200.0, 300.0))
    peaks = lambda *_of, **_more: {"peak_cuda_reserved_mib": next(reserved)}  # noqa: E731
    monkeypatch.setattr(first_look, "cuda_peaks_mib", peaks)
    rehearse = lambda made, _amp: orders.append(made.lengths)  # noqa: E731
    monkeypatch.setattr(first_look.CompiledModel, "rehearse", rehearse)
    here = replace(HERE, folder=tmp_path)
    assert first_look.graphs(here).verdict == OK
    assert orders == [(8, 16, 32), (8, 16, 32), (32, 16, 8)]
    assert "200 MiB are reserved for ascending" in first_look.graphs(here).summary

    none = mock.Mock(side_effect=NoCompilerError("compile: there is no compiler"))
    monkeypatch.setattr(first_look.CompiledModel, "rehearse", none)
    with pytest.raises(SkipError, match="there is no compiler"):
        first_look.graphs(here)
