"""The imports of a cell, torch above all, which take most of the time until its first step."""

import gc

from bench.plan.job import Job


def import_all(job: Job | None = None) -> None:
    """Import everything that a cell needs, with garbage collection off.

    Args:
        job: of the cell, for what its engine imports; None: what all cells need.

    Importing makes hundreds of thousands of permanent objects. Scanning them again and again takes
    a tenth of the import and more; frozen, they are not scanned later either.
    """
    gc.disable()
    try:
        import bench.worker.run  # noqa: F401
        from bench.engines.engine import engine_of

        if job is not None:
            engine_of(job.cell).import_libraries(job)
    finally:
        gc.enable()
    gc.freeze()
