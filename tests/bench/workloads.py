"""A small workload to predict: bert-tiny with few words, and batches of a few short texts."""

from dataclasses import asdict, replace
from typing import Any

from bench.predict.costs import Counts, Shapes, Variant
from bench.predict.workload import Workload
from minbert.config import GEOMETRIES

SHAPES = Shapes(
    train=(4, 7), train_largest=(5, 16), evaluate_largest=(4, 9), steps=12,
    train_tokens=336, real_tokens=300, evaluations=3, evaluate_batches=2,
    evaluate_tokens=36,
)  # fmt: skip

VARIANTS = [
    Variant("full", None, None, "off"),
    Variant("full", None, None, "bf16"),
    Variant("head", None, None, "off"),
    Variant("head", None, None, "bf16"),
    Variant("lora", 2, "attn-only", "off"),
    Variant("lora", 2, "all-lin", "bf16"),
    Variant("dora", 2, "all-lin-only", "off"),
    Variant("dora", 2, "all-lin-only", "bf16"),
    Variant("dora", 2, "attn", "bf16"),
]


def workload(**changes: Any) -> Workload:
    """The workload, changed."""
    values: dict[str, Any] = {
        "config": asdict(replace(GEOMETRIES["bert-tiny"], vocab_size=1000)),
        "pooling": "mean", "new_pooler": False, "head": "linear",
        "kind": "classification", "regression_loss": None, "outputs": 5,
        "task": "movies", "data": None, "data_digest": "3e9ab01c77d2", "max_train": 64,
        "max_dev": 32, "held_out": 0.0, "searches": False, "tokenizer": "",
        "vocabulary": "7c1d0f9a44be",
        "max_length": 32, "batch_size": 5, "batching": "by-length", "epochs": 3,
        "max_steps": None, "seeds": (0,),
        "device": "cpu", "conditions_id": "c0ffee12", "torch_version": "2.13.0",
    }  # fmt: skip
    return Workload(**(values | changes))


def counts(**changes: float) -> Counts:
    """Counts of a variant, changed."""
    values = {
        "weights_mib": 90.0, "gradients_mib": 10.0, "optimizer_mib": 20.0,
        "train_peak_mib": 600.0, "evaluate_peak_mib": 200.0, "step_gflop": 80.0,
        "step_moved_mib": 9000.0, "step_kernels": 900.0, "evaluate_gflop": 30.0,
        "evaluate_moved_mib": 2000.0, "evaluate_kernels": 250.0,
    }  # fmt: skip
    return Counts(**(values | changes))
