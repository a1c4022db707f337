"""Counts costs in a process of its own, `python -m bench.forecast.process`.

`bench.forecast.client` starts it, so that the planning process does not load torch. It reads one
line of JSON: the seeds whose batches are planned, and a job for each variant to count, of cells
that differ in nothing else. It writes a line with the totals of each or, where a model can't be
counted, with the reason.
"""

import json
import sys

from adapters.methods import METHODS
from bench.forecast.costs import Totals, Variant, totals_of
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


def _import_all(jobs: list[Job]) -> dict[bool, float]:
    """Import exactly what workers import; MiB afterwards, without adapters and with them."""
    imports_mib: dict[bool, float] = {}
    for adapted, job in sorted({job.cell.mode in METHODS: job for job in jobs}.items()):
        import_all(job)

        from bench.worker.probes.memory import peak_so_far, resident_now

        imports_mib[adapted] = resident_now().rss_mib or peak_so_far().rss_mib or 0.0
    return imports_mib


def _count(jobs: list[Job], seeds: list[int], imports_mib: dict[bool, float]) -> None:
    from bench.forecast.batches import find_shapes
    from bench.forecast.fake import UncountableError, count

    variants = [Variant.of(job.cell) for job in jobs]
    shapes = find_shapes(jobs[0], seeds, {variant.size for variant in variants})
    for job, variant in zip(jobs, variants, strict=True):
        batches = shapes[variant.size]
        mib = imports_mib[variant.mode in METHODS]
        line: Totals | str
        try:
            line = totals_of(batches, count(job, batches, variant))._replace(imports_mib=mib)
        except UncountableError as error:
            line = str(error)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
