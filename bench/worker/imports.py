"""The imports of a cell, torch above all, which take most of the time until its first step."""

import gc

from bench.plan.job import Job


def import_all(job: Job | None = None) -> None:
    """Import all that cells need, and with a job what its engine does too, without garbage
    collection: it would scan hundreds of thousands of permanent objects again and again, for a
    tenth of the time and more."""
    gc.disable()
    try:
        import bench.worker.run  # noqa: F401
        from bench.engines.engine import engine_of

        if job is not None:
            engine_of(job.cell).import_libraries(job)
    finally:
        gc.enable()
    gc.freeze()
