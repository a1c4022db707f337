"""Every kind of cell of engine minbert in every format; prints its table of docs/export.md, in a
quarter of an hour.

python -m tests.experiments.export [FORMAT ...]
"""

import os
import sys
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.export.fresh import hub_cache
from tests.bench.export.small import base_folder, base_of, expected_logits, exported


def main():
    """Write, load and compare all kinds; print the table, and on stderr how far it is."""
    with TemporaryDirectory() as place:
        base = base_folder(Path(place, "base"))
        os.environ |= {  # read by libraries when they are imported
            "HF_HUB_CACHE": str(hub_cache(base_of(base), Path(place, "hub"))),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }
        from bench.export.check import check
        from bench.export.formats import FORMATS
        from tests.experiments.export.matrix import KINDS, cases, observed, table

        names = sys.argv[1:] or list(FORMATS)
        stored, exports = {}, 0
        for case in cases():
            how = []
            for name in names:
                seen = set()
                for kind, pairs in product(KINDS, (False, True)):
                    cell = case.trained(base, kind, pairs)
                    seen.add(observed(cell, name))
                    exports += "—" not in min(seen)
                assert len(seen) == 1, (case, name, seen)
                how += seen
            stored[case] = how
            print(exports, case, how, file=sys.stderr, flush=True)
        for name in names:
            number = names.index(name)
            own = next(c for c, how in stored.items() if "—" not in how[number]).trained(base)
            check(own, exported(own, name, Path(place, f"out-{number}")), expected_logits(own))
        print(f"{exports} exports were compared", file=sys.stderr)
        print(table(stored, names), end="")


if __name__ == "__main__":
    main()
