"""The numbers of stored predictions, for tests."""

from collections.abc import Callable
from pathlib import Path

from bench.common.progress import note_to_stderr
from bench.results.outcomes import ValuesOf
from bench.results.predictions import kept_predictions, values_from


def kept_values(runs: Path, note: Callable[[str], None] = note_to_stderr) -> ValuesOf:
    return values_from(kept_predictions(runs, note))
