"""Layer sets. Free of torch, so that planning stays light.

A layer set says which layers have adapters and whether the rest of the encoder trains:

============== ============================================ ==========================
layer set      adapters on                                  the rest of the encoder
============== ============================================ ==========================
attn-only      query, key, value                            frozen
attn           query, key, value                            trains at the base rate
all-lin-only   the above, attention output, intermediate,   frozen
               output
all-lin        the same                                     trains at the base rate
============== ============================================ ==========================

Instead of a layer set, the ends of layers' names can be given, joined by `+`, such as
`query+value`, as in the `target_modules` of PEFT: the layers whose names end so have adapters, and
the rest of the encoder is frozen.

Weight and bias of an adapted layer are always frozen; the task head and a newly initialised
pooler always train.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

LAYER_SETS: Final = ("attn-only", "attn", "all-lin-only", "all-lin")

_ATTENTION: Final = ("attention.self.query", "attention.self.key", "attention.self.value")
_OTHER_LINEAR: Final = ("attention.output.dense", "intermediate.dense", "output.dense")
_NONE: Final[Mapping[str, str]] = {}

FUSED: Final = {"attention.self.qkv": _ATTENTION}
"""Modules that combine several layers of the format, stacked by output row in this order."""


def trains_encoder(mode: str, layers: str | None) -> bool:
    """Whether weights of the encoder train, and not only adapters, biases and the head."""
    return mode == "full" or (layers is not None and trains_base(layers))


_ENDS: Final = re.compile(r"[A-Za-z0-9_.]+(\+[A-Za-z0-9_.]+)*")
_LONGEST: Final = 100  # characters of ends of names, which are a part of the names of folders


def is_layers(text: str) -> bool:
    """Whether a text is a layer set, or has the form of the ends of layers' names."""
    return text in LAYER_SETS or (len(text) <= _LONGEST and bool(_ENDS.fullmatch(text)))


def adapted_layers(layers: str, others: Mapping[str, str] = _NONE) -> tuple[str, ...]:
    """Names, relative to `encoder.layer.{n}.`, of the linear layers that have adapters, by a layer
    set, or by ends of layers' names joined by `+`; an end that no name has is without effect.
    `others` are an architecture's names, by those of BERT, which are returned."""
    if layers in LAYER_SETS:
        return _ATTENTION if layers in ("attn-only", "attn") else _ATTENTION + _OTHER_LINEAR
    ends = tuple(f".{end}" for end in layers.split("+"))
    names = _ATTENTION + _OTHER_LINEAR
    return tuple(name for name in names if f".{others.get(name, name)}".endswith(ends))


def unmatched_ends(layers: str, others: Mapping[str, str] = _NONE) -> list[str]:
    """The ends of layers' names that no linear layer has; none of a layer set."""
    ends = [] if layers in LAYER_SETS else layers.split("+")
    return [end for end in ends if not adapted_layers(end, others)]


def trains_base(layers: str) -> bool:
    """Whether the parts of the encoder without an adapter train too."""
    return layers in ("attn", "all-lin")


def in_order(layers: Iterable[str]) -> list[str]:
    """The distinct layer sets and ends of names among some texts, in the order of tables: sets,
    then ends by the alphabet."""
    return sorted(set(filter(is_layers, layers)), key=place)


def place(layers: str | None) -> tuple[int, str]:
    """The sort key of the order of tables; None comes first."""
    if layers is None:
        return -1, ""
    return LAYER_SETS.index(layers) if layers in LAYER_SETS else len(LAYER_SETS), layers
