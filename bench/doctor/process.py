"""The process of one check: `bench.doctor.process NAME CONTEXT`, the context as JSON.

It writes its finding into result.json in the context's folder, as a cell's worker does, so that the
same runner supervises it.
"""

import json
import sys
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Final

from bench.doctor.check import SKIPPED, Context, Finding, SkipError
from bench.worker import lifeline

FINDING: Final = "finding"
"""Key of the finding in result.json."""
_FILES: Final = "files"


def main(name: str, context: Context) -> int:
    """Run a check and write its finding; returns the exit code."""
    lifeline.attach()
    from bench.worker.__main__ import write_result

    files = context.folder / _FILES
    files.mkdir(parents=True, exist_ok=True)
    module, *part = name.replace("-", "_").split(".")
    check = import_module(f"bench.doctor.checks.{module}").check
    try:
        finding = check(replace(context, folder=files), *part)
    except SkipError as reason:
        finding = Finding(SKIPPED, str(reason))
    write_result(context.folder, "ok", "", {FINDING: asdict(finding)})  # type: ignore[dict-item]
    return 0


if __name__ == "__main__":
    name, text = sys.argv[1:]
    fields = json.loads(text)
    folder, amps = Path(fields["folder"]), tuple(fields["amps"])
    sys.exit(main(name, Context(**fields | {"folder": folder, "amps": amps})))
