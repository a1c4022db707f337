"""Fixtures of the tests of ensembles and updates."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.ensembles import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    """A function that returns the JSON that the command printed."""
    return lambda: json.loads(capsys.readouterr().out)
