"""The host's time of a training step on a GPU, in engine minbert beside plain torch and in engine
transformers beside PEFT's layers: as a command, with `--pairs`, it prints the tables of
docs/performance.md.

No GPU is needed: its code paths run on the CPU, on a model with so few numbers that a step is
nearly all overhead. Settings whose ratio's 95% interval lies above 1 are measured again, four times
as long, at a level corrected for the number of settings."""

import gc
import os
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import NormalDist

import click
import numpy as np
import pytest
import torch

from bench.engines.engine import engine_of
from bench.worker.setup import trained_groups
from minbert.data.batches import Batch
from minbert.kernels.reference import FAST, KERNELS, kernels
from minbert.model.config import GEOMETRIES
from minbert.training.trainer import Trainer
from tests.benchmarks.conftest import RANK, trainer_of
from tests.encoders import job, need_transformers, save
from tests.gpu.kernels import AMP, SETTINGS, label
from tests.minbert.kernels.test_fast_path import force_gpu

TINY = replace(
    GEOMETRIES["bert-base"], hidden_size=24, intermediate_size=32, vocab_size=64,
    max_position_embeddings=4,
    attention_probs_dropout_prob=0.0,  # with it torch's attention is many operators on a CPU
)  # fmt: skip
SIZES = {
    "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 12, "num_attention_heads": 12,
}  # fmt: skip
PAIRS = 30
LEVEL = 0.05
TRIMMED = 0.2  # the share of the ratios at either end that the mean leaves out


@contextmanager
def as_on_gpu():
    """On one core and one thread, with the code paths for a GPU."""
    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        force_gpu(patch)
        os.sched_setaffinity(0, {max(cores)})
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            os.sched_setaffinity(0, cores)


def beside_plain_torch(mode, layers, amp):
    """A trainer with our kernels, and with plain torch."""
    return [(trainer_of(TINY, mode, layers, amp), name) for name in KERNELS]


def beside_peft(mode, amp, **branch):
    """A trainer of engine transformers with our layers, and with PEFT's."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "bert"
        save("bert", folder, **SIZES)
        return [
            (transformers_trainer(job(folder, mode, "all-lin-only", amp=amp, rank=RANK,
                                      own_kernels=own, **branch)), FAST)
            for own in ("on", "off")
        ]  # fmt: skip


def transformers_trainer(a_job):
    model = engine_of(a_job.cell).build(a_job)
    for name, module in model.named_modules():
        if name.endswith("attention.self.dropout"):
            module.p = 0.0  # as in TINY
    return Trainer(
        model, trained_groups(model, a_job.cell), losses={"": "cross-entropy"},
        schedule=lambda _step: 1.0, amp=a_job.cell.amp, device=torch.device("cpu"),
    )  # fmt: skip


def host_time(sides, pairs, level=LEVEL):
    """Steps of two trainers in pairs within `as_on_gpu`: the median times, and their ratio with
    its interval."""
    ids = torch.ones(1, 2, dtype=torch.int64)
    batch = Batch(ids, torch.ones_like(ids), torch.zeros_like(ids), ids[:, 0], 2)

    def step(side):
        trainer, name = sides[side]
        with kernels(name):
            start = time.thread_time()
            trainer.step(batch)
            return time.thread_time() - start

    for side in 3 * (0, 1):
        step(side)
    gc.collect()
    gc.disable()
    try:
        orders = [(0, 1) if pair % 2 else (1, 0) for pair in range(pairs)]
        both = [{side: step(side) for side in order} for order in orders]
    finally:
        gc.enable()
    times = np.array([[pair[0], pair[1]] for pair in both])
    # the trimmed mean (Tukey and McLaughlin 1963), as interrupts make some pairs outliers
    logs = np.sort(np.log(times[:, 0] / times[:, 1]))
    cut = int(TRIMMED * len(logs))
    mean = logs[cut : len(logs) - cut].mean()
    winsorised = np.clip(logs, logs[cut], logs[-cut - 1])
    error = winsorised.std(ddof=1) / ((1 - 2 * TRIMMED) * np.sqrt(len(logs)))
    width = NormalDist().inv_cdf(1 - level / 2) * error
    return np.median(times, axis=0) * 1e3, np.exp([mean, mean - width, mean + width])


ROWS = {label(*of, amp): partial(beside_plain_torch, *of, amp) for of in SETTINGS for amp in AMP}
PEFT_ROWS = {
    label(mode, None, amp): partial(beside_peft, mode, amp)
    for mode in ("lora", "dora") for amp in AMP[:2]
}  # fmt: skip
BRANCH_ROWS = {
    f"{label(mode, None, amp)}, {name}": partial(beside_peft, mode, amp, **branch)
    for mode in ("lora", "dora")
    for name, branch in (("dropout", {"lora_dropout": 0.1}), ("LoRA-FA", {"lora_fa": "on"}))
    for amp in AMP[:2]
}
"""Side branches by our layers, which take more of the host's time: on a GPU they are PEFT's where
that saves no bytes (`bench.engines.own_kernels.has_own_layers`)."""


def host_times(rows, pairs):
    with as_on_gpu():
        return {name: host_time(sides(), pairs) for name, sides in rows.items()}


@pytest.mark.parametrize("rows", [ROWS, PEFT_ROWS], ids=["plain torch", "PEFT"])
def test_a_step_on_a_gpu_costs_at_most_what_the_plain_composition_does(rows, benchmark):
    need_transformers()
    times = benchmark.pedantic(host_times, args=(rows, PAIRS), rounds=1, iterations=1)
    benchmark.extra_info["ratios"] = {name: round(of[0], 3) for name, (_, of) in times.items()}
    slow, level = [name for name, (_, of) in times.items() if of[1] > 1], LEVEL / len(rows)
    with as_on_gpu():
        again = {name: host_time(rows[name](), 4 * PAIRS, level) for name in slow}
    assert not {name: of for name, (_, of) in again.items() if of[1] > 1}


@click.command(help=__doc__)
@click.option("--pairs", type=click.IntRange(10), default=200, help="Pairs of steps of a setting.")
def main(pairs):
    for other, rows in {"plain torch": ROWS, "PEFT": PEFT_ROWS | BRANCH_ROWS}.items():
        print(
            f"| | host's time, ours / {other} | ms, ours and {other} |", "|---|---|---|", sep="\n"
        )
        for name, ((ours_ms, their_ms), (ratio, low, high)) in host_times(rows, pairs).items():
            shown = f"{ratio:.3f} ({low:.3f} to {high:.3f})"
            print(f"| {name} | {shown} | {ours_ms:.1f} and {their_ms:.1f} |")


if __name__ == "__main__":
    main()
