"""The report's section on calibration: predicted probabilities against what happened."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.report.drawing import BLUE, GREY, INK, Drawing, canvas, to_svg
from bench.report.pages import phrase, sentences
from bench.report.sections import Section
from bench.results.outcomes import Outcome
from bench.results.scores import probabilities

_BINS: Final = 15
"""Bins of equal width of an expected calibration error, as in Guo et al. (2017)."""


def calibration_section(outcomes: Sequence[Outcome]) -> Section | None:
    """Predicted probabilities against what happened; None without logits."""
    known = [_certainty(one) for one in outcomes if one.logits is not None]
    if len(known) < len(outcomes) or not known[0][0].size:
        return None
    errors = [calibration_error(*one) for one in known]
    confidence, right = (np.concatenate(parts) for parts in zip(*known, strict=True))
    heading, *lines = sentences(
        "calibration", several=outcomes[0].predicted.ndim == 2, error=sum(errors) / len(errors),
        confidence=float(confidence.mean()), right=float(right.mean()), bins=_BINS,
        seeds=len(errors),
    )  # fmt: skip
    drawing = _reliability(confidence, right, outcomes)
    return Section("calibration", "Calibration", heading, lines, [drawing])


def _certainty(outcome: Outcome) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities, and whether what they predict is so: of each example its most probable class,
    or every label."""
    if outcome.logits is None or outcome.labels is None:
        raise ValueError("the logits are not stored")
    if outcome.predicted.ndim == 2:
        values = outcome.logits.astype(np.float64).ravel()
        sure = 0.5 * (1 + np.tanh(values / 2))
        return sure, outcome.labels.astype(np.float64).ravel()
    sure = probabilities(outcome.logits).max(axis=1)
    return sure, (outcome.predicted == outcome.labels).astype(np.float64)


def _bins(
    sure: NDArray[np.float64], right: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The number, mean probability and share that is right of each bin that is not empty."""
    places = np.minimum((sure * _BINS).astype(np.int64), _BINS - 1)
    sums = [np.bincount(places, weights, _BINS) for weights in (None, sure, right)]
    number, probability, share = (of[sums[0] > 0].astype(np.float64) for of in sums)
    return number, probability / number, share / number


def calibration_error(sure: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """The expected calibration error of probabilities [N] of what is so or not [N]."""
    number, probability, share = _bins(sure, right)
    return float(number @ np.abs(probability - share) / number.sum())


def _reliability(
    sure: NDArray[np.float64], right: NDArray[np.float64], outcomes: Sequence[Outcome]
) -> Drawing:
    number, probability, share = _bins(sure, right)
    several = outcomes[0].predicted.ndim == 2
    with canvas(3.8) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (2, 3)), zorder=1)
        axes.plot(probability, share, color=BLUE, linewidth=1.2, zorder=2)
        sizes = 12 + 160 * number / number.sum()
        axes.scatter(probability, share, s=sizes, color=BLUE, edgecolors=INK, linewidths=0.6,
                     zorder=3)  # fmt: skip
        axes.set(
            xlim=(-0.02, 1.02), ylim=(-0.02, 1.02),
            xlabel="predicted probability of the label" if several else "confidence",
            ylabel="share of labels that apply" if several else "accuracy",
        )  # fmt: skip
    points = ", ".join(f"{p:.2f}: {s:.2f}" for p, s in zip(probability, share, strict=True))
    caption = phrase("captions", "reliability", len(outcomes[0].predicted), len(outcomes))
    alt = f"Reliability diagram. {points}."
    return Drawing("reliability", to_svg(figure, "reliability"), alt, caption)
