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

Weight and bias of an adapted layer are always frozen; the task head and a newly initialised
pooler always train.
"""

from typing import Final

LAYER_SETS: Final = ("attn-only", "attn", "all-lin-only", "all-lin")

_ATTENTION: Final = ("attention.self.query", "attention.self.key", "attention.self.value")
_OTHER_LINEAR: Final = ("attention.output.dense", "intermediate.dense", "output.dense")

FUSED: Final = {
    "attention.self.qkv": ("attention.self.query", "attention.self.key", "attention.self.value")
}
"""Modules that combine several layers of the format, stacked by output row in this order."""


def adapted_layers(layers: str) -> tuple[str, ...]:
    """Names, relative to `encoder.layer.{n}.`, of the linear layers that a layer set adapts."""
    return _ATTENTION if layers in ("attn-only", "attn") else _ATTENTION + _OTHER_LINEAR


def trains_base(layers: str) -> bool:
    """Whether the parts of the encoder without an adapter train too."""
    return not layers.endswith("-only")
