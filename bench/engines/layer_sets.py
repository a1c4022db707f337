"""Layer sets of any encoder, by the structure of its repeated blocks."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from torch import nn

from adapters.names import LAYER_SETS
from bench.common.errors import InputError
from bench.common.messages import some_of

_BLOCK: Final = re.compile(r".*\.\d+\.")
_PROJECTION: Final = re.compile(
    r"(?:w|to_)?(q|k|v|query|key|value)(?:_?(?:proj|lin|linear|layer))?", re.IGNORECASE
)
_FUSED: Final = re.compile(
    r"(?:w|to_)?(?:qkv|query_key_value|in_proj|c_attn)(?:_?(?:proj|lin|linear))?", re.IGNORECASE
)
_MOST_NAMED: Final = 20


@dataclass(frozen=True)
class Blocks:
    """The linear layers of an encoder's blocks, by their names within a block, in the order of
    their definition."""

    layers: Mapping[str, list[str]]  # names in the model, one for each block
    attentions: Sequence[tuple[str, ...]]  # query, key and value of each attention in a block
    last: str  # of the feed-forward block

    @property
    def count(self) -> int:
        return max(map(len, self.layers.values()), default=0)

    def adapted(self, layers: str, model: str) -> list[str]:
        """Names in the model of the layers that a layer set adapts, or that end as `layers` says.
        InputError if the structure does not say which they are, or an end matches none."""
        if layers not in LAYER_SETS:
            names = self._ending(layers, model)
        elif layers.startswith("all-lin"):
            names = set(self.layers)
        elif len(self.attentions) == 1:
            names = set(self.attentions[0])
        else:
            what = "has no linear layers for" if not self.attentions else "has several for"
            ends = [name.rpartition(".")[2] for name in self.layers]
            raise InputError(
                f"layers {layers}: a block of {model} {what} query, key and value; its linear "
                f"layers are {listed(self.layers)}; name some in a grid file: layers = "
                f'["{"+".join(dict.fromkeys(ends[:2]))}"]'
            )
        if not names:
            raise InputError(f"layers {layers}: the blocks of {model} have no linear layers")
        return [name for own, all_of in self.layers.items() if own in names for name in all_of]

    def _ending(self, layers: str, model: str) -> set[str]:
        chosen: set[str] = set()
        for end in layers.split("+"):
            ending = {name for name in self.layers if f".{name}".endswith(f".{end}")}
            if not ending:
                raise InputError(
                    f"layers {layers}: {model} has no linear layer whose name ends in {end}; "
                    f"they are {listed(self.layers)}"
                )
            chosen |= ending
        return chosen

    def __str__(self) -> str:
        attention = [name for names in self.attentions for name in names]
        others = [name for name in self.layers if name not in attention]
        return f"query, key, value: {listed(attention) or 'none'}; others: {listed(others)}"


def find_blocks(encoder: nn.Module, prefix: str) -> Blocks:
    """The blocks of an encoder, called `prefix` in its model: its linear layers with a number in
    their name, which is the block's. Query, key and value are known by their names, and have to
    fit by their shapes."""
    layers: dict[str, list[str]] = {}
    shapes: dict[str, tuple[int, int]] = {}  # outputs and inputs, by name within a block
    for name, layer in encoder.named_modules(prefix=prefix):
        if isinstance(layer, nn.Linear) and (start := _BLOCK.match(name)):
            own = name[start.end() :]
            layers.setdefault(own, []).append(name)
            shapes[own] = layer.out_features, layer.in_features
    parts: dict[str, dict[str, str]] = {}  # of query, key and value, by the module they are in
    attentions: list[tuple[str, ...]] = []
    for name in layers:
        owner, _, last = name.rpartition(".")
        if part := _PROJECTION.fullmatch(last):
            parts.setdefault(owner, {})[part[1][0].lower()] = name
        elif _FUSED.fullmatch(last) and shapes[name][0] > shapes[name][1]:
            attentions.append((name,))
    for own in parts.values():
        if len(own) < len("qkv"):
            continue
        query, key, value = (own[part] for part in "qkv")
        is_everywhere = len({len(layers[name]) for name in (query, key, value)}) == 1
        fits = shapes[query][0] % shapes[key][0] == 0  # several heads may share a key
        if is_everywhere and fits:
            attentions.append((query, key, value))
    rest = [name for name in layers if not any(name in names for names in attentions)]
    # the feed-forward block ends with the layer that leads back from its width
    narrowing = [name for name in rest if shapes[name][0] < shapes[name][1]]
    last = max(narrowing, key=lambda name: shapes[name][1], default="".join(rest[-1:]))
    return Blocks(layers, attentions, last)


def listed(names: Iterable[str]) -> str:
    return some_of(list(names), _MOST_NAMED)
