"""Counts costs in a process of its own: `python -m bench.forecast.process FOLDER`.

`bench.forecast.client` starts it, so that torch stays out of the process that plans. It reads
request.json and leaves answer.json in the folder. What it counts is kept in the user's cache
folder as it comes.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.worker import lifeline
from bench.worker.imports import import_all

if TYPE_CHECKING:
    from bench.forecast.costs import ShapesOf
    from bench.forecast.workload import Workload

REQUEST: Final = "request.json"
ANSWER: Final = "answer.json"

_STATUS: Final = Path("/proc/self/status")


def resident_mib() -> dict[str, float]:
    """What this process holds now, by the name of the column of its peak.

    Where the kernel doesn't tell what of it is mapped from files, all of it counts.
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
    """Answer the request in a folder; the exit code."""
    lifeline.attach()

    import_all()  # what a worker imports, as it does, and no more
    imports = resident_mib()

    from bench.common.command import BAD_INPUT
    from bench.common.files import write_atomically

    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    try:
        answer = _answer(request, imports)
    except BAD_INPUT as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    write_atomically(folder / ANSWER, json.dumps(answer).encode())
    return 0


def _answer(request: dict[str, Any], imports: dict[str, float]) -> dict[str, Any]:
    from bench.forecast import cache
    from bench.forecast.costs import (
        CountsOf,
        Variant,
        counts_from_json,
        counts_to_json,
        shapes_to_json,
    )
    from bench.forecast.fake import count
    from bench.forecast.workload import Workload
    from bench.worker.progress import Progress

    progress = Progress.from_environment()
    workload = Workload.from_json(request["workload"])
    cache.write(workload.imports_key(), imports)
    variants = [Variant(*values) for values in request["variants"]]
    shapes = _shapes(workload, {variant.batch_size for variant in variants})
    found = []
    for number, variant in enumerate(variants):
        progress.step(number, len(variants))
        of = shapes[variant.batch_size]
        key = workload.counts_key(of, variant)
        counts: CountsOf | None = counts_from_json(cache.read(key))
        if counts is None:
            counts = count(workload, of, variant)
            cache.write(key, counts_to_json(counts))
        found.append(counts_to_json(counts))
    sizes = [[size, shapes_to_json(of)] for size, of in shapes.items()]
    return {"imports_mib": imports, "shapes": sizes, "counts": found}


def _shapes(workload: "Workload", batch_sizes: set[int]) -> dict[int, "ShapesOf"]:
    """Shapes of the batches of some sizes, from the cache or made now, in one go."""
    from bench.forecast import cache
    from bench.forecast.batches import find_shapes
    from bench.forecast.costs import shapes_from_json, shapes_to_json

    found: dict[int, ShapesOf] = {}
    for size in sorted(batch_sizes):
        kept = shapes_from_json(cache.read(workload.shapes_key(size)))
        if kept is not None:
            found[size] = kept
    lacking = sorted(batch_sizes - found.keys())
    made = find_shapes(workload, lacking) if lacking else {}
    for size, of in made.items():
        cache.write(workload.shapes_key(size), shapes_to_json(of))
        found[size] = of
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bench.forecast.process FOLDER")
    sys.exit(main(Path(sys.argv[1])))
