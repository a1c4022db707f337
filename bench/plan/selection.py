"""The cells that `--select` wants. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from bench.common.errors import InputError
from bench.plan.cell import Cell
from bench.plan.columns import VALUES

AXES: Final = ("mode", "rank", "layers", "amp", "unfreeze", "batch_size", "learning_rate", "seed")


def parse_selection(text: str) -> dict[str, set[str]]:
    """`"mode=lora rank=1,8"` as values wanted of each axis.

    Raises:
        InputError: for a key that is no axis, or a value that the axis can't have.
    """
    wanted: dict[str, set[str]] = {}
    for term in text.split():
        axis, equals, values = term.partition("=")
        if axis not in AXES or not equals or not values:
            raise InputError(
                f"--select: {term!r} is not AXIS=VALUE[,VALUE]; the axes are {', '.join(AXES)}"
            )
        wanted.setdefault(axis, set()).update(values.split(","))
        known = _axis_values(axis)
        for value in values.split(","):
            if (known and value not in known) or (not known and not _is_number(axis, value)):
                allowed = ", ".join(known) or (
                    "numbers" if axis == "learning_rate" else "whole numbers"
                )
                raise InputError(f"--select: {axis} can't be {value!r}; it takes {allowed}")
    return wanted


def _axis_values(axis: str) -> tuple[str, ...]:
    return (*(["on"] if axis == "amp" else []), *VALUES.get(axis, ()))


def _is_number(axis: str, value: str) -> bool:
    if axis != "learning_rate":
        return value.isdecimal()
    try:
        return 0 < float(value) <= 1
    except ValueError:
        return False


def select(cells: Iterable[Cell], wanted: Mapping[str, set[str]]) -> list[Cell]:
    """The cells whose axes all have a wanted value; `amp=on` stands for bf16 and fp16."""

    def matches(cell: Cell) -> bool:
        for axis, values in wanted.items():
            value = getattr(cell, axis)
            if axis == "learning_rate" and cell.mode == "head":
                value = cell.learning_rate_head
            if axis == "learning_rate":
                found = any(value == float(text) for text in values)
            else:
                on = {"on"} if axis == "amp" and value != "off" else set()
                found = bool(({str(value)} | on) & values)
            if value is None or not found:
                return False
        return True

    return [cell for cell in cells if matches(cell)]
