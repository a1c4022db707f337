"""How often a history reports a change that is not there, and one that is, by simulation."""

from collections.abc import Iterator
from math import log
from typing import Any, Final

import numpy as np

from bench.stats.changepoints import autoregressive, change_points

SIZES: Final = ((1, 8), (1, 15), (8, 15))
"""Numbers of settings and of versions."""
CORRELATIONS: Final = (0.0, 0.5, 0.7)
"""Of neighbouring versions."""
STDS: Final = (0.01, 0.02)
"""Of the logarithms of ratios."""
_STEP: Final = log(1.1)
_LIMIT: Final = log(1.05)


def histories(draws: int) -> Iterator[dict[str, Any]]:
    """By size and correlation, how many histories of noise alone have a change of any size, and how
    many in which a setting is 10% slower from the middle on have that change."""
    for settings, versions in SIZES:
        for correlation in CORRELATIONS:
            rng = np.random.default_rng(settings * versions)
            shocks = rng.standard_normal((draws, settings, versions))
            noise = autoregressive(shocks, correlation)
            alarms = sum(any(change_points(one.tolist(), 1e-9)) for one in noise)
            outcome = {"settings": settings, "versions": versions, "correlation": correlation,
                       "draws": draws, "alarms": alarms}  # fmt: skip
            for std in STDS:
                stepped = std * noise
                stepped[:, 0, versions // 2 :] += _STEP
                found = (change_points(one.tolist(), _LIMIT)[0] for one in stepped)
                outcome[f"found_{std:.0%}"] = sum(map(bool, found))
            yield outcome
