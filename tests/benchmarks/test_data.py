"""200,000 examples are read, split and checked within 640 MiB, and 500,000 read within 1 GiB."""

import csv
import json
import random

import pytest

from minbert.assets.embedded import fetch
from tests.bench.examples.tables import need_data, write_json_lines, write_parquet
from tests.benchmarks.conftest import output_and_peak

_ROWS = 200_000


def write_rows(path):
    """Texts in three classes; 1,000 occur twice, half in capitals, a tenth with another label."""
    draw = random.Random(0)  # noqa: S311
    words = [f"word{number}" for number in range(30_000)]
    repeated = []
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for number in range(_ROWS - 1000):
            text = " ".join(draw.choices(words, k=draw.randint(5, 25)))
            writer.writerow((text, f"class {number % 3}"))
            if number < 1000:
                repeated.append((text.upper() if number % 2 else text, number))
        for text, number in repeated:
            writer.writerow((text, f"class {(number + (number % 10 == 0)) % 3}"))


def test_read_split_and_check_200_000_rows(tmp_path, benchmark):
    path = tmp_path / "many.csv"
    write_rows(path)
    words = ("-m", "bench.data", path, "--json", "--model", fetch("minilm"))
    variables = {"MINBERT_CACHE": str(tmp_path / "cache")}
    output, peak_mib = benchmark.pedantic(output_and_peak, words, variables, rounds=1)
    facts = json.loads(output)
    benchmark.extra_info["peak_rss_mib"] = peak_mib
    assert peak_mib < 640
    assert facts["train"] + facts["dev"] == _ROWS
    assert abs(facts["dev"] - _ROWS / 10) < 2
    checks = facts["checks"]
    assert checks["duplicates"]["train"] + checks["duplicates"]["dev"] == 1000
    assert checks["leaks"]["train"] == 0  # equal texts are on one side
    assert checks["conflicts"]["train"] + checks["conflicts"]["dev"] == 200
    assert 19_000 < checks["compared"] <= 20_000
    assert {counts[0] + counts[1] for counts in facts["class_counts"].values()} < {
        *range(66_500, 66_800)
    }  # fmt: skip


_MORE_ROWS = 500_000
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
        "text": [f"{number} {words * (number % 4 + 1)}" for number in range(_MORE_ROWS)],
        "label": [f"topic {number % 12}" for number in range(_MORE_ROWS)],
    }


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_read_500_000_rows(tmp_path, benchmark, columns, suffix):
    path = tmp_path / f"train{suffix}"
    if suffix == ".parquet":
        need_data()
    (write_parquet if suffix == ".parquet" else write_json_lines)(path, columns)
    _, peak_mib = benchmark.pedantic(output_and_peak, ("-c", _READ, path, _MORE_ROWS), rounds=1)
    assert peak_mib < 1024
