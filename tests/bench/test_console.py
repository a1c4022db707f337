"""The console command `minbert-bench`, also in a folder of somebody's results and modules."""

import os
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from bench.console import COMMANDS
from bench.machine.conditions import find_conditions
from bench.plan.rows import SCHEMA
from tests.bench.synthetic_rows import synthetic_rows, write_rows

ROOT = Path(__file__).parents[2]
SCRIPT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["minbert-bench"]
START = "from {} import {}; sys.exit({}())".format(*SCRIPT.split(":"), SCRIPT.split(":")[1])


def script(path, code):
    path.write_text(f"#!{sys.executable}\nimport re, sys\n{code}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def console(tmp_path_factory):
    return script(tmp_path_factory.mktemp("bin") / "minbert-bench", START)


@pytest.fixture
def place(tmp_path, tmp_path_factory, monkeypatch):
    """The current folder, with results, and modules that leave a file if a process imports them."""
    for name in ("adapters", "bench", "click", "minbert", "numpy", "pip", "torch"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'PWNED')!r}, 'a')")
    write_rows(tmp_path / "runs.csv", synthetic_rows(4))
    monkeypatch.chdir(tmp_path)
    for name in ("PYTHONPATH", "PYTHONSAFEPATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MINBERT_BENCH_LOCKS", str(tmp_path_factory.mktemp("locks")))
    return tmp_path


def run(*words, **options):
    return subprocess.run(
        [*map(str, words)], capture_output=True, text=True, check=False, timeout=300, **options
    )


def test_what_is_printed_is_short_and_help_lists_every_command_and_is_quick(console, place):
    done = run(console, "report", "--runs", "no.csv")
    error = "error: no.csv: no such file of results; name one with --runs\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", error)
    done = run(console, "nothing")
    assert (done.returncode, done.stderr) == (2, "error: No such command 'nothing'.\n")
    done = run(console)
    assert (done.returncode, done.stderr) == (0, "")
    shown = re.findall(r"^minbert-bench (\w+)", done.stdout, re.MULTILINE)
    assert shown == ["run", "recommend", "export"]
    assert max(map(len, done.stdout.splitlines())) <= 100
    done = run(console, "--version")
    here, cuda = find_conditions("cpu").conditions, torch.version.cuda or "none"
    assert done.stdout == (
        f"minbert-bench {here.code_version}\n"
        f"measurement {here.measurement_version}, schema {SCHEMA}\n"
        f"Python {platform.python_version()}, torch {here.torch_version}, CUDA {cuda}\n"
    ), "the versions of a row"
    assert not (place / "PWNED").exists()

    code = f"import sys; sys.argv = ['x', '--help']; from {SCRIPT.split(':')[0]} import main\n"
    code += "try: main()\nfinally: print(sorted(sys.modules))"
    done = run(sys.executable, "-P", "-c", code, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert "'click'" in done.stdout
    assert not re.search(r"'(torch|numpy|pandas|pydantic|bench\.(plan|grid)\..*)'", done.stdout)
    for name in COMMANDS:
        assert re.search(rf"^  {name}  +[A-Z]", done.stdout, re.MULTILINE), name
    modules = {path.stem for path in (ROOT / "bench").glob("[!_]*.py")} - {"console", "loaded"}
    modules |= {path.parent.name for path in (ROOT / "bench").glob("*/__main__.py")} - {"worker"}
    assert {"run" if name == "grid" else name for name in modules} <= {*COMMANDS}


def test_a_shell_completes_commands_and_options(console, place):
    for words, names in (("", {*COMMANDS}), ("rec", {"recommend"}), ("run --sha", {"--shard"})):
        given = ["minbert-bench", *words.split(" ")]
        env = {
            **os.environ, "_MINBERT_BENCH_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(given), "COMP_CWORD": str(len(given) - 1),
        }  # fmt: skip
        lines = run(console, env=env).stdout.splitlines()
        assert {line.partition(",")[2] for line in lines} == names
    assert not (place / "PWNED").exists()


HELP_OF_ALL = """
import contextlib, io
from bench.console import COMMANDS, main
words = sys.argv
for name in COMMANDS:
    sys.argv = ["minbert-bench", name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        main()
    assert text.getvalue().startswith(f"Usage: minbert-bench {name} "), text.getvalue()
    assert not re.search(r"python -m|\\bbench\\.[a-z]", text.getvalue())
sys.argv = words
"""


def test_nothing_beside_the_results_is_imported(console, place, tiny_checkpoint):
    lean = f"{HELP_OF_ALL}sys.path.append({str(ROOT)!r})\n"
    lean += "from tests.bench.grids import without_extras\n"
    lean += f"with without_extras(forecast=True):\n    {START}"
    console = script(console.with_name("lean"), lean)
    small = ("--max-train", "16", "--max-dev", "8", "--max-steps", "1", "--device", "cpu")
    grid = ("run", "--grid", "smoke", "--select", "mode=head amp=off", "--model", tiny_checkpoint)
    done = run(console, *grid, *small, "--runs", "own.csv")
    assert done.returncode == 0, done.stderr
    assert "  minbert-bench run --grid smoke" in done.stdout
    assert "python -m" not in done.stdout + done.stderr
    assert "python -m bench.grid" in (place / "reports" / "report.md").read_text()
    assert not (place / "PWNED").exists()


def test_children_of_a_checkout_import_its_code(tmp_path, monkeypatch):
    for name in ("bench", "adapters", "minbert", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("PYTHONPATH", "PYTHONSAFEPATH"):
        monkeypatch.delenv(name, raising=False)
    code = "import click, subprocess, sys; from bench.common.command import run_command\n"
    code += "argv = [sys.executable, '-c', 'import bench; print(bench.__file__)']\n"
    code += "run_command(click.Command('x', callback=lambda: subprocess.call(argv)), 'x')"
    done = run(sys.executable, "-c", code, cwd=tmp_path)
    assert done.stdout == f"{tmp_path}/bench/__init__.py\n", done.stderr
