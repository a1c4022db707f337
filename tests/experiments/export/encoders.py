"""The architectures of engine transformers in every format: the largest differences of a logit, of
which docs/export.md has the largest, in a few minutes."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.export.check import texts_of
from bench.plan.architectures import ARCHITECTURES
from tests.bench.export.small import answer_here, expected_logits, exported, trained_by_library
from tests.encoders import KINDS, Checkpoints
from tests.experiments.pages import markdown_table

CASES = {
    "peft": ("lora", {"kind": "multi_label"}),
    "transformers": ("dora", {"kind": "regression", "pairs": True}),
    "sentence-transformers": ("vera", {"pooling": "mean", "head": "nonlinear", "pairs": True}),
    "onnx": ("full", {"pairs": True}),
}
"""A mode for each format, and what else differs."""


def largest_difference(base, name, mode, **options):
    own = trained_by_library(base, mode, **options)
    with TemporaryDirectory() as place:
        folder = exported(own, name, Path(place, "out"))
        answer = answer_here(folder, texts_of(own.dev), base=own.base)
    return float(np.abs(answer.logits - expected_logits(own)).max())


if __name__ == "__main__":
    with TemporaryDirectory() as place:
        bases = {kind: Checkpoints(Path(place))(kind) for kind in KINDS}
        rows = [
            [ARCHITECTURES[kind].name, *(f"{largest_difference(base, name, mode, **options):.0e}"
                                         for name, (mode, options) in CASES.items())]
            for kind, base in bases.items()
        ]  # fmt: skip
    print(markdown_table(["", *(f"{name}, {CASES[name][0]}" for name in CASES)], rows), end="")
