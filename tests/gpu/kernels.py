"""Counts the kernels and bytes of a training step on a GPU, on fake tensors, and prints a table.

    python -m tests.gpu.kernels --before ../before

The geometry is bert-base, batches are 64 texts of 21 tokens, padded. `ours` and `plain torch`
(`kernels = "reference"`) are this checkout's, `before` is another checkout's, and the fourth is
transformers with PEFT as `bench.peers` trains them. A kernel is an operator that writes memory; one
on a list of tensors counts once. No GPU is needed, but a C++ compiler, unless torch has CUDA.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import pytest

if GUARD := os.environ.get("MINBERT_BENCH_FAKE_GPU"):
    import ctypes; ctypes.CDLL(GUARD, mode=ctypes.RTLD_GLOBAL)

import torch
from torch import nn

ROOT: Final = Path(__file__).resolve().parents[2]
TEXTS, LENGTH, CLASSES, RANK = 64, 21, 5, 8
SETTINGS: Final = (
    ("full", None),
    ("head", None),
    ("lora", "all-lin-only"),
    ("lora", "attn-only"),
    ("dora", "all-lin-only"),
    ("dora", "attn-only"),
)
AMP: Final = ("off", "bf16", "fp16")
SIDES: Final = ("before", "ours", "plain torch", "transformers + PEFT")


@dataclass(frozen=True)
class Count:
    """The costs of a training step."""

    kernels: int
    moved_mib: float
    peak_mib: float

    def __str__(self) -> str:
        return f"{self.kernels:,} / {self.moved_mib:,.0f} / {self.peak_mib:,.0f}"


def count_step(trainer: Any, batch: Any, counter: Any) -> Count:
    """Count a step, after one that has made the optimizer's state.

    Args:
        counter: a `bench.forecast.counting.Counter`, entered before the model was given tensors.
    """
    trainer.step(batch)
    counter.restart_peak()
    before = counter.work
    trainer.step(batch)
    work = counter.work - before
    return Count(work.kernels, work.moved / 2**20, counter.peak / 2**20)


def count_ours(
    mode: str, layers: str | None, amp: str, name: str, config: Any = None, *, held: bool = False
) -> Count:
    """Count a step of this project's trainer, in the checkout that is imported.

    Args:
        name: one of `minbert.kernels.reference.KERNELS`.
        config: of the model; bert-base by default.
        held: whether frozen weights are in AMP's type.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    from adapters.injection import hold_frozen, inject
    from bench.forecast.counting import Counter
    from bench.forecast.fake import fill
    from minbert.kernels.reference import kernels
    from minbert.model.classifier import BertClassifier
    from minbert.model.config import GEOMETRIES
    from minbert.training.trainer import HALF
    from tests.gpu.fake.gpu import GPU
    from tests.gpu.fake.models import batch_of, trainer_of

    model = BertClassifier(config or GEOMETRIES["bert-base"], CLASSES, pooling="mean", dropout=0.1)
    rank = None if layers is None else RANK
    inject(model, mode=mode, layers=layers, rank=rank, alpha=1.0, new_pooler=False, seed=0)
    if held:
        hold_frozen(model, HALF[amp])
    with kernels(name), FakeTensorMode(), Counter() as counter:
        fill(model, GPU)
        return count_step(trainer_of(model, amp), batch_of(TEXTS, LENGTH), counter)


def count_theirs(mode: str, layers: str | None, amp: str) -> Count:
    """Count a step of the baseline of `bench.peers`, with torch's attention."""
    from types import SimpleNamespace

    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import BertConfig

    from bench.forecast.counting import Counter
    from bench.forecast.fake import fill
    from bench.peers import baseline
    from peft import get_peft_model
    from tests.gpu.fake.gpu import GPU
    from tests.gpu.fake.models import batch_of

    config = BertConfig(num_labels=CLASSES, classifier_dropout=0.1, attn_implementation="sdpa")
    cell: Any = SimpleNamespace(
        mode=mode, layers=layers, rank=RANK, alpha=1.0, weight_decay=0.01,
        learning_rate=1e-3, learning_rate_head=1e-3, learning_rate_base=1e-3,
    )  # fmt: skip
    with torch.device("meta"):
        model: nn.Module = baseline.Classifier(config, "mean", "ordinal")
        if layers is not None:
            model = get_peft_model(model, baseline.lora_config(cell, ["classifier"]))
        elif mode == "head":
            for name, parameter in model.named_parameters():
                parameter.requires_grad_("classifier." in name)
    with FakeTensorMode(), Counter() as counter:
        fill(model, GPU)
        trainer = baseline.BaselineTrainer(
            model, baseline.parameter_groups(model, cell, False), kind="ordinal", total_steps=3,
            warmup=0.0, amp=amp, device=GPU, compiled=False,
        )  # fmt: skip
        return count_step(trainer, batch_of(TEXTS, LENGTH), counter)


def count_side(side: str) -> Iterator[Count]:
    """Counts of all settings, in this process."""
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.utils import _foreach_utils

    # torch's choice for real tensors, but not for fake ones
    _foreach_utils._foreach_supported_types += [FakeTensor, nn.Parameter]
    for mode, layers in SETTINGS:
        for amp in AMP:
            if side == SIDES[3]:
                yield count_theirs(mode, layers, amp)
            else:
                kernels_name = "reference" if side == SIDES[2] else "fast"
                yield count_ours(mode, layers, amp, kernels_name)


if __name__ == "__main__":
    from tests.gpu.fake.gpu import stand_in
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        for (mode, layers), c in zip([(s, a) for s in SETTINGS for a in AMP], count_side(sys.argv[1])):
            print(mode, layers, c, flush=True)
