"""Virtual environments with plugins, and commands that run in them."""

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any, Final

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
    ours = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    return subprocess.run(
        [str(python), *map(str, arguments)], capture_output=True, text=True, check=False,
        timeout=600, cwd=cwd, env=ours | environment,
    )  # fmt: skip
