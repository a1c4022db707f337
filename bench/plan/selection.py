"""The cells that `--select` selects. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from adapters.names import LAYER_SETS, is_layers
from bench.common.errors import InputError
from bench.plan.cell import KINDS, Cell, named
from bench.plan.columns import VALUES

AXES: Final = named(lambda about: about.selectable)
_LAYERS: Final = f"{', '.join(LAYER_SETS)}, or ends of layers' names such as query+value"
_ALLOWED: Final = {int: "whole numbers", float: "numbers", str: _LAYERS}


def parse_selection(text: str, flag: str = "--select") -> dict[str, set[str]]:
    """The values of each axis in a text such as `mode=lora rank=1,8`, given by an option.
    InputError for a key that is no axis, or a value that the axis can't have."""
    selection: dict[str, set[str]] = {}
    for term in text.split():
        axis, equals, values = term.partition("=")
        if axis not in AXES or not equals or not values:
            raise InputError(
                f"{flag}: {term!r} is not AXIS=VALUE[,VALUE]; the axes are {', '.join(AXES)}"
            )
        selection.setdefault(axis, set()).update(values.split(","))
        known = (*(["on"] if axis == "amp" else []), *VALUES.get(axis, ()))
        for value in values.split(","):
            if not (value in known if known else _is_valid(axis, value)):
                allowed = ", ".join(known) or _ALLOWED[KINDS[axis]]
                raise InputError(f"{flag}: {axis} can't be {value!r}; it takes {allowed}")
    return selection


def _is_valid(axis: str, value: str) -> bool:
    if axis == "model":
        return True
    if axis == "layers":
        return is_layers(value)
    if KINDS[axis] is int:
        return value.isdecimal()
    try:
        return 0 < float(value) <= 1
    except ValueError:
        return False


def select(cells: Iterable[Cell], selection: Mapping[str, set[str]]) -> list[Cell]:
    """The cells whose axes all have a selected value; `amp=on` stands for bf16 and fp16."""

    def matches(cell: Cell, axis: str, values: set[str]) -> bool:
        if axis == "learning_rate":
            rate = cell.learning_rate_head if cell.mode == "head" else cell.learning_rate
            return any(rate == float(text) for text in values)
        value = getattr(cell, axis)
        is_amp = axis == "amp" and value != "off" and "on" in values
        return value is not None and (is_amp or str(value) in values)

    return [cell for cell in cells if all(matches(cell, *term) for term in selection.items())]
