"""Fixtures that more than one room's tests use."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the embedded default's real checkpoint, fetched on first use."""
    from minbert.assets import fetch

    return fetch("minilm")
