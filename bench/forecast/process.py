"""Counts costs in a process of its own: `python -m bench.forecast.process FOLDER`.

`bench.forecast.client` starts it, so that the planning process does not load torch. It reads
request.json in the folder, and writes costs to that folder and to the user's cache as it counts
them.
"""

import sys
from pathlib import Path
from typing import Final

from bench.worker import lifeline
from bench.worker.imports import import_all

FILE: Final = "request.json"

_STATUS: Final = Path("/proc/self/status")


def resident_mib() -> dict[str, float]:
    """The memory of this process now, by the column of its peak.

    Where the kernel does not report which part is mapped from files, all of it counts.
    """
    if _STATUS.exists():
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        kib = {
            name: int(value.split()[0])
            for name, _, value in (line.partition(":") for line in lines)
            if name in ("VmRSS", "RssAnon", "RssShmem")
        }
        if len(kib) == 3:
            anonymous = kib["RssAnon"] + kib["RssShmem"]
            return {"peak_rss_mib": kib["VmRSS"] / 1024, "peak_anon_mib": anonymous / 1024}
    import psutil

    whole = psutil.Process().memory_info().rss / 2**20
    return {"peak_rss_mib": whole, "peak_anon_mib": whole}


def main(folder: Path) -> int:
    """Count what the request in a folder asks for; returns the exit code."""
    lifeline.attach()

    import_all()  # exactly what a worker imports
    imports = resident_mib()

    from bench.common.command import BAD_INPUT

    try:
        _count(folder, imports)
    except BAD_INPUT as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _count(folder: Path, imports: dict[str, float]) -> None:
    from bench.forecast.batches import find_shapes
    from bench.forecast.cache import Cache
    from bench.forecast.costs import COUNTS, IMPORTS, SHAPES, ShapesOf
    from bench.forecast.fake import count
    from bench.forecast.workload import REQUEST
    from bench.worker.progress import Progress

    progress, cache = Progress.from_environment(), Cache(folder)
    workload, variants = REQUEST.validate_json((folder / FILE).read_bytes())
    cache.write(workload.imports_key(), IMPORTS, imports)
    sizes = sorted({variant.batch_size for variant in variants})
    shapes: dict[int, ShapesOf] = {}
    for size in sizes:
        if cached := cache.read(workload.shapes_key(size), SHAPES):
            shapes[size] = cached
    if missing := [size for size in sizes if size not in shapes]:
        for size, of_size in find_shapes(workload, missing).items():
            cache.write(workload.shapes_key(size), SHAPES, of_size)
            shapes[size] = of_size
    for number, variant in enumerate(variants):
        progress.step(number, len(variants))
        batches = shapes[variant.batch_size]
        key = workload.counts_key(batches, variant)
        if cache.read(key, COUNTS) is None:
            cache.write(key, COUNTS, count(workload, batches, variant))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bench.forecast.process FOLDER")
    sys.exit(main(Path(sys.argv[1])))
