"""Virtual environments with plugins, and commands that run in them."""

import json
import os
import runpy
import subprocess
import sys
import venv
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Final

from click.testing import CliRunner

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final = ROOT / "tests" / "plugins" / "scale"
_PIP: Final = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
               "--disable-pip-version-check", "--no-compile", "--target")  # fmt: skip


def environment(folder: Path, project: Path) -> Path:
    """The interpreter of a new environment with a project; it sees what this one does but onnx."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    [packages] = folder.glob("lib/python*/site-packages")
    paths = [str(ROOT), *(path for path in sys.path if path.endswith("-packages"))]
    hidden = "import sys; sys.modules['onnx'] = None"  # whose export takes most of the time
    (packages / "others.pth").write_text("\n".join([*paths, hidden]) + "\n")
    done = run(sys.executable, *_PIP, packages, project, stderr=-1)
    assert done.returncode == 0, done.stderr
    return folder / "bin" / "python"


def declare(folder: Path, name: str, points: str, **modules: str) -> None:
    """A distribution in a folder for PYTHONPATH, with its entry_points.txt and its modules."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)


def run(python: Path | str, *words: object, how: Any = subprocess.run, **options: Any) -> Any:
    """A command in an environment, without variables of an earlier test; `how` starts it."""
    ours = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    ours |= options.pop("env", {})
    return how([str(python), *map(str, words)], text=True, stdout=-1, env=ours, **options)


def serve() -> None:
    """Run commands, each a line of JSON, in this process, and answer with what they write."""
    from tests.bench.grids import all_here

    for line in sys.stdin:
        real, *sys.argv = json.loads(line)
        place = nullcontext() if real else all_here()  # of what a command starts
        with place, suppress(SystemExit), CliRunner().isolation() as (out, err, _):
            runpy.run_module(sys.argv[0], run_name="__main__")
        print(json.dumps([each.getvalue().decode() for each in (out, err)]), flush=True)


if __name__ == "__main__":
    serve()
