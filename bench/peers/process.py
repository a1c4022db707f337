"""One process of the comparison: `python -m bench.peers.process FOLDER`.

It reads request.json in the folder, carries it out and writes result.json, as a cell's worker does,
so that the same runner supervises it.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.worker import lifeline

PHASE_MEASURE = "measure"


def main(folder: Path) -> int:
    """Carry out the request in a folder; returns the exit code."""
    lifeline.attach()

    from bench.common.command import BAD_INPUT
    from bench.peers.request import ANSWER, START, WHOLE, Request
    from bench.worker.__main__ import write_result
    from bench.worker.progress import Progress

    request = Request.read(folder)
    progress = Progress.from_environment()
    action: Callable[[Request, Path, Progress], dict[str, Any]] = (
        _start if request.kind == START else _whole if request.kind == WHOLE else _steps
    )
    try:
        answer = action(request, folder, progress)
    except BAD_INPUT as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    columns = {name: answer[name] for name in ("dev_metric", "dev_score") if name in answer}
    write_result(folder, "ok", "", {**columns, ANSWER: answer})  # type: ignore[dict-item]
    return 0


def _start(request: Any, _folder: Path, _progress: Any) -> dict[str, Any]:
    from bench.peers.start import write_start

    cells = [Path(cell) for cell in request.cells]
    return {"new_pooler": write_start(cells, Path(request.checkpoint))}


def _steps(request: Any, folder: Path, progress: Any) -> dict[str, Any]:
    from bench.peers.compiling import CompileLimit
    from bench.peers.names import COMPILED, OURS
    from bench.worker.probes.memory import resident_now

    build: Any
    if request.side == OURS:
        from bench.worker.imports import import_all

        import_all()  # as a cell's worker does
        from bench.peers.ours import build
    else:
        from bench.peers.baseline import build
    from bench.peers.measure import Side, measure

    side = Side(build, resident_now())
    limit = CompileLimit(folder, request.compile_timeout_s if request.side == COMPILED else None)
    return measure(side, request, limit, progress.phase, lambda done: progress.step(done, None))


def _whole(request: Any, folder: Path, progress: Any) -> dict[str, Any]:
    from bench.peers.measure import use_device
    from bench.peers.trainer_script import run
    from bench.plan.job import Job

    job = Job.read(Path(request.cells[0]))
    use_device(job)
    answer = run(job, request, folder, progress.step)
    progress.phase(PHASE_MEASURE)  # reported, as by a cell's worker, once the dev score is known
    return answer


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bench.peers.process FOLDER")
    sys.exit(main(Path(sys.argv[1])))
