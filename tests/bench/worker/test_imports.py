"""A worker's imports: all at once, and nothing that only some cells need."""

import json
import subprocess
import sys

CODE = """
import gc, json, sys
from bench.worker.process import import_all
began = gc.get_stats()
import_all()
ended = gc.get_stats()
print(json.dumps({
    "searches": sum(e["collections"] - b["collections"] for b, e in zip(began, ended)),
    "frozen": gc.get_freeze_count(),
    "enabled": gc.isenabled(),
    "heavy": sorted({"tokenizers", "transformers", "scipy", "pandas", "matplotlib", "pydantic",
                     "rich", "torch._dynamo"} & sys.modules.keys()),
    "has": sorted({"torch", "numpy", "bench.worker.run"} & sys.modules.keys()),
}))
"""


def test_a_worker_imports_torch_without_searches_for_garbage_and_nothing_heavier():
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=120
    )
    imported = json.loads(done.stdout)
    assert imported["searches"] <= 3  # of code that asks for one itself
    assert imported["frozen"] > 100_000
    assert imported["enabled"]
    assert imported["heavy"] == []
    assert imported["has"] == ["bench.worker.run", "numpy", "torch"]
