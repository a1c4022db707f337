"""Counts costs in a process of its own, `python -m bench.forecast.process`.

`bench.forecast.client` starts it, so that the planning process does not load torch. It reads one
line of JSON: the seeds whose batches are planned, and a job for each variant to count. It writes a
line for each: its totals, or as a string why it can't be counted.
"""

import json
import sys

from adapters.methods import METHODS
from bench.forecast.costs import Shapes, Size, Variant, totals_of
from bench.plan.cell import MINBERT
from bench.plan.job import Job
from bench.worker import lifeline
from bench.worker.imports import import_all


def main() -> int:
    """Count what the request on stdin asks for; returns the exit code."""
    request = sys.stdin.readline()
    lifeline.attach()
    seeds, texts = json.loads(request)
    jobs = [Job.from_json(text) for text in texts]
    imports_mib = _import_all(jobs)

    from bench.common.command import BAD_INPUT

    try:
        _count(jobs, seeds, imports_mib)
    except BAD_INPUT as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _import_all(jobs: list[Job]) -> dict[tuple[str, str], float]:
    """Import exactly what workers import; MiB afterwards by engine and mode, least first."""
    imports_mib: dict[tuple[str, str], float] = {}
    for job in sorted(jobs, key=_imports):
        import_all(job)

        from bench.worker.probes.memory import peak_so_far, resident_now

        mib = resident_now().rss_mib or peak_so_far().rss_mib or 0.0
        imports_mib.setdefault((job.cell.engine, job.cell.mode), mib)
    return imports_mib


def _imports(job: Job) -> tuple[bool, bool]:
    """The sort key of what a worker imports: an engine's libraries, then those of adapters."""
    return job.cell.engine != MINBERT, job.cell.mode in METHODS


def _count(jobs: list[Job], seeds: list[int], imports_mib: dict[tuple[str, str], float]) -> None:
    from bench.forecast.batches import find_shapes
    from bench.forecast.fake import UncountableError, count

    sizes = {job: Variant.of(job.cell).size for job in jobs}
    shapes: dict[Size, dict[str, Shapes]] = {}
    for job, size in sizes.items():
        if size not in shapes:
            alike = {other for other in sizes.values() if other[:3] == size[:3]}
            shapes |= find_shapes(job, seeds, alike)
        try:
            totals = totals_of(shapes[size], count(job, shapes[size]))
        except UncountableError as error:
            _write(str(error))
        else:
            _write(totals._replace(imports_mib=imports_mib[job.cell.engine, job.cell.mode]))


def _write(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    sys.exit(main())
