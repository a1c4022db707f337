"""How many layers gradual unfreezing lets train in each epoch. Pure."""

from typing import Final

QUARTERS: Final = 4
"""After so many epochs everything trains."""


def layers_in(epoch: int, layers: int) -> int:
    """How many of the top layers train in an epoch, from 0: none, then a quarter more in each.

    Rounded to a whole number, a half to the even one: of 6 layers 2, 3, 4 and 6.
    """
    return round(layers * min(epoch, QUARTERS) / QUARTERS)
