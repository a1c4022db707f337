"""A worker without torch, that notes its start. A file in folder STUB_CELLS named as a cell's seed
says what it does: sleep for so many seconds, `crash`, or `fill memory` with half a GiB."""

import json
import os
import sys
import time
from pathlib import Path

from bench.common.files import write_atomically
from bench.plan.job import FILE
from bench.results.protocol import RESULT
from bench.worker.process import tie_to_parent

CELLS = "STUB_CELLS"
STARTS = "starts.txt"
"""A line for each start: seed, attempt and node."""
FILL_MEMORY = "fill memory"


def main(folder):
    tie_to_parent()
    job = json.loads((folder / FILE).read_text())
    cells, seed = Path(os.environ[CELLS]), job["cell"]["seed"]
    note = f"{seed} {job['attempt']} {os.environ.get('SLURMD_NODENAME', '')}\n"
    with (cells / STARTS).open("ab", buffering=0) as file:  # a line at once
        file.write(note.encode())
    order = cells / str(seed)
    what = order.read_text() if order.exists() else "0.1"
    if what == "crash":
        return 1
    held = bytearray(b"x") * 2**29 if what == FILL_MEMORY else b""
    time.sleep(60.0 if held else float(what))
    columns = {"train_s": 1.5 + seed, "tokens_total": 100, "ms_per_1k_tokens": 20.0}
    result = {"status": "ok", "message": "", "flags": [], "columns": columns}
    write_atomically(folder / RESULT, json.dumps(result).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
