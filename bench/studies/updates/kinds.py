"""The linear layers of a BERT encoder's layer, as they are told."""

from typing import Final, NamedTuple

from adapters.names import adapted_layers

_TOLD: Final = ("query", "key", "value", "attention output", "intermediate", "output")
KINDS: Final = dict(zip(adapted_layers("all-lin"), _TOLD, strict=True))
"""By their names in the format, relative to `encoder.layer.{n}.`, and in its order."""


class Place(NamedTuple):
    """A linear layer: the number of its encoder layer, from 0 as in the format, and its kind."""

    layer: int
    kind: str
