"""A place to run grids in, whose cells are trained in this process."""

from pathlib import Path

import pytest

from tests.bench.grids import GridRuns


@pytest.fixture
def grid(tmp_path: Path, tiny_checkpoint: Path) -> GridRuns:
    """A fresh place for a grid's results."""
    return GridRuns(tmp_path, tiny_checkpoint, workers_here=True)
