"""A report on many rows."""

from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from bench.report.render import render
from tests.bench.synthetic_rows import synthetic_rows


def test_report_on_10_000_rows(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    rows = synthetic_rows(10_000)
    benchmark.pedantic(render, args=(rows, tmp_path / "reports"), rounds=2)
