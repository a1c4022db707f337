"""Counts the kernels and bytes of a training step on a GPU, on fake tensors, and prints a table.

    python -m tests.gpu.kernels

The geometry is bert-base, rank 8, and a batch is 64 texts, with a mask. `ours` and `plain torch`
(`kernels = "reference"`) are this project's, the third is engine transformers with PEFT. A kernel
is an operator that writes memory; one on a list of tensors counts once, and `baddbmm` into a new
tensor twice. No GPU is needed, but a C++ compiler, unless torch has CUDA."""

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import click
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _foreach_utils

from adapters.injection import convert_frozen, inject
from bench.forecast.fake import fill
from bench.plan.cell import TRANSFORMERS
from bench.worker.probes.counting import Counter
from minbert.kernels.reference import FAST, REFERENCE, kernels
from minbert.model.classifier import BertClassifier
from minbert.model.config import GEOMETRIES
from minbert.training.trainer import HALF
from tests.bench.synthetic_rows import cell as synthetic_cell
from tests.bench.tiny_cells import job_of
from tests.gpu.fake.gpu import GPU, batch_of, stand_in, trainer_of
from tests.gpu.test_fake import build_guard

ROOT = Path(__file__).resolve().parents[2]
TEXTS, CLASSES, RANK = 64, 5, 8
SETTINGS = [
    ("full", None), ("head", None), *product(("lora", "dora"), ("all-lin-only", "attn-only"))
]  # fmt: skip
AMP = ("off", "bf16", "fp16")
THEIRS = "transformers + PEFT"


class Count(NamedTuple):
    """The costs of a training step."""

    kernels: int
    moved_mib: float
    peak_mib: float


class KernelCounter(Counter):
    """A counter that knows that `baddbmm` first copies its first argument to a new result on a GPU
    (`common_checks_baddbmm_bmm` in ATen/native/LinearAlgebra.cpp), unless beta is 0."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if func is torch.ops.aten.baddbmm.default and (kwargs or {}).get("beta", 1) != 0:
            done = self.work
            copied = {"moved": done.moved + 2 * out.nbytes, "kernels": done.kernels + 1}
            self.work = done._replace(**copied)
        return out


def count_step(trainer, batch, counter):
    """Count a step, once optimizer and scaler have a state, by a counter older than the model."""
    for parameter in trainer.parameters:
        trainer.optimizer._state_of(parameter)
    if trainer.scaler is not None:
        trainer.scaler.scale(torch.ones((), device=GPU))
    counter.restart_peak()
    before = counter.work
    trainer.step(batch)
    work = counter.work.minus(before)
    return Count(work.kernels, work.moved / 2**20, counter.peak / 2**20)


def count_ours(mode, layers, amp, name, config=GEOMETRIES["bert-base"], *, length=21, held=False):
    """Count a step of our trainer with some kernels; `held`: frozen weights are in AMP's type."""
    model = BertClassifier(config, CLASSES, pooling="mean", dropout=0.1)
    rank = None if layers is None else RANK
    inject(model, mode=mode, layers=layers, rank=rank, alpha=1.0, new_pooler=False, seed=0)
    if held:
        convert_frozen(model, HALF[amp])
    with kernels(name), FakeTensorMode(), KernelCounter() as counter:
        fill(model, GPU)
        return count_step(trainer_of(model, amp), batch_of(TEXTS, length), counter)


def count_theirs(mode, layers, amp, length, folder=None, *, device=str(GPU), **settings):
    """Count a step of engine transformers with torch's attention, on bert-base or a folder's, as
    built for a device."""
    from bench.engines import transformers

    model_type = "bert-base" if folder is None else folder.name
    cell = synthetic_cell(
        mode, None if layers is None else RANK, layers, amp, engine=TRANSFORMERS, kernels=None,
        attn_implementation="sdpa", model=model_type, init="random", **settings,
    )  # fmt: skip
    job = job_of(cell, folder, None if folder else model_type)
    model = transformers.skeleton(replace(job, device=device))
    with FakeTensorMode(), KernelCounter() as counter:
        fill(model, GPU)
        trainer = trainer_of(model, amp, named=transformers.parameter_groups(model))
        return count_step(trainer, batch_of(TEXTS, length), counter)


def label(mode, layers, amp):
    return " ".join(filter(None, (mode, layers, "fp32" if amp == "off" else amp)))


@click.command(help=__doc__)
@click.option("--length", type=click.IntRange(1, 512), default=21, help="Tokens of a text.")
def main(length):
    """Print the table, in a process where torch has a GPU from the first."""
    if torch.version.cuda is None and "LD_PRELOAD" not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "LD_PRELOAD": str(build_guard(Path(folder)))}
            argv = [sys.executable, "-m", "tests.gpu.kernels", f"--length={length}"]
            subprocess.run(argv, cwd=ROOT, env=environment, check=True)
        return
    # torch's choice for real tensors, but not for fake ones
    _foreach_utils._foreach_supported_types += [FakeTensor, nn.Parameter]
    sides = {"ours": FAST, "plain torch": REFERENCE, THEIRS: THEIRS}
    print("| | " + " | ".join(sides) + " |", "|---" * (1 + len(sides)) + "|", sep="\n")
    with pytest.MonkeyPatch.context() as patch:
        if torch.version.cuda is None:
            stand_in(patch)
        for (mode, layers), amp in product(SETTINGS, AMP):
            cells = [label(mode, layers, amp)]
            for side in sides.values():
                if side == THEIRS:
                    costs = count_theirs(mode, layers, amp, length)
                else:
                    costs = count_ours(mode, layers, amp, side, length=length)
                cells.append(" / ".join(f"{cost:,.0f}" for cost in costs))
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
