"""Agreement of two sides' losses on the same batches, without dropout. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

TOLERANCE: Final = {"off": 1e-4, "bf16": 2e-2, "fp16": 2e-2}
"""The largest difference allowed between the losses of a step, by AMP. In half precision each side
rounds in other places, so there it only detects gross errors."""


@dataclass(frozen=True)
class Agreement:
    """The largest difference between two loss curves, and whether it is within the tolerance."""

    difference: float
    agrees: bool


def compare(ours: Sequence[float], baseline: Sequence[float], amp: str) -> Agreement:
    """Compare two loss curves step by step. A loss that is not finite agrees with none.

    Raises:
        ValueError: if they are empty or differ in length.
    """
    if len(ours) != len(baseline) or not ours:
        raise ValueError("curves that are compared have the same steps")
    differences = [abs(a - b) for a, b in zip(ours, baseline, strict=True)]
    largest = max(differences) if all(map(math.isfinite, differences)) else math.inf
    return Agreement(largest, largest <= TOLERANCE[amp])
