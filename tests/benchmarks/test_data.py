"""A data set of 400,000 examples is read, split and checked within 1 GiB of memory."""

import csv
import json
import os
import random
import subprocess
import sys

_ROWS = 400_000
_LIMIT_KIB = 2**20
_PEAK_OF = """
import pathlib, resource, subprocess, sys
code = subprocess.run(sys.argv[2:]).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
pathlib.Path(sys.argv[1]).write_text(str(peak))
sys.exit(code)
"""
"""Runs a command and writes its peak, in a small process: to the peak of a process counts that of
the one which started it, at that time."""


def write_rows(path):
    """Distinct texts in three classes, but for 1,000 that occur twice: half of them in capitals,
    and a tenth with another label."""
    draw = random.Random(0)  # noqa: S311
    words = [f"word{number}" for number in range(30_000)]
    repeated: list[tuple[str, int]] = []
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
    peak, command = tmp_path / "peak", [sys.executable, "-m", "bench.data", str(path), "--json"]
    environment = {**os.environ, "MINBERT_CACHE": str(tmp_path / "cache")}
    from minbert.assets.embedded import fetch

    model = str(fetch("minilm"))

    def check():
        with (tmp_path / "out.json").open("wb") as out:
            argv = [sys.executable, "-c", _PEAK_OF, str(peak), *command, "--model", model]
            subprocess.run(argv, stdout=out, env=environment, check=True)
        facts = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
        return {"peak_rss_mib": int(peak.read_text()) // 1024, **facts}

    facts = benchmark.pedantic(check, rounds=1)
    benchmark.extra_info["peak_rss_mib"] = facts["peak_rss_mib"]
    assert facts["peak_rss_mib"] * 1024 < _LIMIT_KIB
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
