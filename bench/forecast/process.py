"""Counts costs in a process of its own, so that the planning process does not load torch. A request
is the seeds whose batches are planned, and a job for each variant to count, of cells that differ in
nothing else; the answers are the totals of each or, where a model can't be counted, the reason.
Without seeds they are the formulae of each, for batches of any size and length."""

import sys
from collections.abc import Iterator

from adapters.methods import METHODS
from bench.common.child import serve
from bench.forecast.costs import Formulae, Totals, Variant, totals_of
from bench.plan.job import Job
from bench.worker.process import import_all, tie_to_parent


def answers_to(request: tuple[list[int] | None, list[str]]) -> Iterator[Totals | Formulae | str]:
    tie_to_parent()
    seeds, texts = request
    jobs = [Job.from_json(text) for text in texts]
    imports_mib: dict[bool, float] = {}  # of what workers import, without adapters and with them
    for adapted, job in sorted({job.cell.mode in METHODS: job for job in jobs}.items()):
        import_all(job)

        from bench.worker.probes.memory import peak_so_far, resident_now

        imports_mib[adapted] = resident_now().rss_mib or peak_so_far().rss_mib or 0.0
    return _trace(jobs, imports_mib) if seeds is None else _count(jobs, seeds, imports_mib)


def _trace(jobs: list[Job], imports_mib: dict[bool, float]) -> Iterator[Formulae | str]:
    from bench.forecast.fake import UncountableError
    from bench.forecast.trace import trace
    from bench.worker.probes.memory import resident_now

    anon_mib = resident_now().anon_mib
    for job in jobs:
        try:
            mib = imports_mib[job.cell.mode in METHODS]
            mapped_mib = max(0.0, mib - anon_mib) if anon_mib else 0.0
            yield trace(job)._replace(imports_mib=mib, mapped_mib=mapped_mib)
        except UncountableError as error:
            yield str(error)


def _count(
    jobs: list[Job], seeds: list[int], imports_mib: dict[bool, float]
) -> Iterator[Totals | str]:
    from bench.forecast.fake import UncountableError, count, find_shapes

    variants = [Variant.of(job.cell) for job in jobs]
    shapes = find_shapes(jobs[0], seeds, {variant.size for variant in variants})
    for job, variant in zip(jobs, variants, strict=True):
        batches = shapes[variant.size]
        mib = imports_mib[variant.mode in METHODS]
        try:
            yield totals_of(batches, count(job, batches, variant))._replace(imports_mib=mib)
        except UncountableError as error:
            yield str(error)


if __name__ == "__main__":
    sys.exit(serve(answers_to))
