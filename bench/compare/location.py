"""Where a side is measured: a checkout, a virtual environment, or this checkout."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.analysis.matching import Side
from bench.common.errors import InputError, StoppedError
from bench.common.messages import last_error
from bench.launch.signals import Signals
from bench.machine.conditions import WORKERS
from bench.machine.version import measuring
from bench.plan.cell import digest

_ROOT: Final = Path(__file__).parents[2]
_TICK_S: Final = 0.1  # seconds after which a stop by the user is noticed
_FIND: Final = """
from importlib.metadata import distribution
from importlib.util import find_spec
distribution("minbert-bench")
origin = find_spec("bench").origin
print(origin) if origin else exit(1)
"""


@dataclass(frozen=True)
class Location:
    """A Python and the folder of the code that it runs, which measure one side."""

    side: Side
    python: str
    root: Path

    @classmethod
    def of(cls, side: Side, place: Path | None) -> "Location":
        """The location of a side: a checkout, whose code runs with this Python, or a virtual
        environment in which this project is installed, or else InputError; None: this checkout."""
        if place is None:
            return cls(side, sys.executable, _ROOT)
        python = place.absolute() / "bin" / "python"
        if python.exists():
            return cls(side, str(python), _installed(python, place))
        if (place / "bench").is_dir():
            return cls(side, sys.executable, place.resolve())
        raise InputError(
            f"{side}: {place} is neither a checkout, with a folder bench/, nor a virtual "
            "environment, with bin/python"
        )

    def digest(self) -> str:
        """Digest of the location, its code as it is now and its packages."""
        parts = [self.root / name for name in measuring(self.root)]
        inside = [path for part in parts for path in (part, *part.rglob("*"))]
        files = [path for path in inside if path.suffix in {".py", ".toml"}]
        texts = [(str(p), p.read_text("utf-8", "replace")) for p in sorted(files) if p.is_file()]
        packages = Path(self.python).parents[1].glob("lib/python*/*-packages/*.dist-info")
        return digest([self.python, str(self.root), texts, sorted(p.name for p in packages)])

    def grid(
        self, arguments: Sequence[str], signals: Signals, workers: int = 1
    ) -> "subprocess.CompletedProcess[str]":
        """Run bench.grid, of which so many workers measure at once. InputError if it refuses its
        input; StoppedError if the user stopped it, which is forwarded."""
        paths = filter(None, (str(self.root), os.environ.get("PYTHONPATH")))
        # without the current folder, which may hold other code
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
        env |= {WORKERS: str(workers)} if workers > 1 else {}
        argv = [self.python, "-m", "bench.grid", *arguments]
        process = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", process_group=0,
        )  # fmt: skip
        forwarded = 0
        while True:
            try:
                out, err = process.communicate(timeout=_TICK_S)
                break
            except subprocess.TimeoutExpired:
                if forwarded < signals.stops:
                    process.send_signal(signal.SIGINT)
                    forwarded += 1
        if signals.stops:
            raise StoppedError
        if process.returncode == 2:
            errors = [line for line in err.splitlines() if line.startswith("error: ")]
            error = errors[-1].removeprefix("error: ") if errors else last_error(err)
            raise InputError(f"{self.side}: {error}")
        if process.returncode == 130:
            raise StoppedError
        return subprocess.CompletedProcess(argv, process.returncode, out, err)


def _installed(python: Path, place: Path) -> Path:
    """The folder with the code of this project in a virtual environment."""
    argv = [str(python), "-P", "-E", "-c", _FIND]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InputError(
            f"{place}: this project is not installed in that environment; install a checkout with "
            f"{place / 'bin' / 'pip'} install -e CHECKOUT"
        )
    return Path(done.stdout.strip()).parents[1]
