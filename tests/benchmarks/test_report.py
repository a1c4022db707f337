"""A report on many rows, and planning what is left to run among them."""

import resource
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from bench import gridfile
from bench.plan import Planned, Resolved, expand, plan
from bench.report.render import render
from bench.rowfile import encode, record
from bench.schema import NAMES, latest
from bench.store import Store
from tests.bench.synthetic_rows import synthetic_rows


def written(path: Path, count: int) -> Path:
    """A runs.csv of so many rows."""
    path.write_bytes(record(NAMES) + b"".join(map(encode, synthetic_rows(count))))
    return path


def test_report_on_10_000_rows(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    rows = synthetic_rows(10_000)
    benchmark.pedantic(render, args=(rows, tmp_path / "reports"), rounds=2)


def test_report_on_100_000_rows(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    path, reports = written(tmp_path / "runs.csv", 100_000), tmp_path / "reports"

    def read_and_render() -> Path:
        return render(Store(path).rows, reports, sources=[path.name])

    index = benchmark.pedantic(read_and_render, rounds=1)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    benchmark.extra_info |= {"bytes": index.stat().st_size, "peak_rss_mib": round(peak_mib)}


def test_plan_among_100_000_rows(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    path = written(tmp_path / "runs.csv", 100_000)
    grid = gridfile.load("full")
    resolved = Resolved("minilm", "7c1d0f9a44be", "mean", "3e9ab01c77d2", "bf16", "grid")

    def read_and_plan() -> list[Planned]:
        return plan(expand(grid, resolved), latest(Store(path).rows), "c0ffee123456")

    assert len(benchmark.pedantic(read_and_plan, rounds=3)) == 68
