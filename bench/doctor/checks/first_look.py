"""The first look at a GPU: steps of bert-base, overflows and CUDA graphs, as is expected."""

import gc
import os
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch

from bench.doctor.check import Context, Finding, SkipError, judged
from bench.doctor.checks.compiled import CACHES
from bench.doctor.checks.numerics import overflow_problem
from bench.doctor.models import cell_trainer, kernels_of, median_ms, small_batch
from bench.plan.cell import MINBERT, TRANSFORMERS
from bench.worker.probes.memory import cuda_peaks_mib, start_cuda_peaks
from minbert.errors import InputError
from minbert.kernels.reference import FAST, REFERENCE, kernels
from minbert.training.compiled import CompiledModel, NoCompilerError, errors_in_a_line

LAYERS: Final = {"full": None, "lora": "all-lin-only", "dora": "all-lin-only"}
PATHS: Final = {
    "fast": (MINBERT, FAST), "reference": (MINBERT, REFERENCE), "PEFT": (TRANSFORMERS, REFERENCE),
}  # fmt: skip
"""The engine and the kernels of each path."""
GEOMETRY: Final = "bert-base"
COMPILED: Final = "minilm"
TEXTS, LONGEST = 64, 21
LENGTHS: Final = (16, 32, 64)
WARM_UP, STEPS = 3, 30
SLOWER: Final = 1.02
"""How many times as long as on reference kernels a step may take: what medians of 30 steps vary."""
_KINDS: Final = re.compile(r"cudnn|fmha_cutlass|flash_(?=fwd|bwd)")
_TF32: Final = re.compile(r"tf32|s1688gemm", re.IGNORECASE)


def steps(context: Context, mode: str) -> Finding:
    rows = [_row(context, mode, amp, path) for amp in context.amps for path in PATHS]
    return judge(rows, has_flash=context.amp_on == "bf16")


def overflow(context: Context) -> Finding:
    return judged("first-look.overflow", {}, {"problem": overflow_problem(context.device)})


def _row(context: Context, mode: str, amp: str, path: str) -> dict[str, Any]:
    device, (engine, name) = torch.device(context.device), PATHS[path]
    start_cuda_peaks(device)
    with kernels(name):
        trainer = cell_trainer(
            context.device, mode, LAYERS[mode], amp, GEOMETRY, engine=engine, own_kernels=False
        )
        batch, whole = (
            small_batch(TEXTS, LONGEST, context.device, masked=masked) for masked in (True, False)
        )
        for _ in range(WARM_UP):
            trainer.step(batch)
        begun = time.perf_counter()
        step_ms = median_ms(trainer, batch, STEPS)
        wall_ms = 1000 * (time.perf_counter() - begun) / STEPS
        masked, unmasked = (kernels_of(partial(trainer.step, b), device) for b in (batch, whole))
    return {
        "mode": mode, "amp": amp, "path": path, "step_ms": step_ms, "wall_ms": wall_ms,
        "kernels": len(masked), "busy_ms": sum(ms for _, ms in masked),
        "attention": _kinds(masked), "attention_unmasked": _kinds(unmasked),
        "tf32_kernels": sorted({name for name, _ in masked if _TF32.search(name)}),
        **cuda_peaks_mib(device, graphs=False),
    }  # fmt: skip


def _kinds(launched: Sequence[tuple[str, float]]) -> list[str]:
    """The kinds of attention among kernels, and any of cuDNN."""
    return sorted({kind[0].rstrip("_") for name, _ in launched if (kind := _KINDS.search(name))})


def judge(rows: Sequence[Mapping[str, Any]], *, has_flash: bool) -> Finding:
    """The finding on the rows of a mode: fast against reference kernels first."""
    expected: dict[str, bool] = {}
    step_ms = {(row["amp"], row["path"]): row["step_ms"] for row in rows}
    ratios = {amp: step_ms[amp, "fast"] / step_ms[amp, "reference"] for amp, _ in step_ms}
    for amp, ratio in ratios.items():
        expected[f"amp {amp}: fast takes {ratio:.2f} of plain torch"] = ratio <= SLOWER
    for row in rows:
        name = f"amp {row['amp']}, {row['path']}"
        flash = "flash" if has_flash and row["amp"] != "off" else "fmha_cutlass"
        for key, kind in (("attention", "fmha_cutlass"), ("attention_unmasked", flash)):
            kinds = ", ".join(row[key]) or "no known kernel"
            expected[f"{name}: {key} is by {kinds}"] = row[key] == [kind]
        if row["amp"] == "off":
            tf32 = len(row["tf32_kernels"])
            expected[f"{name}: {tf32} kernels in TF32"] = not tf32
    mode = rows[0]["mode"]
    return _expectation(f"first-look.{mode}", expected, list(rows), f"{mode}: ")


def graphs(context: Context) -> Finding:
    """Record CUDA graphs of three lengths in both orders, after a first time that compiles."""
    os.environ.update({name: str(context.folder / name.lower()) for name in CACHES})
    from torch._dynamo.utils import counters

    device, rows = torch.device(context.device), list[dict[str, Any]]()
    for order in (LENGTHS, LENGTHS, LENGTHS[::-1]):
        model = cell_trainer(context.device, "lora", "all-lin-only", context.amp_on, COMPILED).model
        skipped = counters["inductor"]["cudagraph_skips"]
        start_cuda_peaks(device)
        try:
            with errors_in_a_line():
                compiled = CompiledModel(model, TEXTS, order)
                compiled.lengths = order
                compiled.rehearse(context.amp_on)
        except NoCompilerError as error:
            raise SkipError(str(error)) from error
        except InputError as error:
            return judged("first-look.graphs", {}, {"error": error})
        skipped = counters["inductor"]["cudagraph_skips"] - skipped
        peaks = cuda_peaks_mib(device, graphs=True)
        rows.append({"lengths": order, "cudagraph_skips": skipped, **peaks})
        del model, compiled
        torch._dynamo.reset()
        gc.collect()
    del rows[0]  # its peaks have those of compiling, of which the cache spares the others
    up, down = (row.get("peak_cuda_reserved_mib", 0.0) for row in rows)
    skips = [row["cudagraph_skips"] for row in rows]
    expected = {f"{skipped} graphs are skipped": not skipped for skipped in skips}
    text = f"{up:,.0f} MiB are reserved for ascending lengths, {down:,.0f} for descending"
    return _expectation("first-look.graphs", expected | {text: down <= up}, rows)


def _expectation(
    name: str, expected: Mapping[str, bool], rows: Sequence[Any], prefix: str = ""
) -> Finding:
    wrong = [text for text, holds in expected.items() if not holds]
    right = [text for text, holds in expected.items() if holds]
    figures = {"rows": rows, "as_expected": right, "not_as_expected": wrong}
    return judged(
        name, figures, {"not": wrong}, right=len(right), all=len(expected),
        example=next(iter(right), ""), mode=prefix,
    )  # fmt: skip
