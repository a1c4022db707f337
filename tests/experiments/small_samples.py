"""How often 95% intervals hold the true score on few examples: docs/measuring.md#small-samples."""

import numpy as np

from bench.plan.metrics import metric_of
from bench.results.outcomes import Outcome
from bench.results.scores import numbers, score_of

DRAWS = 1000
SIZES = (50, 100, 300, 1000)
CLASSES = (("macro_f1", 0.1), ("mcc", 0.05), ("balanced_accuracy", 0.05), ("accuracy", 0.05))
"""Metrics, and the fraction of the rare one of two classes."""
RECALLS = (0.9, 0.6)  # the fraction of the common and of the rare class that is predicted right
TAILS = {"normal": np.inf, "heavy tails (t, 3 degrees of freedom)": 3.0}


def classes(rng, size, rare):
    labels = (rng.random(size) < rare).astype(np.int64)
    right = rng.random(size) < np.where(labels == 1, RECALLS[1], RECALLS[0])
    return Outcome(np.where(right, labels, 1 - labels), labels, "")


def correlated(rng, size, freedom):
    labels, noise = rng.normal(size=(2, size))
    scale = 1.0 if np.isinf(freedom) else np.sqrt(rng.chisquare(freedom, size) / freedom)
    return Outcome((0.7 * labels + np.sqrt(1 - 0.7**2) * noise) / scale, labels / scale, "")


def line(metric, parameter, draws=DRAWS, sizes=SIZES):
    """The fraction of intervals that hold the true score, by number of examples."""
    make = classes if metric_of(metric).problems[0] == "single_label" else correlated
    many = make(np.random.default_rng(0), 200_000, parameter)
    true = 0.7 if metric == "pearson" else float(numbers(metric, many).mean())
    shares = []
    for size in sizes:
        rng, hits = np.random.default_rng(size), []
        while len(hits) < draws:
            outcome = make(rng, size, parameter)
            if len(set(outcome.labels.tolist())) >= 2:
                hits.append(score_of(metric, [numbers(metric, outcome)]).holds(true))
        shares.append(sum(map(bool, hits)) / draws)
    return shares


def row(name, parameter, text):
    shares = " | ".join(f"{share:.0%}" for share in line(name, parameter))
    return f"| {metric_of(name).label} | {text} | {shares} |"


if __name__ == "__main__":
    print(f"| metric | examples | {' | '.join(f'N = {size:,}' for size in SIZES)} |")
    print(f"|---|---|{'---|' * len(SIZES)}")
    print(*(row(name, rare, f"a class of {rare:.0%}") for name, rare in CLASSES), sep="\n")
    for name in ("pearson", "spearman"):
        print(*(row(name, freedom, text) for text, freedom in TAILS.items()), sep="\n")
