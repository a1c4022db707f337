"""A small workload to predict: bert-tiny, and batches of a few short texts."""

from dataclasses import fields, replace
from typing import Any

from bench.forecast.costs import Counts, Load, Shapes, Variant
from bench.plan.job import Job
from tests.bench.synthetic_rows import cell

BATCH_SIZE = 5
MAX_LENGTH = 128

SHAPES = Shapes(
    train=(4, 7), train_largest=(5, 16), evaluate_largest=(4, 9), steps=12, steps_in_epoch=4,
    train_tokens=336, real_tokens=300, evaluations=3, evaluate_batches=2,
    evaluate_tokens=36,
)  # fmt: skip
ONE = {"": SHAPES}
"""Of a task without parts."""
THREE = {
    "sst": SHAPES,
    "quora": replace(SHAPES, train=(8, 6), train_largest=(10, 8), steps=24, steps_in_epoch=8,
                     train_tokens=960, real_tokens=700, evaluate_largest=(8, 9),
                     evaluate_tokens=144),
    "sts": replace(SHAPES, train=(6, 5), train_largest=(6, 9), evaluate_largest=(8, 7),
                   evaluate_tokens=112),
}  # fmt: skip
"""Of one with three, of which two are on pairs."""


def variant(mode: str, rank=None, layers=None, amp="off", **settings) -> Variant:
    """A variant; the head alone has nothing to unfreeze, and frozen weights are fp32."""
    if mode != "full" and amp != "off":
        settings = {"frozen_dtype": "fp32"} | settings
    usual = {"batch_size": BATCH_SIZE, "max_length": MAX_LENGTH}
    return Variant.of(cell(mode, rank, layers, amp, **usual | settings))


VARIANTS = [
    *(variant(mode, amp=amp) for mode in ("full", "head") for amp in ("off", "bf16")),
    variant("lora", 2, "attn-only"), variant("lora", 2, "all-lin", "bf16"),
    variant("dora", 2, "all-lin-only"), variant("dora", 2, "all-lin-only", "bf16"),
    variant("dora", 2, "attn", "bf16"),
    variant("dora", 2, "attn-only", "bf16", frozen_dtype="bf16"),
    variant("head", amp="bf16", frozen_dtype="bf16"),
]  # fmt: skip


def workload(**changes: Any) -> Job:
    """The job of a cell that trains on it, with changed settings or fields of the job."""
    job = {
        "conditions_id": "c0ffee12", "attempt": 1, "device": "cpu", "threads": 1,
        "checkpoint": None, "geometry": "bert-tiny", "tokenizer": "", "data": None, "keep": False,
        "code_version": "",
    }  # fmt: skip
    own = {field.name for field in fields(Job)} & changes.keys()
    job |= {name: changes.pop(name) for name in own}
    return Job(cell=cell("full", None, None, "off", **{"epochs": 3, **changes}), **job)


def of_parts(**changes: Any) -> Job:
    ones = " ".join(f"{part}=1" for part in sorted(THREE))
    values = {
        "task": "multitask", "task_rates": ones, "task_decays": ones, "encoders": 2,
        "task_order": "proportional", "regression_loss": "mse", "head": "conv",
    }  # fmt: skip
    return workload(**(values | changes))


def counts(*, step: Any = (), evaluation: Any = (), **changes: float) -> Counts:
    """Counts of a variant, changed; `step` and `evaluation` change fields of these loads."""
    memory = {
        "weights_mib": 90.0, "optimizer_mib": 20.0, "train_peak_mib": 600.0,
        "evaluate_peak_mib": 200.0,
    }  # fmt: skip
    return Counts(
        step=Load(900.0, 80.0, 9000.0)._replace(**dict(step)),
        evaluation=Load(250.0, 30.0, 2000.0)._replace(**dict(evaluation)),
        **(memory | changes),
    )
