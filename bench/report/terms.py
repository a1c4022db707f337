"""Definitions of the report's terms, the same as in docs, code and runs.csv."""

import re
from typing import Final

TERMS: Final = (
    ("mode", "What trains. full: everything. head: only the task head. bitfit: the encoder's "
     "biases, and the head. lora, dora and others: an adapter on frozen linear layers, and the "
     "head."),
    ("layer set", "Where adapters sit: attn… on query, key and value; all-lin… on every linear "
     "layer of the encoder. With -only everything else in the encoder is frozen, without it the "
     "rest trains too. Or ends of layers' names, joined by +; the rest is frozen then."),
    ("rank, alpha", "An adapter adds (alpha / rank) · B A to a weight, A and B of that rank; "
     "with rsLoRA (alpha / √rank) · B A."),
    ("precision, AMP", "Automatic mixed precision: computing is in bf16 or fp16. What trains is "
     "held in fp32, as are embeddings, LayerNorms and biases; weights of frozen linear layers are "
     "held as frozen_dtype says, in fp32 too or in AMP's type. fp32 as a precision means AMP off."),
    ("setting, cell", "A setting is a mode, rank, layer set, kind of AMP and, under AMP, "
     "frozen_dtype; a cell is a setting with one seed and, in a cross-validation, one fold, run in "
     "a process of its own. A repeat is one more run of the same cell."),
    ("fold", "One of K parts of all examples, which a model scores that was trained on the others. "
     "The score is that of the predictions on all folds together; its interval is over the "
     "examples of all folds."),
    ("dev score", "The metric named at the top, on the development set after the last epoch, or "
     "with early stopping of the best one."),
    ("95% interval", "Of one run: Wilson's for an accuracy, on Fisher's scale for a "
     "correlation, Student's t over the examples' influences for other metrics. "
     "Of several seeds: Student's t, for a score over seeds and dev examples "
     "where predictions are kept, else over the seeds alone; for a cost over all runs. One process "
     "can't show how much processes that do the same work differ: the time of a single run has an "
     "interval where several runs of other settings show that, else none; its memory has none. A "
     "score counts once for a seed."),
    ("significant", "A difference whose 95% interval excludes zero, or a ratio whose interval "
     "excludes one. Others are not distinguishable from no difference. Scores are "
     "paired over dev examples and seeds where predictions are kept, costs over runs of the "
     "same seed, fold, repeat and version of the code where there are enough; else the interval is "
     "made of both as if the runs were independent. Intervals are not corrected for the number of "
     "comparisons; the bounds of the recommendation are."),
    ("step time", "The time of training's own steps after its warm-up; where there are fewer than "
     "96, of timing batches: a few batches, short and long, that are replayed after training."),
    ("Pareto front", "The settings that no other beats in both cost and score. It follows the "
     "point estimates, not their intervals."),
    ("shown worse, shown no worse, could be no worse", "How a setting stands among those left. "
     "By simultaneous 95% bounds it is more than the margin worse than another; it is at most the "
     "margin worse than every other; neither is shown."),
    ("×", "The ratio to full fine-tuning in the same group, in fp32 unless another precision is "
     "named; 0.50× is half."),
    ("group", "Cells under equal conditions and with equal settings, except those that belong to a "
     "mode (learning rates, alpha). Nothing is compared across groups, except that groups which "
     "differ in one setting alone have a section of their own."),
    ("– and not measured", "– means that a column does not apply; not measured, that it does and "
     "has no value."),
)  # fmt: skip


def used(text: str) -> list[tuple[str, str]]:
    """The terms of which a text has a word."""
    return [
        (term, meaning)
        for term, meaning in TERMS
        if any(
            re.search(rf"(?<!\w){re.escape(w)}s?(?!\w)", text) for w in re.split(", | and ", term)
        )
    ]
