"""A place to run grids in, whose cells are trained in this process."""

import pytest

from tests.bench.grids import GridRuns


@pytest.fixture
def grid(tmp_path, tiny_checkpoint):
    return GridRuns(tmp_path, tiny_checkpoint, workers_here=True)
