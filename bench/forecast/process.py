"""Counts costs in a process of its own, `python -m bench.forecast.process`.

`bench.forecast.client` starts it, so that the planning process does not load torch. It reads one
line of JSON: a job, the seeds whose batches are planned, and the variants to count. It writes one
line for the memory of the imports, and one for the totals of each variant.
"""

import json
import sys
from typing import Any

from bench.worker import lifeline
from bench.worker.imports import import_all


def main() -> int:
    """Count what the request on stdin asks for; returns the exit code."""
    request = sys.stdin.readline()
    lifeline.attach()
    import_all()  # exactly what a worker imports

    from bench.common.command import BAD_INPUT
    from bench.worker.probes.memory import peak_so_far, resident_now

    _write(resident_now().rss_mib or peak_so_far().rss_mib)
    try:
        _count(*json.loads(request))
    except BAD_INPUT as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _count(job_json: str, seeds: list[int], variants: list[list[Any]]) -> None:
    from bench.forecast.batches import find_shapes
    from bench.forecast.costs import Variant, totals_of
    from bench.forecast.fake import count
    from bench.plan.job import Job

    job, wanted = Job.from_json(job_json), [Variant(*values) for values in variants]
    shapes = find_shapes(job, seeds, {variant.size for variant in wanted})
    for variant in wanted:
        batches = shapes[variant.size]
        _write(totals_of(batches, count(job, batches, variant)))


def _write(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    sys.exit(main())
