"""Files of a cell have the permissions of any other new file, so that others can read them."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest

ROOT = Path(__file__).parents[3]
SAVE = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np, torch
from bench.worker.saving import save_predictions, save_weights

os.umask(int(sys.argv[1], 8))
split = SimpleNamespace(labels=np.arange(2), mean=0.0, std=1.0)
folder = Path(sys.argv[2])
save_predictions(folder, {"": split}, {"": np.zeros((2, 2), np.float32)}, {}, {})
model = torch.nn.Linear(2, 2)
model.fixed_tensors = dict
save_weights(model, model.parameters(), folder)
(folder / "any").touch()
"""
READ = """
import os, sys
from safetensors import safe_open

os.setgid(65534), os.setuid(65534)
print(*safe_open(sys.argv[1], "np").keys())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can read; pytest's own they can't."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    rmtree(path)


@pytest.mark.parametrize("umask", ["077", "022", "000"])
def test_files_of_safetensors_have_the_usual_permissions(folder: Path, umask: str) -> None:
    subprocess.run([sys.executable, "-c", SAVE, umask, folder], check=True, cwd=ROOT)
    names = ("predictions.safetensors", "weights.safetensors")
    modes = {name: (folder / name).stat().st_mode & 0o777 for name in (*names, "any")}
    assert set(modes.values()) == {0o666 & ~int(umask, 8)}, modes
    if os.getuid() != 0:
        pytest.skip("reading as another user takes root")
    done = subprocess.run(
        [sys.executable, "-c", READ, folder / names[0]], capture_output=True, text=True, check=False
    )
    if umask == "077":
        assert done.returncode != 0
    else:
        assert "logits" in done.stdout, done.stderr
