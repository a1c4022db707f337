"""Numbers of layers that gradual unfreezing trains in each epoch. Pure."""

from typing import Final

QUARTERS: Final = 4
"""The number of epochs after which everything trains."""


def layers_in(epoch: int, layers: int) -> int:
    """The number of top layers that train in an epoch, from 0: none, then a quarter more in each.

    It is rounded, halves to even: of 6 layers 2, 3, 4 and 6 train.
    """
    return round(layers * min(epoch, QUARTERS) / QUARTERS)
