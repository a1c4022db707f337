"""Parts of a plan for machines that know nothing of each other: `--shard I/N`. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bench.common.errors import InputError
from bench.common.grouping import grouped
from bench.plan.cell import Cell, digest
from bench.plan.planning import on_device

INDEXES: Final = ("JOB_COMPLETION_INDEX", "SLURM_ARRAY_TASK_ID")
"""Environment: the index of a job among its like, as Kubernetes and Slurm give it."""
_MOST: Final = 100_000


@dataclass(frozen=True)
class Shard:
    index: int
    count: int
    variable: str = ""  # the one that the index is from

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str]) -> "Shard":
        """The shard of `I/N` or `auto/N`; InputError if there is none such."""
        match = re.fullmatch(r"(auto|[0-9]{1,6})/([0-9]{1,6})", text)
        if match is None or not 1 <= int(match[2]) <= _MOST:
            raise InputError(
                f"--shard: {text!r} is no I/N, as 0/3 is the first of 3 shards, or auto/N"
            )
        index, variable, count = match[1], "", int(match[2])
        if index == "auto":
            given = [name for name in INDEXES if environment.get(name)]
            if len(given) != 1:
                which = f"both {' and '.join(INDEXES)} are" if given else (
                    f"neither {' nor '.join(INDEXES)} is"
                )  # fmt: skip
                raise InputError(f"--shard {text}: {which} set; give the index, such as 0/{count}")
            variable = given[0]
            index = environment[variable]
            if not re.fullmatch(r"[0-9]{1,6}", index):
                raise InputError(f"--shard {text}: {variable} is {index!r}, and no index")
        if not int(index) < count:
            whose = f"{variable} is {index}" if variable else f"there is no shard {index}"
            raise InputError(f"--shard {text}: {whose}; {count} shards are 0 to {count - 1}")
        return cls(int(index), count, variable)


@dataclass(frozen=True)
class Division:
    """The cells of each shard. `plan` is a digest of it, the same on every kind of machine."""

    plan: str
    parts: tuple[tuple[Cell, ...], ...]
    loads: tuple[int, ...]


def divide(
    cells: Sequence[Cell], costs: Sequence[int], count: int, amp_is_on: Sequence[bool]
) -> Division:
    """Divide cells by their costs; of each is given whether its AMP type is the machine's usual.

    Costs are compared between the settings of one seed and fold. So each shard gets as many seeds
    and folds, with all their settings, as there are for all. The rest is divided by setting, the
    most expensive first, always to the shard with the least to do; a setting's cells, such as
    those of both engines, stay together. InputError if there is too little to divide."""
    rounds = [*grouped(range(len(cells)), lambda i: (cells[i].seed, cells[i].fold)).values()]
    whole = len(rounds) // count * count
    parts: list[list[int]] = [[] for _ in range(count)]
    for number, members in enumerate(rounds[:whole]):
        parts[number % count] += members
    rest = [i for members in rounds[whole:] for i in members]
    settings = [*grouped(rest, lambda i: (cells[i].model, cells[i].name)).values()]
    if not whole and len(settings) < count:
        raise InputError(f"--shard: this plan can be divided into {len(settings)} shards at most")
    loads = [sum(costs[i] for i in part) for part in parts]
    for members in sorted(settings, key=lambda own: -sum(costs[i] for i in own)):
        least = loads.index(min(loads))
        parts[least] += members
        loads[least] += sum(costs[i] for i in members)
    same = [
        on_device(cell, "on" if is_on else cell.amp, "any machine").cell_id
        for cell, is_on in zip(cells, amp_is_on, strict=True)
    ]
    parts = [sorted(part) for part in parts]
    plan = digest([[same[i] for i in part] for part in parts])
    return Division(plan, tuple(tuple(cells[i] for i in part) for part in parts), tuple(loads))
