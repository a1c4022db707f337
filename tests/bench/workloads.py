"""A small workload to predict: bert-tiny with few words, and batches of a few short texts."""

from dataclasses import asdict, replace
from typing import Any

from bench.forecast.costs import Counts, Shapes, Variant
from bench.forecast.workload import Workload
from minbert.model.config import GEOMETRIES

BATCH_SIZE = 5

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


def variant(
    mode: str,
    rank: int | None = None,
    layers: str | None = None,
    amp: str = "off",
    unfreeze: str | None = "all",
    batch_size: int = BATCH_SIZE,
    frozen_dtype: str | None = None,
) -> Variant:
    """A variant; the head alone has nothing to unfreeze, and frozen weights are fp32."""
    if frozen_dtype is None and mode != "full" and amp != "off":
        frozen_dtype = "fp32"
    unfreeze = None if mode == "head" else unfreeze
    return Variant(mode, rank, layers, amp, unfreeze, batch_size, frozen_dtype)


VARIANTS = [
    variant("full"),
    variant("full", amp="bf16"),
    variant("head"),
    variant("head", amp="bf16"),
    variant("lora", 2, "attn-only"),
    variant("lora", 2, "all-lin", "bf16"),
    variant("dora", 2, "all-lin-only"),
    variant("dora", 2, "all-lin-only", "bf16"),
    variant("dora", 2, "attn", "bf16"),
    variant("dora", 2, "attn-only", "bf16", frozen_dtype="bf16"),
    variant("head", amp="bf16", frozen_dtype="bf16"),
]


def told(of: Variant) -> str:
    """A variant's axes, as the id of a test."""
    return "-".join(map(str, of))


def workload(**changes: Any) -> Workload:
    """The workload, changed."""
    values: dict[str, Any] = {
        "config": asdict(replace(GEOMETRIES["bert-tiny"], vocab_size=1000)),
        "pooling": "mean", "new_pooler": False, "head": "linear",
        "kernels": "fast", "regression_loss": None,
        "parts": ("",), "encoders": None, "task_order": None,
        "task": "movies", "data": None, "data_digest": "3e9ab01c77d2", "max_train": 64,
        "max_dev": 32, "held_out": 0.0, "searches": False, "tokenizer": "",
        "vocabulary": "7c1d0f9a44be",
        "max_length": 32, "batching": "by-length", "epochs": 3,
        "max_steps": None, "seeds": (0,),
        "device": "cpu", "conditions_id": "c0ffee12", "torch_version": "2.13.0",
    }  # fmt: skip
    return Workload(**(values | changes))


def of_parts(**changes: Any) -> Workload:
    """One of a task with three parts, changed."""
    values: dict[str, Any] = {
        "task": "multitask", "parts": tuple(THREE),
        "encoders": 2, "task_order": "proportional", "regression_loss": "mse", "head": "conv",
    }  # fmt: skip
    return workload(**(values | changes))


def counts(**changes: float) -> Counts:
    """Counts of a variant, changed."""
    values = {
        "weights_mib": 90.0, "gradients_mib": 10.0, "optimizer_mib": 20.0,
        "train_peak_mib": 600.0, "evaluate_peak_mib": 200.0, "step_gflop": 80.0,
        "step_moved_mib": 9000.0, "step_kernels": 900.0, "evaluate_gflop": 30.0,
        "evaluate_moved_mib": 2000.0, "evaluate_kernels": 250.0,
    }  # fmt: skip
    return Counts(**(values | changes))
