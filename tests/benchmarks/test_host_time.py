"""The host's time of a training step on a GPU, beside plain torch: as a command, with `--pairs`,
it prints the table of docs/performance.md.

No GPU is needed: its code paths run on the CPU, on a model with so few numbers that a step is
nearly all overhead. Settings whose ratio's 95% interval lies above 1 are measured again, four times
as long, at a level corrected for the number of settings."""

import gc
import os
import time
from contextlib import contextmanager
from dataclasses import replace
from statistics import NormalDist

import click
import numpy as np
import pytest
import torch

from minbert.data.batches import Batch
from minbert.kernels.reference import FAST, KERNELS, REFERENCE, kernels
from minbert.model.config import GEOMETRIES
from tests.benchmarks.conftest import trainer_of
from tests.gpu.kernels import AMP, SETTINGS, label
from tests.minbert.kernels.test_fast_path import force_gpu

TINY = replace(
    GEOMETRIES["bert-base"], hidden_size=24, intermediate_size=32, vocab_size=64,
    max_position_embeddings=4,
    attention_probs_dropout_prob=0.0,  # with it torch's attention is many operators on a CPU
)  # fmt: skip
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


def host_time(mode, layers, amp, pairs, level=LEVEL):
    """Steps in pairs within `as_on_gpu`: the median times, and their ratio with its interval."""
    trainer = trainer_of(TINY, mode, layers, amp)
    ids = torch.ones(1, 2, dtype=torch.int64)
    batch = Batch(ids, torch.ones_like(ids), torch.zeros_like(ids), ids[:, 0], 2)

    def step(name):
        with kernels(name):
            start = time.thread_time()
            trainer.step(batch)
            return time.thread_time() - start

    for name in 3 * KERNELS:
        step(name)
    gc.collect()
    gc.disable()
    try:
        orders = [KERNELS if pair % 2 else KERNELS[::-1] for pair in range(pairs)]
        both = [{name: step(name) for name in order} for order in orders]
    finally:
        gc.enable()
    times = np.array([[pair[FAST], pair[REFERENCE]] for pair in both])
    # the trimmed mean (Tukey and McLaughlin 1963), as interrupts make some pairs outliers
    logs = np.sort(np.log(times[:, 0] / times[:, 1]))
    cut = int(TRIMMED * len(logs))
    mean = logs[cut : len(logs) - cut].mean()
    winsorised = np.clip(logs, logs[cut], logs[-cut - 1])
    error = winsorised.std(ddof=1) / ((1 - 2 * TRIMMED) * np.sqrt(len(logs)))
    width = NormalDist().inv_cdf(1 - level / 2) * error
    return np.median(times, axis=0) * 1e3, np.exp([mean, mean - width, mean + width])


ROWS = {label(*of, amp): (*of, amp) for of in SETTINGS for amp in AMP}


def host_times(pairs):
    with as_on_gpu():
        return {name: host_time(*row, pairs) for name, row in ROWS.items()}


def test_a_step_on_a_gpu_costs_at_most_what_plain_torch_does(benchmark):
    times = benchmark.pedantic(host_times, args=(PAIRS,), rounds=1, iterations=1)
    benchmark.extra_info["ratios"] = {name: round(of[0], 3) for name, (_, of) in times.items()}
    slow, level = [name for name, (_, of) in times.items() if of[1] > 1], LEVEL / len(ROWS)
    with as_on_gpu():
        again = {name: host_time(*ROWS[name], 4 * PAIRS, level) for name in slow}
    assert not {name: of for name, (_, of) in again.items() if of[1] > 1}


@click.command(help=__doc__)
@click.option("--pairs", type=click.IntRange(10), default=200, help="Pairs of steps of a setting.")
def main(pairs):
    print("| | host's time, ours / plain torch | ms, ours and plain torch |\n|---|---|---|")
    for name, ((ours_ms, plain_ms), (ratio, low, high)) in host_times(pairs).items():
        shown = f"{ratio:.3f} ({low:.3f} to {high:.3f})"
        print(f"| {name} | {shown} | {ours_ms:.1f} and {plain_ms:.1f} |")


if __name__ == "__main__":
    main()
