"""Whether two sides do the same work: their losses on the same batches, without dropout. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

TOLERANCE: Final = {"off": 1e-4, "bf16": 2e-2, "fp16": 2e-2}
"""How far the losses of any step may be apart, by AMP. Half types round each side's products at
other places, so there it tells a wrong computation, and no more."""


@dataclass(frozen=True)
class Agreement:
    """How far two curves are apart at most, the step (from 1) where, and whether that is alike."""

    difference: float
    step: int
    agrees: bool


def compare(ours: Sequence[float], peers: Sequence[float], amp: str) -> Agreement:
    """Compare two curves step by step. A loss that is not finite agrees with none.

    Raises:
        ValueError: if they are not of as many steps, or of none.
    """
    if len(ours) != len(peers) or not ours:
        raise ValueError("curves that are compared have the same steps")
    apart = [abs(a - b) for a, b in zip(ours, peers, strict=True)]
    lost = next((index for index, value in enumerate(apart) if not math.isfinite(value)), None)
    if lost is not None:
        return Agreement(math.inf, lost + 1, False)
    worst = max(range(len(apart)), key=lambda index: apart[index])
    return Agreement(apart[worst], worst + 1, apart[worst] <= TOLERANCE[amp])
