"""The process of one check, `bench.doctor.process NAME FOLDER CONTEXT`, the last as JSON. It writes
its finding into result.json, as a cell's worker does, so that the same runner supervises it."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Final

from bench.doctor.check import BY_NAME, SKIPPED, Context, Finding, SkipError
from bench.worker.process import tie_to_parent

FINDING: Final = "finding"


def main(name: str, folder: Path, context: dict[str, Any]) -> None:
    tie_to_parent()
    from bench.worker.__main__ import write_result

    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    function = resolve_name(f"bench.doctor.checks.{BY_NAME[name].function}")
    try:
        finding = function(Context(folder=files, **context), *BY_NAME[name].arguments)
    except SkipError as reason:
        finding = Finding(name, SKIPPED, str(reason))
    write_result(folder, "ok", "", {FINDING: asdict(finding)})  # type: ignore[dict-item]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
