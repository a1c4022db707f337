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

split = SimpleNamespace(labels=np.arange(2), mean=0.0, std=1.0)
model = torch.nn.Linear(2, 2)
model.fixed_tensors = dict
for umask in sys.argv[2:]:
    folder = Path(sys.argv[1], umask)
    folder.mkdir()
    folder.chmod(0o755)
    os.umask(int(umask, 8))
    save_predictions(folder, {"": split}, {"": np.zeros((2, 2), np.float32)}, {}, {}, {})
    save_weights(model, model.parameters(), folder)
    (folder / "any").touch()
"""
READ = """
import os, sys
import numpy  # before the other user, who may not read where it is
from safetensors import safe_open

os.setgid(65534), os.setuid(65534)
for path in sys.argv[1:]:
    try:
        print(*sorted(safe_open(path, "np").keys()))
    except OSError:
        print("refused")
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users can read; pytest's own they can't."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    rmtree(path)


def test_files_of_safetensors_have_the_usual_permissions(folder: Path) -> None:
    umasks = ("077", "022", "000")
    subprocess.run([sys.executable, "-c", SAVE, folder, *umasks], check=True, cwd=ROOT)
    predictions = "predictions.safetensors"
    for umask in umasks:
        names = (predictions, "weights.safetensors", "any")
        modes = {name: (folder / umask / name).stat().st_mode & 0o777 for name in names}
        assert set(modes.values()) == {0o666 & ~int(umask, 8)}, modes
    if os.getuid() != 0:
        pytest.skip("reading as another user takes root")
    done = subprocess.run(
        [sys.executable, "-c", READ, *(folder / umask / predictions for umask in umasks)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["refused", "labels logits", "labels logits"]
