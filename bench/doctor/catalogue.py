"""All checks in the order in which they run: cheap ones first, then those that build on others.

A check that needs another is skipped where the other failed, so that a fault is reported once, by
the check that names its cause. Pure.
"""

from collections.abc import Sequence
from typing import Final

from bench.common.errors import InputError
from bench.doctor.check import Check

CHECKS: Final = (
    Check(
        "software",
        "Can this Python import what cells run, in the environment that workers get?",
        "whether cells can run at all",
        needs=(),
        expected_s=3,
    ),
    Check(
        "memory-limit",
        "Is there enough host memory for the full grid on minilm?",
        "how much memory cells may use",
        needs=(),
        expected_s=1,
    ),
    Check(
        "disturbance",
        "Do other programs or guests take the cores from training?",
        "whether times are those of this project alone",
        expected_s=6,
    ),
    Check(
        "cores",
        "Do all threads have a core of their own?",
        "whether the number of threads suits this machine",
        needs=("software", "disturbance"),
        expected_s=7,
    ),
    Check(
        "frequency",
        "Does the processor keep its speed under load?",
        "whether times of a long run are those of a short one",
        needs=("software", "disturbance", "cores"),
        expected_s=7,
    ),
    Check(
        "step-clock",
        "Does the clock of training steps report the time that passes?",
        "whether step times are right",
        expected_s=4,
    ),
    Check(
        "memory-counters",
        "Do the counters of host memory rise and fall with what is allocated?",
        "whether memory peaks are right",
        expected_s=3,
        memory_mib=600,
    ),
    Check(
        "allocator",
        "Do training steps reuse their memory once they are warm?",
        "whether memory and step times are those of a steady state",
        needs=("software", "memory-counters"),
        expected_s=6,
        memory_mib=600,
    ),
    Check(
        "huge-pages",
        "Does the system give workers huge pages, as their allocator requests?",
        "whether step times are comparable with those of machines that have huge pages",
        needs=("software", "allocator"),
        expected_s=3,
        memory_mib=600,
    ),
    Check(
        "products",
        "Are matrix products right, and as fast at a step's sizes as they can be?",
        "whether the precision of a cell is what its row states",
        expected_s=8,
        memory_mib=600,
    ),
)


def selected(names: Sequence[str]) -> list[Check]:
    """The checks with some names and those that they need, in order; all without names.

    Raises:
        InputError: for an unknown name.
    """
    by_name = {check.name: check for check in CHECKS}
    if unknown := [name for name in names if name not in by_name]:
        raise InputError(f"there is no check {unknown[0]!r}; name some of {', '.join(by_name)}")
    wanted, left = set[str](), list(names or by_name)
    while left:
        name = left.pop()
        if name not in wanted:
            wanted.add(name)
            left += by_name[name].needs
    return [check for check in CHECKS if check.name in wanted]
