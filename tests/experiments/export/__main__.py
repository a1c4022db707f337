"""Every kind of cell of minbert in every format: docs/export.md's first table, in 15 minutes."""

import os
import sys
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.export.check import hub_cache
from tests.bench.export.small import base_folder, base_of, expected_logits, exported

if __name__ == "__main__":
    with TemporaryDirectory() as place:
        base = base_folder(Path(place, "base"))
        os.environ |= {  # read by libraries when they are imported
            "HF_HUB_CACHE": str(hub_cache(base_of(base), Path(place, "hub"))),
            "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }  # fmt: skip
        from bench.export.check import check
        from bench.export.formats import FORMATS
        from tests.experiments.export.matrix import KINDS, cases, observed, table

        stored, exports = {}, 0
        for case in cases():
            stored[case] = []
            for name in FORMATS:
                cells = [case.trained(base, *how) for how in product(KINDS, (False, True))]
                seen = [observed(cell, name) for cell in cells]
                assert len(set(seen)) == 1, (case, name, seen)
                exports += len(seen) if "—" not in seen[0] else 0
                stored[case].append(seen[0])
            print(exports, case, stored[case], file=sys.stderr, flush=True)
        for number, name in enumerate(FORMATS):
            own = next(c for c, how in stored.items() if "—" not in how[number]).trained(base)
            check(own, exported(own, name, Path(place, f"out-{number}")), expected_logits(own))
        print(f"{exports} exports were compared", file=sys.stderr)
        print(table(stored), end="")
