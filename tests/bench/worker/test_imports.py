"""A worker's imports: all at once, and nothing that only some cells need."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.forecast import client

CODE = """
import gc, json, sys
from bench.worker.imports import import_all
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
    "files": sorted(module.__file__ for name, module in sys.modules.items()
                    if name.partition(".")[0] in ("adapters", "bench", "minbert")),
}))
"""


@pytest.fixture(scope="module")
def imported():
    """The output of a process that has imported everything."""
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=120
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_worker_imports_torch_without_searches_for_garbage_and_nothing_heavier(imported):
    assert imported["searches"] <= 3  # of code that asks for one itself
    assert imported["frozen"] > 100_000
    assert imported["enabled"]
    assert imported["heavy"] == []
    assert imported["has"] == ["bench.worker.run", "numpy", "torch"]


def test_memory_of_imports_is_measured_again_when_any_imported_module_has_changed(
    imported, tmp_path, monkeypatch
):
    root = Path(client.__file__).parents[2]
    names = [Path(file).relative_to(root) for file in imported["files"]]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr(client, "_ROOT", tmp_path)
    keys = set()
    for name in [None, *names]:
        if name is not None:
            (tmp_path / name).write_text("changed = True\n")
        client._code.cache_clear()
        keys.add(client._code())
    client._code.cache_clear()
    assert len(names) > 50
    assert len(keys) == 1 + len(names)
