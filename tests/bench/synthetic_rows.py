"""Rows of runs.csv that look like a real full grid's, made without running anything."""

import random
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

from adapters.methods import LOW_RANK
from adapters.names import LAYER_SETS
from bench.plan.cell import Cell
from bench.plan.columns import NAMES, row_of
from bench.plan.gridfile import Rates
from bench.plan.learning_rates import rates_of
from bench.plan.rows import Row
from bench.results.rescoring import Results
from bench.results.rowfile import encode, record
from bench.stats.intervals import fisher, wilson

RANKS = (1, 2, 4, 8)
_FAILURES = {
    ("dora", 8, "all-lin", "off"): ("oom", "the host ran out of memory (peak 15,871 MiB reached)"),
    ("dora", 4, "attn", "bf16"): ("timeout", "still training after 600 s (epoch 1, step 214)"),
    ("lora", 2, "all-lin", "bf16"): ("crashed", "RuntimeError: expected m1 and m2 to have the "
                                     "same dtype, but got: float != c10::BFloat16"),
}  # fmt: skip


def full_grid() -> list[tuple[str, int | None, str | None, str]]:
    """The 68 settings of the full grid: mode, rank, layers, amp."""
    amps = ("off", "bf16")
    plain = product(("full", "head"), [None], [None], amps)
    return [*plain, *product(LOW_RANK, RANKS, LAYER_SETS, amps)]


def cell(mode: str, rank: int | None, layers: str | None, amp: str, seed: int = 0, **other) -> Cell:
    """A cell with the settings of the embedded default."""
    values = {
        "model": "minilm", "model_digest": "7c1d0f9a44be", "init": "pretrained",
        "pooling": "mean", "task": "movies", "data_digest": "3e9ab01c77d2", "max_train": 2000,
        "max_dev": None, "max_length": 128, "batching": "by-length", "batch_size": 32,
        "epochs": 2, "max_steps": None, "optimizer": "adamw", "learning_rate_source": "default",
        "weight_decay": 0.01, "warmup": 0.1, "dropout": 0.1,
        "alpha": None if rank is None else 16.0, "unfreeze": None if mode == "head" else "all",
    } | rates_of(Rates(), mode, layers, 32) | other  # fmt: skip
    return Cell(mode=mode, rank=rank, layers=layers, amp=amp, seed=seed, **values)


HERE = {
    "conditions_id": "c0ffee123456", "device": "cpu", "device_name": "Xeon 2.8 GHz",
    "machine": "Xeon 2.8 GHz, 2 cores, 16 GiB", "threads": 2, "torch_version": "2.13.0+cpu",
    "measurement_version": 1, "code_version": "0.1.0",
}  # fmt: skip


def new_row(**values) -> Row:
    """A row with some values, otherwise a planned cell of full fine-tuning."""
    return row_of(cell("full", None, None, "off").columns() | HERE | values)


def planned_row(of: Cell, conditions_id: str = "c0ffee123456") -> Row:
    """A cell as planned: axes, settings and ids, no results."""
    return row_of(of.columns() | HERE | {"conditions_id": conditions_id})


def result_row(of: Cell, noise: random.Random | None = None, **other) -> Row:
    """A row that ended ok, as on a two-core machine; without `noise` it is always the same."""
    noise = noise or random.Random(0)  # noqa: S311
    layers, trains = of.layers or "", of.mode == "full" or of.layers in ("attn", "all-lin")
    memory = {"full": 1010.0, "head": 560.0}.get(of.mode, 640.0)
    time = {"full": 41.0, "head": 13.5, "lora": 29.0, "dora": 33.5}.get(of.mode, 20.0)
    if of.rank is not None:
        memory += (35 if "all-lin" in layers else 0) + (260 if trains else 0) + 1.5 * of.rank
        time += (6 if "all-lin" in layers else 0) + (7 if trains else 0) + 0.1 * of.rank
        memory += 45 if of.mode == "dora" else 0
    if of.amp != "off":
        memory, time = memory * 0.83, time * 0.71
    score = {"full": 0.535, "head": 0.441, "lora": 0.522, "dora": 0.524}.get(of.mode, 0.5)
    score += 0.006 * ("all-lin" in layers) + 0.004 * trains - (0.004 if of.amp != "off" else 0)
    score += noise.gauss(0, 0.008)
    time *= noise.gauss(1, 0.02)
    score = round(1061 * score) / 1061
    classifies = of.task == "movies"
    low, high = wilson(round(1061 * score), 1061) if classifies else fisher(score, 1061)
    trainable = {"full": 22_713_216, "head": 1_925}.get(of.mode, 74_000 * (of.rank or 0))
    step = time * 0.75
    quality = {
        "dev_metric": "accuracy" if classifies else "pearson",
        "dev_score": score, "dev_ci_low": low, "dev_ci_high": high,
        "dev_accuracy": score if classifies else None, "dev_loss": 1.16,
        "train_loss": 1.05, "train_score": score + 0.03,
        "majority_score": 0.36 if classifies else None,
    }  # fmt: skip
    return planned_row(of) | dict(
        attempt=1, grid="full", status="ok", params_total=22_715_141,
        params_trainable=trainable, tokens_total=98_544,
        flops_per_token=6.4e7, step_ms_median=step, step_ms_ci_low=step * 0.985,
        step_ms_ci_high=step * 1.02, ms_per_1k_tokens=time,
        ms_per_1k_tokens_ci_low=time * 0.985, ms_per_1k_tokens_ci_high=time * 1.02, steps_timed=48,
        examples_per_s=32_000 / step, startup_s=3.4, train_s=98.5 * time / 1000 + 8,
        eval_s=4.1, wall_s=98.5 * time / 1000 + 18, peak_rss_mib=memory + noise.gauss(0, 4),
        peak_anon_mib=memory - 180, started_at="2026-11-20T10:00:00Z",
        finished_at="2026-11-20T10:01:10Z", **quality if of.init == "pretrained" else {},
    ) | other  # fmt: skip


def failed_row(of: Cell, status: str, message: str, **other) -> Row:
    return planned_row(of) | {
        "attempt": 1, "grid": "full", "status": status, "message": message,
        "started_at": "2026-11-20T10:00:00Z", "finished_at": "2026-11-20T10:01:10Z",
    } | other  # fmt: skip


def synthetic_rows(n: int = 68, *, failures: bool = True, **settings) -> list[Row]:
    """`n` rows of the full grid, seed by seed; with `failures`, three of each did not end ok."""
    noise, grid, rows = random.Random(0), full_grid(), []  # noqa: S311
    for i in range(n):
        axes = grid[i % len(grid)]
        of = cell(*axes, seed=i // len(grid), **settings)
        fails = failures and axes in _FAILURES
        rows.append(failed_row(of, *_FAILURES[axes]) if fails else result_row(of, noise))
    return rows


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    path.write_bytes(record(NAMES) + b"".join(map(encode, rows)))


class _Unplanned(Results):
    """Results whose names are of no real files, beside which there may be a plan all the same."""

    planned = property(lambda _self: [])  # type: ignore[assignment]


def as_results(rows: Iterable[Row], runs: Iterable[str] = (), **more: Any) -> Results:
    paths = [*map(Path, runs)]
    kind = Results if any(path.is_absolute() for path in paths) else _Unplanned
    return kind(paths, [*rows], **more)
