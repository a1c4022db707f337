"""The registry of adapter methods. Free of torch.

A method is a file with its mathematics and the class of its layers, and an entry in methods.toml
in this folder or an entry point `minbert_bench.methods` of another distribution. Planning, PEFT's
format, the check of what moved, tables and figures read the entry and know no method by name.
docs/extending.md adds one.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from minbert.registry import Registry, read_tables

_COLOUR: Final = re.compile("#[0-9a-f]{6}")


@dataclass(frozen=True, kw_only=True)
class Method:
    """An adapter method. Its costs are counted by running its layers on fake tensors.

    Attributes:
        name: the name of its mode.
        layer: the class of its layers in engine minbert, as `module:Class`; None: only PEFT has it.
        has_layers: whether a layer set says which layers carry it; if not, its own configuration.
        parameters: the trainable parameters of a layer in engine minbert, each with the ending of
            its key in PEFT's format.
        moves: those of them that every training changes.
        peft: fields of adapter_config.json that distinguish it from other methods; None if PEFT's
            format does not support it.
        reading: a sentence on how to interpret the rank of its weight updates.
        colour, marker, line: how figures draw it.
    """

    name: str
    layer: str | None
    has_rank: bool = True
    has_layers: bool = True
    parameters: Mapping[str, str] = field(default_factory=dict)
    moves: tuple[str, ...] = ()
    peft: Mapping[str, bool] | None = None
    reading: str = ""
    colour: str
    marker: str
    line: str = "-"

    def __post_init__(self) -> None:
        if not _COLOUR.fullmatch(self.colour):
            raise ValueError(f"colour {self.colour!r} is not as #0072b2")
        if not set(self.moves) <= self.parameters.keys():
            raise ValueError(f"moves {self.moves} are not among its parameters")


PEFT: Final = "peft"
"""The mode of an adapter_config.json."""
BITFIT: Final = "bitfit"
"""The mode that trains the biases of the encoder (of linear layers and of LayerNorm), and the head
(BitFit, Ben Zaken et al. 2022, arXiv 2106.10199)."""
LOW_RANK: Final = ("lora", "dora")
"""Modes with the options of LoRA."""
_PLAIN: Final = ("full", "head", BITFIT)  # modes without adapters
_METHODS: Final = (
    Method(**{"name": name, "layer": None, **table})
    for name, table in read_tables(__file__, "methods.toml").items()
)
METHODS: Final = Registry(Method, "minbert_bench.methods", _METHODS, taken=_PLAIN)
ADAPTER_MODES: Final = tuple(METHODS)
MODES: Final = (*_PLAIN, *ADAPTER_MODES)


def has_adapters(mode: object) -> bool:
    """Whether a mode has adapters, as all have that are not this project's: a row may have one
    whose plugin is not installed."""
    return isinstance(mode, str) and mode not in _PLAIN


def has_rank(mode: str) -> bool:
    return mode in METHODS and METHODS[mode].has_rank


def has_layers(mode: str) -> bool:
    return mode in METHODS and METHODS[mode].has_layers


def in_order(modes: Iterable[str]) -> list[str]:
    """The distinct modes in the order of tables; those whose plugin is not installed last."""
    return sorted(set(modes), key=place)


def place(mode: str) -> tuple[int, str]:
    """The sort key of the order of tables."""
    return (MODES.index(mode), "") if mode in MODES else (len(MODES), mode)


def mode_label(mode: str) -> str:
    is_known = mode in _PLAIN or METHODS.known(mode) is not None
    return mode if is_known else f"{mode} (plugin not installed)"
