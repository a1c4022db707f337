"""Orders of the batches of several tasks in an epoch. Pure."""

from collections.abc import Mapping
from typing import Final

import numpy as np

MIXINGS: Final = ("sequential", "round-robin", "proportional")


def mix(name: str, counts: Mapping[str, int], rng: np.random.Generator) -> list[str]:
    """The task of each step of an epoch that has every batch of every task once.

    Args:
        name: one of `MIXINGS`: all batches of the first task, then all of the second, and so on; a
            batch of each task in turn, skipping those whose batches are used up; or a random order,
            in which every step's task is chosen in proportion to its remaining batches.
        counts: batches of each task.

    Raises:
        ValueError: for another name.
    """
    in_sequence = [task for task, count in counts.items() for _ in range(count)]
    if name == "sequential":
        return in_sequence
    if name == "round-robin":
        turns = range(max(counts.values(), default=0))
        return [task for turn in turns for task, count in counts.items() if turn < count]
    if name == "proportional":
        return [in_sequence[place] for place in rng.permutation(len(in_sequence))]
    raise ValueError(f"no order of tasks is called {name!r}; there are {', '.join(MIXINGS)}")
