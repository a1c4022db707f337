"""The process of one check: `bench.doctor.process NAME DEVICE THREADS AMP_ON FOLDER AMPS`.

It writes its finding into result.json in the folder, as a cell's worker does, so that the same
runner supervises it.
"""

import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Final

from bench.doctor.check import SKIPPED, Context, Finding, SkipError
from bench.worker import lifeline

FINDING: Final = "finding"
"""Key of the finding in result.json."""
_FILES: Final = "files"


def main(name: str, device: str, threads: int, amp_on: str, folder: Path, amps: str) -> int:
    """Run a check and write its finding; returns the exit code."""
    lifeline.attach()
    from bench.worker.__main__ import write_result

    files = folder / _FILES
    files.mkdir(parents=True, exist_ok=True)
    check = import_module(f"bench.doctor.checks.{name.replace('-', '_')}").check
    try:
        finding = check(Context(device, threads, amp_on, files, tuple(amps.split(","))))
    except SkipError as reason:
        finding = Finding(SKIPPED, str(reason))
    write_result(folder, "ok", "", {FINDING: asdict(finding)})  # type: ignore[dict-item]
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 7:
        sys.exit("usage: python -m bench.doctor.process NAME DEVICE THREADS AMP_ON FOLDER AMPS")
    name, device, threads, amp_on, folder, amps = sys.argv[1:]
    sys.exit(main(name, device, int(threads), amp_on, Path(folder), amps))
