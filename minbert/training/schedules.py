"""Schedules of a training: the factor on the peak learning rates at each step, and the layers that
gradual unfreezing trains in each epoch. Free of torch."""

from collections.abc import Callable
from typing import Final

LINEAR, HALVING = "linear", "halving"
SCHEDULES: Final = (LINEAR, HALVING)
QUARTERS: Final = 4
"""The number of epochs after which everything trains, in gradual unfreezing."""


def schedule_of(
    name: str, total_steps: int, warmup: float, steps_per_epoch: int = 1
) -> Callable[[int], float]:
    """The factor on the peak rate at each step, from 0: up over `warmup`, then down to zero, if the
    name is `linear`; `halving` is constant then, and halved after each epoch. ValueError for
    another name."""
    if name not in SCHEDULES:
        raise ValueError(f"no schedule is called {name!r}; there are {', '.join(SCHEDULES)}")
    rising = max(1, round(total_steps * warmup))

    def factor(step: int) -> float:
        risen = min(1.0, (step + 1) / rising)
        if name == HALVING:
            return float(risen * 0.5 ** (step // steps_per_epoch))
        falling = (total_steps - step) / max(1, total_steps - rising)
        return risen if step < rising else max(0.0, falling)

    return factor


def layers_in(epoch: int, layers: int) -> int:
    """The number of top layers that train in an epoch, from 0: none, then a quarter more in each,
    rounded, halves to even: of 6 layers 2, 3, 4 and 6 train."""
    return round(layers * min(epoch, QUARTERS) / QUARTERS)
