"""A small checkpoint."""

import json
from dataclasses import asdict

import pytest

from tests.minbert.model.test_checkpoint import CONFIG, TOKENS, tensors, write


@pytest.fixture
def folder(tmp_path):
    """The folder of a whole checkpoint."""
    made = tmp_path / "checkpoint"
    made.mkdir()
    (made / "config.json").write_text(json.dumps({"model_type": "bert", **asdict(CONFIG)}))
    (made / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    write(made, tensors())
    return made
