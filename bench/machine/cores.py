"""Physical cores: those that this process may use, those near a GPU, and shares of them."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

from bench.common.files import text_or_empty

Threads = frozenset[int]
"""Numbers of hardware threads, as `os.sched_getaffinity` has them: of a core, or of several."""

_CPUS: Final = Path("/sys/devices/system/cpu")
_MOST_WORDS: Final = 64  # the length of NVML's answer, in words of 64 hardware threads


def usable_cores(cpus: Path = _CPUS) -> list[Threads]:
    """The cores that this process may use, by its affinity, each as its hardware threads."""
    cores: dict[str, set[int]] = {}
    for number in sorted(os.sched_getaffinity(0)):
        siblings = cpus / f"cpu{number}" / "topology" / "thread_siblings_list"
        cores.setdefault(text_or_empty(siblings).strip() or f"cpu{number}", set()).add(number)
    return list(map(frozenset, cores.values()))


@contextmanager
def nvml() -> Iterator[Any]:
    """A context with NVML's library, which can raise anything if it is broken."""
    import pynvml

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        with suppress(Exception):
            pynvml.nvmlShutdown()


def threads_near(gpu: str) -> Threads:
    """The hardware threads near a GPU, by NVML; none where it does not say."""
    words: Sequence[int] = ()
    with suppress(Exception), nvml() as library:  # an NVML that is broken can raise anything
        handle = library.nvmlDeviceGetHandleByUUID(gpu)
        words = library.nvmlDeviceGetCpuAffinity(handle, _MOST_WORDS)
    return frozenset(
        64 * i + bit for i, word in enumerate(words) for bit in range(64) if word >> bit & 1
    )


def equal_shares(cores: Sequence[Threads], near: Sequence[Threads]) -> list[Threads]:
    """The hardware threads of disjoint shares of equally many cores, each near its device if all of
    them can be. `near` has the threads near the device of each share; empty: not known."""
    sides = [tuple(core for core in cores if threads & core) for threads in near]
    shares_of = Counter(sides)
    separate = len(set().union(*shares_of)) == sum(map(len, shares_of))
    if not separate or any(len(side) < number for side, number in shares_of.items()):
        sides = [tuple(cores)] * len(near)
        shares_of = Counter(sides)
    each = min(len(side) // number for side, number in shares_of.items())
    left = {side: iter(side) for side in shares_of}
    return [frozenset().union(*islice(left[side], each)) for side in sides]
