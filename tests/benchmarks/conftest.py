"""What benchmarks share: as many threads as a cell, many rows, a browser."""

import os
import subprocess
import sys

import pytest
import torch

from adapters.injection import inject, parameter_groups
from bench.machine.conditions import usable_threads
from bench.plan.columns import NAMES
from bench.results.rowfile import encode, read_rows, record
from minbert.model.classifier import BertClassifier, initialise
from minbert.training.optimizer import ParameterGroup
from minbert.training.schedules import schedule_of
from minbert.training.trainer import Trainer
from tests.bench.conftest import browser as browser
from tests.bench.synthetic_rows import synthetic_rows

CLASSES, RANK = 5, 8
_PEAK_OF = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print("\\n", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
sys.exit(code)
"""
"""A small process: to the peak of one counts that of the process which started it, at that time."""


def trainer_of(config, mode, layers, amp):
    model = BertClassifier(config, CLASSES, pooling="mean", dropout=0.1)
    initialise(model, 0)
    rank = None if layers is None else RANK
    inject(model, mode=mode, layers=layers, rank=rank, alpha=1.0, new_pooler=False, seed=0)
    every = parameter_groups(model).values()
    groups = [ParameterGroup(tuple(each.values()), 1e-3, 0.01) for each in every]
    return Trainer(
        model, groups, losses={"": "cross-entropy"}, schedule=schedule_of("linear", 10**6, 0.0),
        amp=amp, device=torch.device("cpu"),
    )  # fmt: skip


def output_and_peak(*words, **variables):
    """What this Python prints with some words, and its peak in MiB."""
    command = [sys.executable, "-c", _PEAK_OF, sys.executable, *map(str, words)]
    env = {**os.environ, **variables}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    output, _, peak = done.stdout.rstrip().rpartition("\n")
    return output, int(peak)


def run_grid(folder, grid, *options):
    """Run what is missing of a grid's cells on the CPU; the rows of its folder."""
    (folder / "grid.toml").write_text(grid)
    ran = subprocess.run(
        [sys.executable, "-m", "bench.grid", "--grid", "grid.toml", "--device", "cpu", *options],
        cwd=folder, env={**os.environ, "MINBERT_BENCH_LOCKS": str(folder / "locks")}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    return read_rows(folder / "runs.csv")


@pytest.fixture(autouse=True)
def threads():
    """As many threads as a worker takes; tests have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(usable_threads())
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """A runs.csv of 25,000 rows. Not to be changed."""
    path = tmp_path_factory.mktemp("many") / "runs.csv"
    path.write_bytes(record(NAMES) + b"".join(map(encode, synthetic_rows(25_000))))
    return path
