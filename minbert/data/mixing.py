"""Orders of the batches of several tasks in an epoch. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

Order = list[str]


def sequential(counts: Mapping[str, int], _rng: np.random.Generator) -> Order:
    """All batches of the first task, then all of the second, and so on."""
    return [task for task, count in counts.items() for _ in range(count)]


def round_robin(counts: Mapping[str, int], _rng: np.random.Generator) -> Order:
    """A batch of each task in turn; a task whose batches are used up is skipped."""
    turns = range(max(counts.values(), default=0))
    return [task for turn in turns for task, count in counts.items() if turn < count]


def proportional(counts: Mapping[str, int], rng: np.random.Generator) -> Order:
    """A random order: at every step a task is chosen in proportion to its remaining batches."""
    order = np.repeat(np.arange(len(counts)), list(counts.values()))
    names: Sequence[str] = list(counts)
    return [names[index] for index in rng.permutation(order)]


MIXINGS: Final[Mapping[str, Callable[[Mapping[str, int], np.random.Generator], Order]]] = {
    "sequential": sequential,
    "round-robin": round_robin,
    "proportional": proportional,
}


def mix(name: str, counts: Mapping[str, int], rng: np.random.Generator) -> Order:
    """The task of each step of an epoch that has every batch of every task once.

    Args:
        name: one of `MIXINGS`.
        counts: batches of each task.

    Raises:
        ValueError: for another name.
    """
    if name not in MIXINGS:
        raise ValueError(f"no order of tasks is called {name!r}; there are {', '.join(MIXINGS)}")
    return MIXINGS[name](counts, rng)
