"""The real worker, followed and struck from outside: `… faults.real_worker CELL_FOLDER`.

What runs is `bench.worker`'s own main. Its messages of progress tell the phases. An exception is
raised as an allocator would, from within one of torch's operations.
"""

import sys
from pathlib import Path
from typing import Any

from tests.experiments.faults.worker import Hook, begin


def main(folder: Path) -> int:
    hook = begin(folder)
    in_main = hook.strike is not None and hook.strike.in_main
    hook.enter("start")
    from bench.worker import __main__ as worker
    from bench.worker.progress import Progress

    tell, write = Progress.phase, worker.write_result

    def phase(self: Progress, name: str) -> None:
        nonlocal in_main
        if in_main:
            _strike_in_operations(hook)
            in_main = False
        hook.enter(name)
        tell(self, name)

    def write_result(*arguments: Any, **named: Any) -> None:
        hook.enter("write")
        write(*arguments, **named)
        hook.enter("end")

    Progress.phase = phase
    worker.write_result = write_result
    return worker.main(folder)


def _strike_in_operations(hook: Hook) -> None:
    """From now to the process's end, each of torch's operations is a moment to be struck at."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Ticking(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            hook.tick()
            return operation(*args, **(kwargs or {}))

    Ticking().__enter__()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
