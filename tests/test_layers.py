"""Rooms import only what stands below them, and commands start without torch.

The contracts on imports are in pyproject.toml. They count imports inside functions too, so that
planning loads no torch is shown by running it.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "bench.grid.__main__", "bench.results.rebuild", "bench.forecast.__main__",
    "bench.data.__main__", "bench.ensemble", "bench.updates",
    "bench.report.__main__", "minbert.assets.__main__", "bench.export.__main__", "bench.predict",
    "bench.export.formats", "bench.doctor.__main__", "bench.compare.__main__",
)  # fmt: skip
HEAVY = {"torch", "transformers", "peft", "sklearn", "scipy", "matplotlib"}


def loaded(code):
    """Heavy libraries that a process has loaded once it has run some code."""
    code += f"\nimport sys\nprint(*({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_imports_keep_the_contracts():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_commands_start_without_heavy_libraries():
    code = "import importlib, sys\n"
    code += f"for module in {COMMANDS}:\n    importlib.import_module(module)\n"
    code += f"    assert not {HEAVY} & sys.modules.keys(), module"
    assert not loaded(code)


def test_what_trains_the_chosen_setting_draws_nothing():
    assert "matplotlib" not in loaded("import bench.report.final")


def test_planning_loads_no_torch(tmp_path):
    arguments = ["--grid", "smoke", "--dry-run", "--runs", str(tmp_path / "runs.csv")]
    code = "from bench.forecast import client\nfrom bench.grid.__main__ import command\n"
    code += "client.ask = lambda *_, **__: iter(())\n"  # by a process that loads torch
    assert "torch" not in loaded(f"{code}command({arguments}, standalone_mode=False)")
