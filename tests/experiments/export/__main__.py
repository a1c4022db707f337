"""Every kind of cell of engine minbert in every format; prints its table of docs/export.md, in a
quarter of an hour.

python -m tests.experiments.export [FORMAT ...]
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.export.fresh import hub_cache
from tests.bench.export.small import base_folder, base_of


def main() -> None:
    """Write, load and compare all kinds; print the table, and on stderr how far it is."""
    with TemporaryDirectory() as place:
        base = base_folder(Path(place, "base"))
        os.environ |= {  # read by libraries when they are imported
            "HF_HUB_CACHE": str(hub_cache(base_of(base), Path(place, "hub"))),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }
        from bench.export.formats import FORMATS
        from tests.experiments.export.matrix import (
            all_variants,
            cases,
            check_fresh,
            observed,
            table,
        )

        names = sys.argv[1:] or list(FORMATS)
        held, exports = {}, 0
        for case in cases():
            how = []
            for name in names:
                seen = set()
                for kind, pairs in all_variants():
                    cell = case.trained(base, kind, pairs)
                    seen.add(observed(cell, name))
                    exports += "—" not in min(seen)
                assert len(seen) == 1, (case, name, seen)
                how += seen
            held[case] = how
            print(exports, case, how, file=sys.stderr, flush=True)
        for name in names:
            fitting = next(case for case, how in held.items() if "—" not in how[names.index(name)])
            check_fresh(fitting.trained(base), name)
        print(f"{exports} exports were compared", file=sys.stderr)
        print(table(held, names), end="")


if __name__ == "__main__":
    main()
