"""The influence of each example on Cohen's kappa."""

import numpy as np
from numpy.typing import NDArray


def influence(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of κ = (p − e) / (1 − e), with p the share of right predictions, and e the share by chance:
    the sum over the classes of the shares of labels and of predictions.

    Raises:
        ValueError: if labels and predictions are all of one class.
    """
    classes, places = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
    true, guess = np.split(places.ravel(), 2)
    of_true, of_guess = (
        np.bincount(at, minlength=len(classes)) / len(true) for at in (true, guess)
    )
    right = true == guess
    share, chance = right.mean(), float(of_true @ of_guess)
    if chance == 1:
        raise ValueError("a single class leaves nothing to agree on")
    d_share = right - share
    d_chance = of_guess[true] + of_true[guess] - 2 * chance
    return np.asarray((d_share * (1 - chance) - d_chance * (1 - share)) / (1 - chance) ** 2)
