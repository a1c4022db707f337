"""The benchmarking harness: cells, grids, workers, results, statistics and reports."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bench.loaded import Loaded

_OURS: Final = '"""LoRA and DoRA adapters for linear layers, and PEFT\'s file format for them."""'


def load(*runs: str | Path, metric: str | None = None) -> "Loaded":
    """Read files of results, such as `bench.load("runs.csv")`, scored by a metric or by each row's
    own. InputError for files that can't be read."""
    # no import statement: files that a worker's module imports count as code that measures
    loaded: type[Loaded] = import_module("bench.loaded").Loaded
    return loaded.read([Path(path) for path in runs or ("runs.csv",)], metric)


def _check_adapters() -> None:
    """Stop where `import adapters` would give an unrelated package of that name: ImportError that
    names it, and for a command one line without a traceback."""
    spec = find_spec("adapters")
    found = Path(spec.origin) if spec is not None and spec.origin else None
    if found is not None and found.read_text(encoding="utf-8").startswith(_OURS):
        return
    line = (
        f"the package 'adapters' that Python finds ({found or 'none'}) is not this project's; "
        "uninstall the unrelated distribution of that name, then install this project again"
    )
    if sys.argv[0] == "-m":  # while a package is imported for `python -m`
        sys.stderr.write(f"error: {line}\n")
        raise SystemExit(2)
    raise ImportError(line)


_check_adapters()
