"""Fixtures of the tests of ensembles and updates."""

import json

import pytest

from tests.bench.ensembles import Place


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture
def printed(capsys):
    """A function that returns the JSON that the command printed."""
    return lambda: json.loads(capsys.readouterr().out)
