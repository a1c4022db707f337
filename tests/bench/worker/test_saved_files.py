"""Files of a cell have the permissions of any other new file, so that others can read them."""

import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from bench.worker.saving import save_predictions, save_weights


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o000])
def test_files_of_safetensors_have_the_usual_permissions(tmp_path, umask):
    split: Any = SimpleNamespace(labels=np.arange(2), mean=0.0, std=1.0)
    model: Any = nn.Linear(2, 2)
    model.fixed_tensors = dict
    before = os.umask(umask)
    try:
        save_predictions(tmp_path, {"": split}, {"": np.zeros((2, 2), np.float32)}, {}, {}, {})
        save_weights(model, model.parameters(), tmp_path)
    finally:
        os.umask(before)
    for name in ("predictions.safetensors", "weights.safetensors"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask, name
