"""Rooms import only what is below them, and planning loads no torch, which running it shows."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import components

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "bench.grid.__main__", "bench.results.rebuild", "bench.forecast.__main__",
    "bench.data.__main__", "bench.ensemble", "bench.updates",
    "bench.report.__main__", "minbert.assets.__main__", "bench.export.__main__", "bench.predict",
    "bench.export.formats", "bench.doctor.__main__", "bench.compare.__main__",
)  # fmt: skip
HEAVY = {"torch", "transformers", "peft", "sklearn", "scipy", "matplotlib"}


def test_imports_keep_the_contracts():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_commands_start_and_plan_without_heavy_libraries(tmp_path):
    """And what trains the chosen setting draws nothing."""
    arguments = ["--grid", "smoke", "--dry-run", "--runs", str(tmp_path / "runs.csv")]
    code = f"""
import importlib, sys
for module in {COMMANDS}:
    importlib.import_module(module)
    assert not {HEAVY} & sys.modules.keys(), module
import bench.report.final
assert "matplotlib" not in sys.modules
from bench.forecast import client
from bench.grid.__main__ import command
client.ask = lambda *_, **__: iter(())  # by a process that loads torch
command({arguments}, standalone_mode=False)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=-1, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("required", "component", "outcome"), [
    (set(), "shared", pytest.skip.Exception),
    (set(), None, pytest.skip.Exception),
    ({"chromium"}, "shared", pytest.skip.Exception),
    ({"chromium", "shared"}, "shared", pytest.fail.Exception),
    ({"chromium"}, None, pytest.fail.Exception),
    ({"chromium"}, "shard", ValueError),
])  # fmt: skip
def test_what_is_missing_skips_or_fails(monkeypatch, required, component, outcome):
    """Where CI requires a component, a test that lacks it fails instead of passing unseen."""
    monkeypatch.setattr(components, "REQUIRED", required)
    with pytest.raises(outcome):
        components.need(False, "not there", component=component)
    components.need(True, "there", component=component)
    monkeypatch.setenv("MINBERT_BENCH_REQUIRE", "chromium,shard")
    with pytest.raises(ValueError, match="shard"):
        components._required()
