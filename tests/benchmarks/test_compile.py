"""Compiling the same code a second time in a run takes at most a fifth of the first."""

import os
import subprocess
import sys

from bench.results.store import read_rows
from tests.bench.conftest import tiny_checkpoint as tiny_checkpoint
from tests.components import need_compiler

_GRID = """
[settings]
compile = true
repeats = 2
epochs = 1
max_train = 192
max_dev = 32
max_length = 24
[[cells]]
mode = ["dora"]
rank = [4]
layers = ["all-lin-only"]
amp = ["bf16"]
"""
_MOST = 0.2


def test_the_second_cell_compiles_in_a_fifth_of_the_time_to_the_same_numbers(
    benchmark, tiny_checkpoint, tmp_path
):
    need_compiler()
    (tmp_path / "grid.toml").write_text(_GRID)
    argv = [
        *(sys.executable, "-m", "bench.grid", "--grid", "grid.toml", "--device", "cpu"),
        *("--model", str(tiny_checkpoint)),
    ]
    environment = {**os.environ, "MINBERT_BENCH_LOCKS": str(tmp_path / "locks")}

    def run():
        ran = subprocess.run(
            argv, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr[-2000:]

    benchmark.pedantic(run, rounds=1, iterations=1)
    cold, warm = read_rows(tmp_path / "runs.csv")
    assert (cold.compile_cached, warm.compile_cached) == (0, 1)
    for name in ("train_loss", "train_score", "dev_loss"):
        assert cold[name] == warm[name] is not None
    ratio = (warm.compile_s or 0) / (cold.compile_s or 0)
    benchmark.extra_info.update(cold_s=cold.compile_s, warm_s=warm.compile_s, ratio=ratio)
    assert 0 < ratio <= _MOST
