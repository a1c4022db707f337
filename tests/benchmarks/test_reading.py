"""A million rows are read in 2 GiB, as those of a CSV are in test_data.py."""

import pytest

from tests.bench.examples.tables import need_data, write_json_lines, write_parquet
from tests.benchmarks.conftest import output_and_peak

_ROWS = 1_000_000
_READ = """
import sys
from bench.examples.reading import read
from bench.plan.dataset import DataSpec

data = read(DataSpec(path=sys.argv[1]))
assert len(data.examples) == int(sys.argv[2]) and len(data.spec.classes) == 12
"""


@pytest.fixture(scope="module")
def columns():
    words = "a film about nothing that nobody will ever want to see twice "
    return {
        "text": [f"{number} {words * (number % 4 + 1)}" for number in range(_ROWS)],
        "label": [f"topic {number % 12}" for number in range(_ROWS)],
    }


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_read_a_million_rows(tmp_path, benchmark, columns, suffix):
    path = tmp_path / f"train{suffix}"
    if suffix == ".parquet":
        need_data()
    (write_parquet if suffix == ".parquet" else write_json_lines)(path, columns)
    _, peak_mib = benchmark.pedantic(output_and_peak, ("-c", _READ, path, _ROWS), rounds=1)
    assert peak_mib < 2048
