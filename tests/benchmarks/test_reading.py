"""A million rows are read in 2 GiB, as those of a CSV are in test_data.py."""

import subprocess
import sys

import pytest

from tests.bench.examples.tables import need_data, write_json_lines, write_parquet

_ROWS = 1_000_000
_MOST_MIB = 2048
_READ = """
import sys
from pathlib import Path
from bench.examples.reading import read
from bench.plan.dataset import DataSpec

data = read(DataSpec(path=sys.argv[1]))
assert len(data.examples) == int(sys.argv[2]) and len(data.spec.classes) == 12
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) // 1024)
"""
"""Prints the peak of this process alone: ru_maxrss starts at that of the process before exec."""


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
        write_parquet(path, columns)
    else:
        write_json_lines(path, columns)

    def read():
        command = [sys.executable, "-c", _READ, str(path), str(_ROWS)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert benchmark.pedantic(read, rounds=1) < _MOST_MIB
