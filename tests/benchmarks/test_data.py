"""A data set of 400,000 examples is read, split and checked within 1 GiB of memory."""

import csv
import json
import random

from minbert.assets.embedded import fetch
from tests.benchmarks.conftest import output_and_peak

_ROWS = 400_000


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


def test_read_split_and_check_400_000_rows(tmp_path, benchmark):
    path = tmp_path / "many.csv"
    write_rows(path)
    words = ("-m", "bench.data", path, "--json", "--model", fetch("minilm"))
    variables = {"MINBERT_CACHE": str(tmp_path / "cache")}
    output, peak_mib = benchmark.pedantic(output_and_peak, words, variables, rounds=1)
    facts = json.loads(output)
    benchmark.extra_info["peak_rss_mib"] = peak_mib
    assert peak_mib < 1024
    assert facts["train"] + facts["dev"] == _ROWS
    assert abs(facts["dev"] - _ROWS / 10) < 2
    checks = facts["checks"]
    assert checks["duplicates"]["train"] + checks["duplicates"]["dev"] == 1000
    assert checks["leaks"]["train"] == 0  # equal texts are on one side
    assert checks["conflicts"]["train"] + checks["conflicts"]["dev"] == 200
    assert 19_000 < checks["compared"] <= 20_000
    assert {counts[0] + counts[1] for counts in facts["class_counts"].values()} < {
        *range(133_200, 133_500)
    }  # fmt: skip
