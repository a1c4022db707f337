"""Counts costs in a process of its own: `python -m bench.predict.process FOLDER`.

`bench.predict.client` starts it, so that torch stays out of the process that plans. It reads
request.json and leaves answer.json in the folder. What it counts is kept in the user's cache
folder as it comes.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from bench.worker import lifeline
from bench.worker.imports import import_all

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

    from bench.command import BAD_INPUT
    from bench.files import write_atomically

    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    try:
        answer = _answer(request, imports)
    except BAD_INPUT as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    write_atomically(folder / ANSWER, json.dumps(answer).encode())
    return 0


def _answer(request: dict[str, Any], imports: dict[str, float]) -> dict[str, Any]:
    from bench.predict import cache
    from bench.predict.batches import find_shapes
    from bench.predict.costs import Counts, Shapes, Variant
    from bench.predict.fake import count
    from bench.predict.workload import Workload
    from bench.worker.progress import Progress

    progress = Progress.from_environment()
    workload = Workload.from_json(request["workload"])
    cache.write(workload.imports_key(), imports)
    shapes = Shapes.from_json(cache.read(workload.shapes_key()))
    if shapes is None:
        shapes = find_shapes(workload)
        cache.write(workload.shapes_key(), shapes.to_json())
    found = []
    variants = [Variant(*values) for values in request["variants"]]
    for number, variant in enumerate(variants):
        progress.step(number, len(variants))
        key = workload.counts_key(shapes, variant)
        counts = Counts.from_json(cache.read(key))
        if counts is None:
            counts = count(workload, shapes, variant)
            cache.write(key, counts.to_json())
        found.append([variant, counts.to_json()])
    return {"imports_mib": imports, "shapes": shapes.to_json(), "counts": found}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m bench.predict.process FOLDER")
    sys.exit(main(Path(sys.argv[1])))
