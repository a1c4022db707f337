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
        "memory-limit", "Is there enough host memory for the full grid on minilm?",
        "how much memory cells may use", needs=(), expected_s=1, memory_mib=0, is_advice=True,
    ),
    Check(
        "software", "Can this Python import what cells run, in the environment that workers get?",
        "whether cells can run at all", needs=(), expected_s=3,
    ),
    Check(
        "driver",
        "Can this torch compute on the GPU, and is the GPU undisturbed and at full speed?",
        "whether times on the GPU are those of this project alone", devices=("cuda",),
        expected_s=12,
    ),
    Check(
        "gpu-memory", "Do the figures of GPU memory rise and fall with what is allocated?",
        "whether peaks of GPU memory are right", devices=("cuda",), needs=("software", "driver"),
        expected_s=5,
    ),
    Check(
        "disturbance", "Do other programs or guests take the cores from training?",
        "whether times are those of this project alone", expected_s=6,
    ),
    Check(
        "cores", "Do all threads have a core of their own?",
        "whether the number of threads suits this machine", needs=("software", "disturbance"),
        expected_s=7,
    ),
    Check(
        "frequency", "Does the processor keep its speed under load?",
        "whether times of a long run are those of a short one",
        needs=("software", "disturbance", "cores"), expected_s=7,
    ),
    Check(
        "step-clock", "Does the clock of training steps report the time that passes?",
        "whether step times are right", expected_s=4,
    ),
    Check(
        "memory-counters", "Do the counters of host memory rise and fall with what is allocated?",
        "whether memory peaks are right", expected_s=3,
    ),
    Check(
        "allocator", "Do training steps reuse their memory once they are warm?",
        "whether memory and step times are those of a steady state",
        needs=("software", "memory-counters"), expected_s=6,
    ),
    Check(
        "huge-pages", "Does the system give workers huge pages, as their allocator requests?",
        "whether step times are comparable with those of machines that have huge pages",
        needs=("software", "allocator"), expected_s=3, is_advice=True,
    ),
    Check(
        "products", "Are matrix products right, and as fast at a step's sizes as they can be?",
        "whether the precision of a cell is what its row states", expected_s=8,
    ),
    Check(
        "numerics", "Do the fast path, plain torch and the CPU train alike?",
        "whether trainings here compute what they should", needs=("software", "products"),
        expected_s=9,
    ),
    Check(
        "synchronisation", "Do training steps run without waiting for the GPU?",
        "whether step times include waiting", devices=("cuda",), needs=("software", "driver"),
        expected_s=12,
    ),
    Check(
        "gpu-load",
        "Does the GPU work for most of a step, or does launching its kernels limit it?",
        "whether compiled steps would pay on this GPU", devices=("cuda",),
        needs=("software", "driver", "step-clock"), expected_s=10, is_advice=True,
    ),
    Check(
        "several-gpus", "Do cells on all GPUs at once take the time of one alone?",
        "whether a GPU of several is slower, or slowed by the others", devices=("cuda",),
        needs=("software", "driver"), expected_s=25, is_advice=True,
    ),
    Check(
        "grid", "Does a cell go through a grid to a complete and consistent row?",
        "whether rows are complete", needs=("software", "memory-counters"), expected_s=13,
        memory_mib=1000,
    ),
    Check(
        "engines", "Do both engines train alike?",
        "whether engine transformers can be compared with engine minbert",
        needs=("software", "numerics", "grid"), expected_s=25, memory_mib=1200, is_advice=True,
    ),
    Check(
        "forecast", "Are forecasts of peak memory right?", "how far forecasts of memory are off",
        needs=("software", "memory-counters", "allocator", "grid"), expected_s=20,
        memory_mib=1200, is_advice=True,
    ),
    Check(
        "out-of-memory",
        "Does a cell without enough memory end as oom, and one that just fits as ok?",
        "whether cells that run out of memory are reported as such",
        needs=("software", "driver", "grid"), expected_s=18, memory_mib=1200,
    ),
    Check(
        "compiled", "Do compiled steps train as plain ones, with all code compiled beforehand?",
        "whether cells with compile = true are right and timed without compiling",
        needs=("software", "numerics"), expected_s=40, memory_mib=1500, is_advice=True,
    ),
)  # fmt: skip


FIRST_LOOK: Final = tuple(
    Check(name, question, "how steps behave here", devices=("cuda",), expected_s=seconds)
    for name, question, seconds in (
        ("first-look.full", "Are steps of full fine-tuning on bert-base as expected?", 45),
        ("first-look.lora", "Are steps of LoRA on bert-base as expected?", 45),
        ("first-look.dora", "Are steps of DoRA on bert-base as expected?", 45),
        ("first-look.overflow", "Does a step whose gradients overflow change nothing?", 9),
        ("synchronisation", "Do training steps run without waiting for the GPU?", 12),
        ("first-look.graphs", "Do CUDA graphs of three lengths share their memory?", 90),
    )
)
"""What `--first-look` runs in place of the checks, on a GPU."""


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
