"""The loss of scores on dev by three ways to store weights in 8 bits, for the embedded model and
tasks: docs/export.md's table, in 10 minutes."""

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from onnxruntime.quantization import QuantType, quantize_dynamic

from bench.examples.tokens import tokenizer_of
from bench.export.check import run_fresh, texts_of
from bench.export.formats import FORMATS
from bench.export.formats.onnx import INT8, MODEL, write
from bench.export.trained import Trained, describe_base
from bench.results.predictions import outcome_of
from bench.results.scores import defined_score
from minbert.data.tasks import load_task
from tests.bench.tiny_cells import cell, ended, find, job_of
from tests.experiments.pages import markdown_table

TASKS = ("movies", "amazon")
MODES = (("full", ""), ("lora", "all-lin-only"))
FEW = {"max_train": 1000, "max_dev": 1000}
WAYS = {
    "per tensor": {}, "per tensor, 7 bits": {"reduce_range": True},
    "per channel": {"per_channel": True},
    "per channel, 7 bits": {"per_channel": True, "reduce_range": True},
}  # fmt: skip


def train(task, mode, layers, checkpoint, folder):
    """A trained cell of the embedded model, and its logits [N, C] of dev."""
    data = load_task(task, **FEW)
    of = cell(
        checkpoint, mode, layers, task=task, data_digest=data.digest[:16], max_length=64,
        batch_size=32, epochs=2, learning_rate=2e-4 if mode == "full" else 2e-3, pooling="mean",
        rank=8 if layers else None, amp="bf16", **FEW,
    )  # fmt: skip
    run = ended(replace(job_of(of, checkpoint), measure=False), folder)
    split = run.train[""]
    trained = Trained(
        row=None, job=run.job, base=describe_base(find(checkpoint)), task=data.task,
        model=run.model.eval(), dev=data.dev, tokenizer=tokenizer_of(of.engine, checkpoint),
        unit=(split.mean, split.std), refitted=False,
    )  # fmt: skip
    return trained, trained.exact_logits(data.dev)


def main():
    from minbert.assets.embedded import fetch

    checkpoint, rows = fetch("minilm"), []
    for task, (mode, layers) in product(TASKS, MODES):
        with TemporaryDirectory() as place:
            trained, exact = train(task, mode, layers, checkpoint, Path(place, "cell"))
            folder = Path(place, "model")
            write(trained, folder)
            FORMATS["onnx"].copy_scripts(folder)

            def score(logits, of=trained):
                return defined_score(of.task.metric, outcome_of(logits, of.dev.labels, (0.0, 1.0)))

            row = [task, mode, f"{score(exact):.3f}"]
            for how in WAYS.values():
                quantize_dynamic(folder / MODEL, folder / INT8, weight_type=QuantType.QInt8, **how)
                answer = run_fresh(folder, texts_of(trained.dev), weights=INT8)
                off = np.abs(answer.logits - exact).mean() / exact.std()
                row.append(f"{100 * (score(exact) - score(answer.logits)):+.2f} ({off:.3f})")
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    print(markdown_table(["task", "mode", "fp32", *WAYS], rows))


if __name__ == "__main__":
    main()
