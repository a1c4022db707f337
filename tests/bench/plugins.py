"""Virtual environments with plugins, and commands that run in them; started as a program, such an
environment runs the commands that it reads, all in its process, and cells and exports there too."""

import json
import os
import runpy
import subprocess
import sys
import venv
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any, Final
from unittest import mock

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
    argv = [sys.executable, *_PIP, str(packages), str(project)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "bin" / "python"


def declare(folder: Path, name: str, points: str, **modules: str) -> Path:
    """A distribution in a folder for PYTHONPATH, with its entry_points.txt and its modules."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)
    return folder


def run(
    python: Path, *arguments: object, cwd: Path | None = None, **environment: Any
) -> subprocess.CompletedProcess[str]:
    """A command in an environment, once it has ended, without variables of an earlier test."""
    return subprocess.run(
        [str(python), *map(str, arguments)], capture_output=True, text=True, check=False,
        timeout=600, cwd=cwd, env=_ours() | environment,
    )  # fmt: skip


def start(python: Path, cwd: Path, **environment: Any) -> subprocess.Popen[str]:
    """This program in an environment."""
    argv, pipe = [str(python), "-m", __name__], subprocess.PIPE
    return subprocess.Popen(
        argv, text=True, stdin=pipe, stdout=pipe, cwd=cwd, env=_ours() | environment
    )


def _ours() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}


def serve() -> None:
    """For each command, a list of words on a line, a line with what it writes to each stream."""
    from tests.bench.export.small import answer_here
    from tests.bench.grids import workers_here

    for line in sys.stdin:
        sys.argv = json.loads(line)
        with (
            workers_here(),
            mock.patch("bench.export.check.run_fresh", answer_here),
            mock.patch("bench.export.figures.run_fresh", answer_here),
            redirect_stdout(TextIOWrapper(BytesIO())) as out,
            redirect_stderr(StringIO()) as err,
            suppress(SystemExit),
        ):
            runpy.run_module(sys.argv[0], run_name="__main__")
        out.flush()
        print(json.dumps([out.buffer.getvalue().decode(), err.getvalue()]), flush=True)


if __name__ == "__main__":
    serve()
