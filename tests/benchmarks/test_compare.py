"""Two files of 100,000 rows: read, compared and written."""

import resource
from collections.abc import Iterable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.compare.__main__ import command
from bench.plan.columns import NAMES
from bench.plan.rows import Row
from bench.results.rowfile import encode, record
from tests.bench.synthetic_rows import synthetic_rows


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two files, of which NEW takes a tenth more time. Not to be changed."""
    folder = tmp_path_factory.mktemp("files")
    rows = synthetic_rows(100_000)

    def write(name: str, rows: Iterable[Row]) -> str:
        (folder / name).write_bytes(record(NAMES) + b"".join(map(encode, rows)))
        return str(folder / name)

    slower = (
        row | {"ms_per_1k_tokens": 1.1 * row.ms_per_1k_tokens} if row.ms_per_1k_tokens else row
        for row in rows
    )
    return [write("base.csv", rows), write("new.csv", slower)]


def test_compare_two_files_of_100_000_rows(
    benchmark: BenchmarkFixture, tmp_path: Path, files: list[str]
) -> None:
    def compared() -> int:
        code = command.main([*files, "--reports", str(tmp_path)], standalone_mode=False)
        assert isinstance(code, int)
        return code

    assert benchmark.pedantic(compared, rounds=1) == 1
    benchmark.extra_info["peak_rss_mib"] = round(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
